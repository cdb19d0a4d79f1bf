// SPDX-License-Identifier: Apache-2.0
// Picks XXH3 for this processor, once.  A variant is offered only when the processor, and the operating system for the
// wide registers, has what its file is compiled for in cmake/layers.cmake.
#include "common/xxh3.h"

#include <xxhash.h>

#include <array>

namespace weightfs {
namespace {

uint64_t hash64(const void* bytes, size_t size) { return XXH3_64bits(bytes, size); }

void update128(void* state, const void* bytes, size_t size) {
  XXH3_128bits_update(static_cast<XXH3_state_t*>(state), bytes, size);
}

constexpr size_t kVariants = 3;

size_t variants_that_run() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2")) return 1;
  return __builtin_cpu_supports("avx512f") ? 3 : 2;
}

}  // namespace

constexpr Xxh3Functions kXxh3Sse2{"sse2", hash64, update128};

std::span<const Xxh3Functions* const> all_xxh3_functions() {
  static constexpr std::array<const Xxh3Functions*, kVariants> kAll = {&kXxh3Sse2, &kXxh3Avx2, &kXxh3Avx512};
  static const size_t count = variants_that_run();
  return std::span(kAll).first(count);
}

const Xxh3Functions& xxh3_functions() {
  static const Xxh3Functions& fastest = *all_xxh3_functions().back();
  return fastest;
}

}  // namespace weightfs
