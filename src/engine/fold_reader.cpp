// SPDX-License-Identifier: Apache-2.0
#include "engine/fold_reader.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/digest.h"
#include "common/text.h"

namespace weightfs {

Result<std::shared_ptr<const FoldReader::Change>> FoldReader::change(const Fold& fold, size_t object) {
  const CacheKey key{static_cast<uint32_t>(object), fold.delta().serial(), 0, CacheKind::kFold};
  for (;;) {
    if (auto found = cache_.find<Change>(key)) return found;
    const auto lease = flights_.claim(key);
    if (!lease) continue;
    if (auto found = cache_.find<Change>(key)) return found;
    auto change = std::make_shared<Change>();
    change->patch = TRY(fold.delta().find(*fold.tree, object, true, heads_));
    if (change->patch) {
      change->table = change->patch->take_table();
      if (!change->table) change->table = TRY(change->patch->load_table(heads_));
    }
    cache_.insert(key, change, kEntryCost + sizeof(Change) + (change->table ? change->table->cost() : 0));
    return std::shared_ptr<const Change>(std::move(change));
  }
}

Status FoldReader::decode(const Fold& fold, const Change& change, const CodedBlock& block, MutableBytes bytes) const {
  TRY(change.patch->decode(*change.table, block, bytes, bytes));
  const uint64_t found = xxh3_64(bytes);
  if (found == block.digest) return {};
  return Error{ErrorCode::kNativeDigest,
               fmt::format("{}: block {}: the XXH3-64 digest should be {:016x} but is {:016x}",
                           quote(fold.delta().folder()), block.index, block.digest, found)};
}

Status FoldReader::apply(const Fold& fold, size_t tensor, uint64_t bytes, uint64_t offset, MutableBytes out) {
  const auto change = TRY(this->change(fold, (*fold.objects)[tensor]));
  if (!change->patch) return {};
  const uint64_t block_bytes = change->patch->block_bytes();
  for (uint64_t at = 0; at < out.size(); at += block_bytes) {
    const uint64_t index = (offset + at) / block_bytes;
    const uint64_t size = std::min(block_bytes, bytes - index * block_bytes);
    if ((offset + at) % block_bytes != 0 || size > out.size() - at) {
      return Error{ErrorCode::kNativeBlock,
                   fmt::format("{}: blocks of {} bytes are too large", quote(fold.delta().folder()), block_bytes)};
    }
    const CodedBlock* const block = change->table->find(index);
    if (block != nullptr) TRY(decode(fold, *change, *block, out.subspan(at, size)));
  }
  return {};
}

}  // namespace weightfs
