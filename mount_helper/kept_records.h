// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "attach/channel.h"
#include "common/descriptor.h"

namespace weightfs::helper {

/// What a daemon has left for the next one.  Means nothing to us.  Thread-compatible.
class KeptRecords {
 public:
  /// A daemon gone wrong must not eat our memory or descriptors: what is beyond is not kept.
  static constexpr size_t kMostRecords = 1u << 17;
  static constexpr size_t kMostFiles = 1u << 14;

  /// A message kKeep or kForget.
  void take(Message message);
  /// Says all of it; false when the channel is closed.
  bool hand_over(const Channel& channel) const;
  /// Those whose key begins like that.
  void forget_all(std::string_view prefix);
  void clear() {
    records_.clear();
    files_ = 0;
  }
  size_t size() const { return records_.size(); }

 private:
  struct Record {
    std::string bytes;
    Descriptor file;
  };

  void erase(const std::string& key);

  std::map<std::string, Record> records_;
  size_t files_ = 0;
};

}  // namespace weightfs::helper
