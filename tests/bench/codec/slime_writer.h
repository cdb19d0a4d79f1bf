// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "common/result.h"

namespace weightfs::bench {

struct SlimeWrite {
  double seconds = 0;          ///< from two files in the page cache to the closed file
  double seconds_durable = 0;  ///< and until fsync of it has returned
  uint64_t bytes = 0;
};

/// slime's writer, written anew: for every tensor new ^ old in zstd-1 and XXH3-128 of the new bytes, tensors spread
/// over `threads` threads, then one file with all frames behind each other.  Both checkpoints are mapped, not read.
Result<SlimeWrite> write_like_slime(const std::string& old_file, const std::string& new_file,
                                    const std::string& out_file, unsigned threads);

}  // namespace weightfs::bench
