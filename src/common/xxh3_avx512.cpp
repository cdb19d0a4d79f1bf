// SPDX-License-Identifier: Apache-2.0
// XXH3 for AVX-512: xxhash.h picks its vectors by what this file is compiled for (cmake/layers.cmake).
// Nothing but functions that are this file's own may be used here: any other could be what the linker keeps for all.
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

uint64_t hash64(const void* bytes, size_t size) { return XXH3_64bits(bytes, size); }

void update128(void* state, const void* bytes, size_t size) {
  XXH3_128bits_update(static_cast<XXH3_state_t*>(state), bytes, size);
}

}  // namespace

constexpr Xxh3Functions kXxh3Avx512{"avx512", hash64, update128};

}  // namespace weightfs
