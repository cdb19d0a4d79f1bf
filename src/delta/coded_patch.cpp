// SPDX-License-Identifier: Apache-2.0
#include "delta/coded_patch.h"

#include <algorithm>

namespace weightfs {

const CodedBlock* BlockTable::find(uint64_t index) const {
  const auto found = std::lower_bound(blocks_.begin(), blocks_.end(), index,
                                      [](const CodedBlock& block, uint64_t key) { return block.index < key; });
  return found == blocks_.end() || found->index != index ? nullptr : &*found;
}

const codec::BlockParams& BlockTable::params(const CodedBlock& block) const {
  return params_[params_of_[static_cast<size_t>(&block - blocks_.data())]];
}

uint64_t BlockTable::cost() const {
  return sizeof(*this) + blocks_.capacity() * sizeof(CodedBlock) + params_.capacity() * sizeof(codec::BlockParams) +
         params_of_.capacity() * sizeof(uint32_t);
}

}  // namespace weightfs
