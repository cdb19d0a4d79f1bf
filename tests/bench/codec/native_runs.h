// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include "bench/codec/file_pair.h"

namespace weightfs::bench {

/// Our codec on the touched blocks of a pair, at one block size: sizes, encoding time, and decoding speed at every
/// kernel level of this processor.  Every block is decoded once at every level and compared; a difference ends the
/// program with an error.
nlohmann::json run_native(const std::vector<Piece>& tensors, uint64_t block_bytes, unsigned passes);

/// The same with one exponent class, the coding that looks at no parent for positions ("head encoding").
nlohmann::json run_single_class(const std::vector<Piece>& tensors, uint64_t block_bytes, unsigned passes);

/// All blocks without a parent, as in a store that keeps its base.
nlohmann::json run_without_parent(const std::vector<Piece>& tensors, uint64_t block_bytes, unsigned passes);

/// memcpy of the parents of the touched blocks into one buffer that is used again.
nlohmann::json run_memcpy(const std::vector<Piece>& tensors, uint64_t block_bytes, unsigned passes);

/// Every published format: size as published, and encoding and decoding speed on the same blocks.
nlohmann::json run_published(const std::vector<Piece>& tensors, uint64_t block_bytes, unsigned passes);

}  // namespace weightfs::bench
