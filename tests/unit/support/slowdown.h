// SPDX-License-Identifier: Apache-2.0
#pragma once

// GCC says by macros that a sanitizer is in, Clang by features.
#if defined(__has_feature)
#define WEIGHTFS_TEST_HAS_FEATURE(name) __has_feature(name)
#else
#define WEIGHTFS_TEST_HAS_FEATURE(name) 0
#endif

namespace weightfs::test {

/// About how many times as long a test takes here that mostly moves bytes: divide repetitions by it.
#if defined(__SANITIZE_THREAD__) || WEIGHTFS_TEST_HAS_FEATURE(thread_sanitizer)
inline constexpr int kSlowdown = 4;
#elif defined(__SANITIZE_ADDRESS__) || WEIGHTFS_TEST_HAS_FEATURE(address_sanitizer)
inline constexpr int kSlowdown = 2;
#else
inline constexpr int kSlowdown = 1;
#endif

}  // namespace weightfs::test

#undef WEIGHTFS_TEST_HAS_FEATURE
