// SPDX-License-Identifier: Apache-2.0
// The ring of rendered control files.  What must stay true: a reader sees one consistent text from its
// first byte to its last, or an error: there is one as long as fewer than kKept files were opened meanwhile.
// A number that another process gave out is never mistaken for one of ours.
#include "vfs/control_handles.h"

#include <chrono>

namespace weightfs {

// Numbers go on from the time of day in nanoseconds: a former process cannot have given out that many.
ControlHandles::ControlHandles()
    : next_handle_(
          static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch() / std::chrono::nanoseconds(1))) {}

uint64_t ControlHandles::add(uint64_t node, std::string text) {
  auto shared = std::make_shared<const std::string>(std::move(text));
  const std::lock_guard lock(mutex_);
  const uint64_t handle = next_handle_++;
  keep(node, handle, std::move(shared));
  return handle;
}

ControlHandles::Text ControlHandles::get(uint64_t node, uint64_t handle, uint64_t offset,
                                         const std::function<std::string()>& render) {
  {
    const std::lock_guard lock(mutex_);
    if (auto text = find(node, handle)) return text;
  }
  if (offset != 0) return nullptr;
  auto fresh = std::make_shared<const std::string>(render());  // outside the lock: it may take its time
  const std::lock_guard lock(mutex_);
  if (auto text = find(node, handle)) return text;  // another thread was faster; both must answer alike
  keep(node, handle, fresh);
  return fresh;
}

ControlHandles::Text ControlHandles::find(uint64_t node, uint64_t handle) const {
  for (const Slot& slot : slots_) {
    if (slot.text && slot.node == node && slot.handle == handle) return slot.text;
  }
  return nullptr;
}

void ControlHandles::keep(uint64_t node, uint64_t handle, Text text) {
  slots_[next_slot_] = {node, handle, std::move(text)};
  next_slot_ = (next_slot_ + 1) % kKept;
}

}  // namespace weightfs
