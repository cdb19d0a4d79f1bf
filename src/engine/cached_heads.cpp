// SPDX-License-Identifier: Apache-2.0
#include "engine/cached_heads.h"

namespace weightfs {

Result<IndexHeads::Head> CachedHeads::get(uint32_t serial, uint64_t bytes, const Read& read) {
  const CacheKey key{0, serial, 0, CacheKind::kIndexHead};
  for (;;) {
    if (auto found = cache_.find<IndexHead>(key)) return found;
    const auto lease = flights_.claim(key);
    if (!lease) continue;
    if (auto found = cache_.find<IndexHead>(key)) return found;
    const auto reading = cache_.reserve(2 * bytes);  // the bytes as they are in the file, and the head
    auto head = TRY(read());
    cache_.insert(key, head, bytes + kEntryCost);
    return head;
  }
}

}  // namespace weightfs
