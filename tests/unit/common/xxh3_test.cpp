// SPDX-License-Identifier: Apache-2.0
#include "common/xxh3.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "common/digest.h"

namespace weightfs {
namespace {

// The bytes of the reference vectors of xxHash, tests/sanity_test: those that 32-bit steps of its generator give.
std::vector<unsigned char> reference_bytes(size_t count) {
  constexpr uint64_t kPrime32 = 2654435761U;
  constexpr uint64_t kPrime64 = 11400714785074694797ULL;
  std::vector<unsigned char> bytes(count);
  uint64_t generator = kPrime32;
  for (auto& byte : bytes) {
    byte = static_cast<unsigned char>(generator >> 56);
    generator *= kPrime64;
  }
  return bytes;
}

struct FreeState {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};
using State = std::unique_ptr<XXH3_state_t, FreeState>;

State fresh_state() {
  State state(XXH3_createState());
  XXH3_128bits_reset(state.get());
  return state;
}

std::string digest_of(const State& state) {
  const XXH128_hash_t hash = XXH3_128bits_digest(state.get());
  std::array<char, 33> text{};
  std::snprintf(text.data(), text.size(), "%016llx%016llx", static_cast<unsigned long long>(hash.high64),
                static_cast<unsigned long long>(hash.low64));
  return text.data();
}

/// Sizes at which XXH3 goes another way: short inputs, a stripe, a block, several of them, and what is left over.
std::vector<size_t> sizes() {
  std::vector<size_t> sizes;
  for (size_t size = 0; size <= 1300; ++size) sizes.push_back(size);
  for (const size_t block : {size_t{1024}, size_t{4096}, size_t{64} << 10, size_t{256} << 10}) {
    for (const size_t size : {block - 64, block - 1, block, block + 1, block + 63, 3 * block + 17}) {
      sizes.push_back(size);
    }
  }
  return sizes;
}

TEST(Xxh3, TheFastestIsUsedAndTheSlowestIsAlwaysThere) {
  const auto all = all_xxh3_functions();
  ASSERT_FALSE(all.empty());
  EXPECT_EQ(all.front(), &kXxh3Sse2);
  EXPECT_EQ(all.back(), &xxh3_functions());
  EXPECT_EQ(all.size() > 1, __builtin_cpu_supports("avx2") != 0);
  EXPECT_EQ(all.size() > 2, __builtin_cpu_supports("avx512f") != 0);
}

// Published with xxHash (tests/sanity_test.c), for seed 0.
TEST(Xxh3, KnownAnswers) {
  const auto bytes = reference_bytes(2367);
  for (const Xxh3Functions* const variant : all_xxh3_functions()) {
    EXPECT_EQ(variant->hash64(bytes.data(), 0), 0x2D06800538D394C2U) << variant->name;
    EXPECT_EQ(variant->hash64(bytes.data(), 1), 0xC44BDFF4074EECDBU) << variant->name;
    EXPECT_EQ(variant->hash64(bytes.data(), 403), 0xCDEB804D65C6DEA4U) << variant->name;
    EXPECT_EQ(variant->hash64(bytes.data(), 2048), 0xDD59E2C3A5F038E0U) << variant->name;
    EXPECT_EQ(variant->hash64(bytes.data(), 2367), 0xCB37AEB9E5D361EDU) << variant->name;
  }
}

TEST(Xxh3, AllVariantsGiveWhatTheLibraryGivesAtEverySizeAndAlignment) {
  const auto bytes = reference_bytes((3 * 256 << 10) + 4096);
  for (const Xxh3Functions* const variant : all_xxh3_functions()) {
    for (const size_t size : sizes()) {
      for (const size_t from : {size_t{0}, size_t{1}, size_t{8}, size_t{63}}) {
        ASSERT_EQ(variant->hash64(bytes.data() + from, size), XXH3_64bits(bytes.data() + from, size))
            << variant->name << ", " << size << " bytes from " << from;
      }
    }
  }
}

TEST(Xxh3, AllVariantsDigestPiecesAsTheLibraryDoes) {
  const auto bytes = reference_bytes(300'000);
  for (const Xxh3Functions* const variant : all_xxh3_functions()) {
    for (const size_t piece :
         {size_t{1}, size_t{63}, size_t{64}, size_t{255}, size_t{256}, size_t{1024}, size_t{65'537}}) {
      const State ours = fresh_state();
      const State library = fresh_state();
      for (size_t at = 0; at < bytes.size(); at += piece) {
        const size_t size = std::min(piece, bytes.size() - at);
        variant->update128(ours.get(), bytes.data() + at, size);
        XXH3_128bits_update(library.get(), bytes.data() + at, size);
      }
      EXPECT_EQ(digest_of(ours), digest_of(library)) << variant->name << ", pieces of " << piece;
    }
  }
}

// A version of the file format is read by machines that hash in other ways.
TEST(Xxh3, OneVariantGoesOnWhereAnotherStopped) {
  const auto bytes = reference_bytes(200'003);
  const State library = fresh_state();
  XXH3_128bits_update(library.get(), bytes.data(), bytes.size());
  const State mixed = fresh_state();
  const auto all = all_xxh3_functions();
  size_t turn = 0;
  for (size_t at = 0; at < bytes.size(); at += 1'021) {
    all[turn++ % all.size()]->update128(mixed.get(), bytes.data() + at, std::min<size_t>(1'021, bytes.size() - at));
  }
  EXPECT_EQ(digest_of(mixed), digest_of(library));
}

TEST(Xxh3, DigestsUseIt) {
  const auto bytes = reference_bytes(100'000);
  EXPECT_EQ(xxh3_64(std::as_bytes(std::span(bytes))), XXH3_64bits(bytes.data(), bytes.size()));
  const State library = fresh_state();
  XXH3_128bits_update(library.get(), bytes.data(), bytes.size());
  const auto hasher = make_hasher(DigestKind::kXxh3_128);
  hasher->update(std::as_bytes(std::span(bytes)));
  EXPECT_EQ(hasher->finish(), digest_of(library));
}

}  // namespace
}  // namespace weightfs
