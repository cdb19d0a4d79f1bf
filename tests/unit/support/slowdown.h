// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace weightfs::test {

/// About how many times as long a test takes here that mostly moves bytes: divide repetitions by it.
#if defined(__SANITIZE_THREAD__)
inline constexpr int kSlowdown = 4;
#elif defined(__SANITIZE_ADDRESS__)
inline constexpr int kSlowdown = 2;
#else
inline constexpr int kSlowdown = 1;
#endif

}  // namespace weightfs::test
