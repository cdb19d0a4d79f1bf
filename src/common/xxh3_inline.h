// SPDX-License-Identifier: Apache-2.0
// For xxh3_*.cpp alone: XXH3 with the vectors that the including file is compiled for (cmake/layers.cmake).  Nothing
// but functions that are that file's own may be used there: any other could be what the linker keeps for all.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
// GCC's own headers start "undefined" vectors from themselves (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/xxh3.h"

namespace weightfs {
namespace {

inline uint64_t hash64(const void* bytes, size_t size) { return XXH3_64bits(bytes, size); }

inline void update128(void* state, const void* bytes, size_t size) {
  XXH3_128bits_update(static_cast<XXH3_state_t*>(state), bytes, size);
}

}  // namespace
}  // namespace weightfs
