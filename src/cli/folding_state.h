// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace weightfs::cli {

/// How it goes with the folds of a mount (--cache), at one moment.
struct FoldingState {
  std::string path{};
  uint64_t limit = 0;     ///< bytes
  uint64_t bytes = 0;     ///< of the whole cache, which others may use, too
  uint64_t folds = 0;     ///< in it
  uint64_t in_use = 0;    ///< of those, which this mount reads by
  uint64_t made = 0;      ///< by this process
  uint64_t rejected = 0;  ///< could not be used, and were removed
  std::string making{};   ///< the version that one is being made for; empty: none is
  std::string problem{};  ///< why the last one was not made; empty: it was
};

}  // namespace weightfs::cli
