// SPDX-License-Identifier: Apache-2.0
#include "delta/index_heads.h"

namespace weightfs {

Result<IndexHeads::Head> LastIndexHead::get(uint32_t serial, uint64_t /*bytes*/, const Read& read) {
  const std::lock_guard lock(mutex_);
  if (head_ && serial_ == serial) return head_;
  head_ = TRY(read());
  serial_ = serial;
  return head_;
}

}  // namespace weightfs
