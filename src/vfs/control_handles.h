// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

namespace weightfs {

/// The last few texts that were rendered for readers of control files, by handle number.
/// A reader whose number is not among them (it is slow, or a new process took over) gets a new
/// rendering if it begins; the rest of another one would make no text with what it has.  Thread-safe.
class ControlHandles {
 public:
  using Text = std::shared_ptr<const std::string>;
  static constexpr size_t kKept = 32;

  ControlHandles();

  /// Keeps `text` and returns its number.
  uint64_t add(uint64_t node, std::string text);
  /// The text kept for this node under this number, to be read from `offset` on.  Where there is none: from 0 on
  /// `render()`, kept under that number from now on; else null.
  Text get(uint64_t node, uint64_t handle, uint64_t offset, const std::function<std::string()>& render);

 private:
  struct Slot {
    uint64_t node = 0;
    uint64_t handle = 0;
    Text text;
  };

  Text find(uint64_t node, uint64_t handle) const;
  void keep(uint64_t node, uint64_t handle, Text text);

  mutable std::mutex mutex_;
  std::array<Slot, kKept> slots_;
  size_t next_slot_ = 0;
  uint64_t next_handle_;
};

}  // namespace weightfs
