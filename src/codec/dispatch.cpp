// SPDX-License-Identifier: Apache-2.0
// Picks the kernels for this processor, once.  A level is offered only when the processor (and the
// operating system, for the wide registers) has every feature that its file is compiled for in
// cmake/layers.cmake; keep the two lists together.
#include <cpuid.h>

#include <cstdlib>

#include "codec/kernels_block_common.h"
#include "codec/kernels_common.h"

namespace weightfs::codec {
namespace {

/// LZCNT has no name in clang's __builtin_cpu_supports.
bool has_lzcnt() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(0x80000001u, &eax, &ebx, &ecx, &edx) != 0 && (ecx & (1u << 5)) != 0;
}

bool has_avx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
         __builtin_cpu_supports("popcnt") && has_lzcnt();
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2");
}

const Kernels& choose() {
  if (const char* forced = std::getenv("WEIGHTFS_ISA")) {
    if (const auto level = parse_level(forced)) {
      if (const Kernels* table = kernels_for(*level)) return *table;
    }
  }
  for (const Level level : {Level::kAvx512, Level::kAvx2}) {
    if (const Kernels* table = kernels_for(level)) return *table;
  }
  return kScalarKernels;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

const Kernels* kernels_for(Level level) {
  static const bool avx2 = has_avx2();
  static const bool avx512 = has_avx512();
  switch (level) {
    case Level::kAvx512:
      return avx512 ? &kAvx512Kernels : nullptr;
    case Level::kAvx2:
      return avx2 ? &kAvx2Kernels : nullptr;
    case Level::kScalar:
      break;
  }
  return &kScalarKernels;
}

const BlockKernels& block_kernels() {
  static const BlockKernels& chosen = *block_kernels_for(kernels().level);
  return chosen;
}

const BlockKernels* block_kernels_for(Level level) {
  if (kernels_for(level) == nullptr) return nullptr;
  switch (level) {
    case Level::kAvx512:
      return &kAvx512BlockKernels;
    case Level::kAvx2:
      return &kAvx2BlockKernels;
    case Level::kScalar:
      break;
  }
  return &kScalarBlockKernels;
}

std::string_view level_name(Level level) {
  switch (level) {
    case Level::kAvx512:
      return "avx512";
    case Level::kAvx2:
      return "avx2";
    case Level::kScalar:
      break;
  }
  return "scalar";
}

std::optional<Level> parse_level(std::string_view name) {
  for (const Level level : {Level::kScalar, Level::kAvx2, Level::kAvx512}) {
    if (name == level_name(level)) return level;
  }
  return std::nullopt;
}

}  // namespace weightfs::codec
