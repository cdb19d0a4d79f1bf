// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace weightfs {

/// XXH3 as compiled for one kind of processor.  The functions of xxhash.h of a distribution's libxxhash are those for
/// any processor, which take a third of the speed of these.  All give the same digests.
///
/// `state` is an XXH3_state_t: what these functions leave there, any of the others and libxxhash itself may go on with.
struct Xxh3Functions {
  const char* name;  ///< "sse2", "avx2", "avx512"
  uint64_t (*hash64)(const void* bytes, size_t size);
  void (*update128)(void* state, const void* bytes, size_t size);
};

/// The fastest for this processor.
const Xxh3Functions& xxh3_functions();
/// All that this processor can run, the fastest last.
std::span<const Xxh3Functions* const> all_xxh3_functions();

extern const Xxh3Functions kXxh3Sse2;
extern const Xxh3Functions kXxh3Avx2;
extern const Xxh3Functions kXxh3Avx512;

}  // namespace weightfs
