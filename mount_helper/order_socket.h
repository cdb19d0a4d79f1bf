// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "common/descriptor.h"
#include "common/result.h"

namespace weightfs::helper {

/// Where orders arrive; see attach/control_socket.h.  Thread-compatible; one order at a time, nobody can keep us
/// waiting.
class OrderSocket {
 public:
  static Result<OrderSocket> open(const std::string& path);
  OrderSocket(OrderSocket&&) = default;
  OrderSocket& operator=(OrderSocket&&) = default;
  ~OrderSocket();

  int event() const { return listener_.get(); }
  /// The next order; answer() goes to whoever gave it.  Nothing when there is none, or nobody may give it.
  std::optional<std::string> next();
  void answer(std::string_view text);
  /// True while somebody waits for an answer.
  bool is_asked() const { return static_cast<bool>(asker_); }

 private:
  OrderSocket(Descriptor listener, std::string path) : listener_(std::move(listener)), path_(std::move(path)) {}

  Descriptor listener_;
  std::string path_;
  Descriptor asker_;
};

}  // namespace weightfs::helper
