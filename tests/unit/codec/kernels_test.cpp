// SPDX-License-Identifier: Apache-2.0
// Every kernel at every level that this processor has, against models written one byte or one number at
// a time: all lengths up to four vectors, all misalignments, canary bytes around every output.
#include "codec/kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "common/bytes.h"

namespace weightfs::codec {
namespace {

constexpr std::byte kCanary{0xc5};
constexpr size_t kFence = 64;
constexpr size_t kVector = 64;

/// `size` bytes that start `misalign` bytes behind a 64-byte boundary, with canaries on both sides.
class Fenced {
 public:
  Fenced(size_t size, size_t misalign) : storage_(size + 3 * kFence + kFence, kCanary), size_(size) {
    const auto address = reinterpret_cast<uintptr_t>(storage_.data() + kFence);
    start_ = kFence + (kFence - address % kFence) % kFence + misalign;
  }
  std::byte* data() { return storage_.data() + start_; }
  MutableBytes bytes() { return {data(), size_}; }
  bool intact() const {
    const auto same = [](std::byte b) { return b == kCanary; };
    const auto first = storage_.begin() + static_cast<std::ptrdiff_t>(start_);
    return std::all_of(storage_.begin(), first, same) &&
           std::all_of(first + static_cast<std::ptrdiff_t>(size_), storage_.end(), same);
  }

 private:
  std::vector<std::byte> storage_;
  size_t size_;
  size_t start_ = 0;
};

using ScatterFn = void (*)(std::byte*, const uint16_t*, const std::byte*, size_t, size_t);
using CollectFn = size_t (*)(const std::byte*, size_t, uint16_t*, std::byte*);

ScatterFn scatter_of(const Kernels& k, bool replace, size_t width) {
  switch (width) {
    case 1:
      return replace ? k.replace8 : k.xor8;
    case 2:
      return replace ? k.replace16 : k.xor16;
    case 4:
      return replace ? k.replace32 : k.xor32;
    default:
      return replace ? k.replace64 : k.xor64;
  }
}

CollectFn collect_of(const Kernels& k, size_t width) {
  switch (width) {
    case 1:
      return k.collect8;
    case 2:
      return k.collect16;
    case 4:
      return k.collect32;
    default:
      return k.collect64;
  }
}

class KernelsTest : public testing::TestWithParam<Level> {
 protected:
  void SetUp() override {
    table_ = kernels_for(GetParam());
    if (table_ == nullptr) GTEST_SKIP() << "this processor lacks " << level_name(GetParam());
  }
  const Kernels& k() const { return *table_; }

  std::byte random_byte() { return static_cast<std::byte>(random_() & 0xffu); }
  void fill(MutableBytes bytes) {
    for (std::byte& b : bytes) b = random_byte();
  }
  /// Elements of `width` bytes, of which about one in `one_in` is not zero; those have one random byte set.
  void fill_sparse(MutableBytes bytes, size_t width, unsigned one_in) {
    std::fill(bytes.begin(), bytes.end(), std::byte{0});
    for (size_t at = 0; at + width <= bytes.size(); at += width) {
      if (random_() % one_in == 0) bytes[at + random_() % width] = static_cast<std::byte>(1 + random_() % 255);
    }
  }

  void check_xor(size_t n, size_t misalign) {
    Fenced dst(n, misalign);
    Fenced src(n, (misalign * 7 + 3) % kFence);
    fill(dst.bytes());
    fill(src.bytes());
    std::vector<std::byte> expected(n);
    for (size_t i = 0; i < n; ++i) expected[i] = dst.data()[i] ^ src.data()[i];
    k().xor_bytes(dst.data(), src.data(), n);
    ASSERT_TRUE(std::equal(expected.begin(), expected.end(), dst.data())) << n << " bytes at " << misalign;
    ASSERT_TRUE(dst.intact() && src.intact()) << n << " bytes at " << misalign;
  }

  void check_collect(size_t width, size_t n, size_t misalign, unsigned one_in) {
    Fenced src(n * width, misalign);
    fill_sparse(src.bytes(), width, one_in);
    std::vector<uint16_t> offsets;
    std::vector<std::byte> values;
    for (size_t i = 0; i < n; ++i) {
      const auto* first = src.data() + i * width;
      if (std::all_of(first, first + width, [](std::byte b) { return b == std::byte{0}; })) continue;
      offsets.push_back(static_cast<uint16_t>(i));
      values.insert(values.end(), first, first + width);
    }
    Fenced out_offsets(n * 2 + 64, misalign & ~size_t{1});
    Fenced out_values(n * width + 64, (misalign * 5 + 1) % kFence);
    auto* found = reinterpret_cast<uint16_t*>(out_offsets.data());
    const size_t count = collect_of(k(), width)(src.data(), n, found, out_values.data());
    const auto where = testing::Message() << "width " << width << ", " << n << " elements at " << misalign;
    ASSERT_EQ(count, offsets.size()) << where;
    ASSERT_TRUE(std::equal(offsets.begin(), offsets.end(), found)) << where;
    ASSERT_TRUE(std::equal(values.begin(), values.end(), out_values.data())) << where;
    ASSERT_TRUE(src.intact() && out_offsets.intact() && out_values.intact()) << where;
  }

  void check_scatter(bool replace, size_t width, size_t elements, size_t misalign, size_t base, unsigned one_in) {
    std::vector<uint16_t> offsets;
    for (size_t i = 0; i < elements; ++i) {
      if (random_() % one_in == 0) offsets.push_back(static_cast<uint16_t>(base + i));
    }
    Fenced values(offsets.size() * width, (misalign * 3 + 1) % kFence);
    Fenced dst(elements * width, misalign);
    fill(values.bytes());
    fill(dst.bytes());
    std::vector<std::byte> expected(dst.data(), dst.data() + elements * width);
    for (size_t i = 0; i < offsets.size(); ++i) {
      for (size_t b = 0; b < width; ++b) {
        std::byte& at = expected[(offsets[i] - base) * width + b];
        at = replace ? values.data()[i * width + b] : at ^ values.data()[i * width + b];
      }
    }
    scatter_of(k(), replace, width)(dst.data(), offsets.data(), values.data(), offsets.size(), base);
    const auto where = testing::Message() << "width " << width << ", " << elements << " elements, base " << base;
    ASSERT_TRUE(std::equal(expected.begin(), expected.end(), dst.data())) << where;
    ASSERT_TRUE(dst.intact() && values.intact()) << where;
  }

  /// Positions by the format's rule, one at a time.
  template <class T>
  void check_gaps(const std::vector<T>& gaps, uint64_t start, size_t misalign) {
    Fenced in(gaps.size() * sizeof(T), misalign);
    for (size_t i = 0; i < gaps.size(); ++i) store_le(in.data() + i * sizeof(T), gaps[i]);
    std::vector<uint64_t> expected;
    uint64_t next = start;
    for (const T gap : gaps) {
      expected.push_back(next + gap);
      next = expected.back() + 1;
    }
    Fenced out(gaps.size() * 8, misalign & ~size_t{7});
    auto* positions = reinterpret_cast<uint64_t*>(out.data());
    const auto decode = sizeof(T) == 2 ? k().decode_gaps16 : k().decode_gaps32;
    ASSERT_EQ(decode(in.data(), gaps.size(), start, positions), next) << gaps.size() << " gaps";
    ASSERT_TRUE(std::equal(expected.begin(), expected.end(), positions)) << gaps.size() << " gaps";
    ASSERT_TRUE(in.intact() && out.intact());
  }

  template <class T>
  std::vector<T> random_gaps(size_t n) {
    std::vector<T> gaps(n);
    for (T& gap : gaps) {
      const auto raw = static_cast<T>(random_());
      gap = random_() % 4 == 0 ? std::numeric_limits<T>::max() : random_() % 2 == 0 ? raw : static_cast<T>(raw % 100);
    }
    return gaps;
  }

  bool ascending(const std::vector<uint32_t>& values, int64_t previous, uint64_t limit, size_t misalign = 0) {
    Fenced in(values.size() * 4, misalign);
    for (size_t i = 0; i < values.size(); ++i) store_le(in.data() + i * 4, values[i]);
    return k().ascending32(in.data(), values.size(), previous, limit);
  }

  std::mt19937_64 random_{20261};
  const Kernels* table_ = nullptr;
};

TEST_P(KernelsTest, TableSaysWhichLevelItIs) { EXPECT_EQ(k().level, GetParam()); }

TEST_P(KernelsTest, XorBytesMatchesModelAtEveryLengthAndMisalignment) {
  for (size_t n = 0; n <= 4 * kVector + 8; ++n) {
    for (size_t misalign = 0; misalign < kFence; ++misalign) ASSERT_NO_FATAL_FAILURE(check_xor(n, misalign));
  }
}

TEST_P(KernelsTest, XorBytesMatchesModelAtRandomLengths) {
  for (int i = 0; i < 2000; ++i) ASSERT_NO_FATAL_FAILURE(check_xor(random_() % 3000, random_() % kFence));
  ASSERT_NO_FATAL_FAILURE(check_xor((256 << 10) + 77, 5));
}

TEST_P(KernelsTest, XorBytesOfABufferWithItselfGivesZeros) {
  std::vector<std::byte> same(1000, std::byte{0x5a});
  k().xor_bytes(same.data(), same.data(), same.size());
  EXPECT_EQ(same, std::vector<std::byte>(1000));
}

TEST_P(KernelsTest, CollectMatchesModelAtEveryLengthAndMisalignment) {
  for (const size_t width : {1u, 2u, 4u, 8u}) {
    for (size_t n = 0; n <= 4 * kVector; ++n) {
      for (size_t misalign = 0; misalign < kFence; ++misalign) {
        const unsigned one_in = 1 + static_cast<unsigned>((n + misalign) % 7);
        ASSERT_NO_FATAL_FAILURE(check_collect(width, n, misalign, one_in));
      }
    }
  }
}

TEST_P(KernelsTest, CollectMatchesModelOnWholeChunksOfEveryDensity) {
  for (const size_t width : {1u, 2u, 4u, 8u}) {
    for (const unsigned one_in : {1u, 2u, 9u, 100u, 5000u, 1u << 30}) {
      ASSERT_NO_FATAL_FAILURE(check_collect(width, 65536, 9, one_in));
      ASSERT_NO_FATAL_FAILURE(check_collect(width, 65535, 2, one_in));
    }
  }
}

TEST_P(KernelsTest, CollectSeesEverySingleBitOfAnElement) {
  for (const size_t width : {1u, 2u, 4u, 8u}) {
    for (size_t bit = 0; bit < width * 8; ++bit) {
      std::vector<std::byte> src(100 * width);
      src[70 * width + bit / 8] = static_cast<std::byte>(1u << (bit % 8));
      std::vector<uint16_t> offsets(132);
      std::vector<std::byte> values(100 * width + 64);
      ASSERT_EQ(collect_of(k(), width)(src.data(), 100, offsets.data(), values.data()), 1u);
      ASSERT_EQ(offsets[0], 70);
      ASSERT_TRUE(std::equal(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(width),
                             src.begin() + static_cast<std::ptrdiff_t>(70 * width)));
    }
  }
}

TEST_P(KernelsTest, ScatterMatchesModelAtEveryLengthAndMisalignment) {
  for (const bool replace : {true, false}) {
    for (const size_t width : {1u, 2u, 4u, 8u}) {
      for (size_t elements = 0; elements <= 64; ++elements) {
        for (size_t misalign = 0; misalign < kFence; ++misalign) {
          const size_t base = misalign % 2 == 0 ? 0 : 65536 - elements;
          ASSERT_NO_FATAL_FAILURE(
              check_scatter(replace, width, elements, misalign, base, 1 + static_cast<unsigned>(misalign % 3)));
        }
      }
      ASSERT_NO_FATAL_FAILURE(check_scatter(replace, width, 65536, 3, 0, 2));
    }
  }
}

TEST_P(KernelsTest, RandomScatterAndCollectMatchModel) {
  for (int i = 0; i < 35000; ++i) {  // x 3 kernels: over 10^5 comparisons a level
    const size_t width = size_t{1} << (random_() % 4);
    const size_t n = random_() % 100;
    const auto one_in = static_cast<unsigned>(1 + random_() % 12);
    const size_t misalign = random_() % kFence;
    ASSERT_NO_FATAL_FAILURE(check_collect(width, n, misalign, one_in));
    ASSERT_NO_FATAL_FAILURE(check_scatter(true, width, n, misalign, random_() % (65536 - n), one_in));
    ASSERT_NO_FATAL_FAILURE(check_scatter(false, width, n, misalign, random_() % (65536 - n), one_in));
  }
}

TEST_P(KernelsTest, SixteenBitElementsKeepEveryBitPattern) {
  std::vector<uint16_t> offsets(65536 + 32);
  std::vector<std::byte> patterns(65536 * 2), collected(65536 * 2 + 64), target(65536 * 2, std::byte{0xa5});
  for (uint32_t i = 0; i < 65536; ++i) store_le(patterns.data() + i * 2, static_cast<uint16_t>(i));
  // Only pattern 0 is "not changed".
  ASSERT_EQ(k().collect16(patterns.data(), 65536, offsets.data(), collected.data()), 65535u);
  for (uint32_t i = 0; i < 65535; ++i) {
    ASSERT_EQ(offsets[i], i + 1);
    ASSERT_EQ(load_le<uint16_t>(collected.data() + i * 2), i + 1);
  }
  k().xor16(target.data(), offsets.data(), collected.data(), 65535, 0);
  for (uint32_t i = 0; i < 65536; ++i) ASSERT_EQ(load_le<uint16_t>(target.data() + i * 2), i ^ 0xa5a5u);
  k().replace16(target.data(), offsets.data(), collected.data(), 65535, 0);
  for (uint32_t i = 1; i < 65536; ++i) ASSERT_EQ(load_le<uint16_t>(target.data() + i * 2), i);
  EXPECT_EQ(load_le<uint16_t>(target.data()), 0xa5a5u);
}

TEST_P(KernelsTest, GapsMatchTheGoldenVectors) {
  ASSERT_NO_FATAL_FAILURE(check_gaps<uint32_t>({0, 0, 0, 2, 69994}, 0, 0));
  uint64_t positions[5] = {};
  const auto decode = [&](auto kernel, std::vector<unsigned> raw, size_t n) {
    std::vector<std::byte> bytes;
    for (const unsigned b : raw) bytes.push_back(static_cast<std::byte>(b));
    return kernel(bytes.data(), n, 0, positions);
  };
  EXPECT_EQ(decode(k().decode_gaps32, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0x6a, 0x11, 1, 0}, 5), 70001u);
  EXPECT_EQ((std::vector<uint64_t>(positions, positions + 5)), (std::vector<uint64_t>{0, 1, 2, 5, 70000}));
  EXPECT_EQ(decode(k().decode_gaps16, {3, 0, 0, 0, 0xff, 0xff, 0, 0}, 4), 65542u);
  EXPECT_EQ((std::vector<uint64_t>(positions, positions + 4)), (std::vector<uint64_t>{3, 4, 65540, 65541}));
  EXPECT_EQ(decode(k().decode_gaps16, {0xff, 0xff}, 1), 65536u);
  EXPECT_EQ(positions[0], 65535u);
  EXPECT_EQ(decode(k().decode_gaps32, {0, 0, 1, 0}, 1), 65537u);
  EXPECT_EQ(positions[0], 65536u);
}

TEST_P(KernelsTest, GapsMatchModelAtEveryLengthAndMisalignment) {
  for (size_t n = 0; n <= 2 * kVector; ++n) {
    for (size_t misalign = 0; misalign < kFence; ++misalign) {
      ASSERT_NO_FATAL_FAILURE(check_gaps(random_gaps<uint16_t>(n), random_() >> 2, misalign));
      ASSERT_NO_FATAL_FAILURE(check_gaps(random_gaps<uint32_t>(n), random_() >> 2, misalign));
    }
  }
}

TEST_P(KernelsTest, GapsOfAMillionMaximaDoNotOverflow) {
  const std::vector<uint32_t> widest(1 << 20, UINT32_MAX);
  ASSERT_NO_FATAL_FAILURE(check_gaps(widest, (uint64_t{1} << 62) - 1, 0));
  ASSERT_NO_FATAL_FAILURE(check_gaps(std::vector<uint16_t>(1 << 20, UINT16_MAX), 0, 0));
}

TEST_P(KernelsTest, AscendingFindsEveryPlaceWhereOrderBreaks) {
  for (size_t n = 0; n <= 2 * kVector; ++n) {
    std::vector<uint32_t> values(n);
    uint32_t next = 0x7fffff80u;  // crosses the sign bit of 32-bit numbers
    for (uint32_t& value : values) value = next += 1 + static_cast<uint32_t>(random_() % 3);
    const uint64_t limit = n == 0 ? 0 : uint64_t{values.back()} + 1;
    for (size_t misalign = 0; misalign < kFence; misalign += 7) ASSERT_TRUE(ascending(values, -1, limit, misalign));
    for (size_t i = 1; i < n; ++i) {
      std::vector<uint32_t> broken = values;
      broken[i] = broken[i - 1];
      ASSERT_FALSE(ascending(broken, -1, uint64_t{1} << 32, i % kFence)) << i << " of " << n;
      broken[i] = 0;
      ASSERT_FALSE(ascending(broken, -1, uint64_t{1} << 32, i % kFence)) << i << " of " << n;
    }
  }
}

TEST_P(KernelsTest, AscendingHonoursBothBounds) {
  EXPECT_TRUE(ascending({}, 5, 0));
  EXPECT_TRUE(ascending({0}, -1, 1));
  EXPECT_FALSE(ascending({0}, 0, 1));
  EXPECT_FALSE(ascending({0}, -1, 0));
  EXPECT_TRUE(ascending({UINT32_MAX}, 0xfffffffe, uint64_t{1} << 32));
  EXPECT_FALSE(ascending({UINT32_MAX}, 0xffffffff, uint64_t{1} << 32));
  EXPECT_FALSE(ascending({1, 2, 3, UINT32_MAX}, -1, UINT32_MAX));
  EXPECT_FALSE(ascending({7, 8}, 7, 9));
}

INSTANTIATE_TEST_SUITE_P(Levels, KernelsTest, testing::Values(Level::kScalar, Level::kAvx2, Level::kAvx512),
                         [](const auto& each) { return std::string(level_name(each.param)); });

TEST(Dispatch, ScalarIsAlwaysThere) { ASSERT_NE(kernels_for(Level::kScalar), nullptr); }

TEST(Dispatch, LevelNamesParseBack) {
  for (const Level level : {Level::kScalar, Level::kAvx2, Level::kAvx512}) {
    EXPECT_EQ(parse_level(level_name(level)), level);
  }
  EXPECT_EQ(parse_level("AVX2"), std::nullopt);
  EXPECT_EQ(parse_level(""), std::nullopt);
}

/// The choice is made once a process, so each case runs in a child of its own.
TEST(DispatchDeathTest, EnvironmentVariableForcesALevel) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto exits_right = [](const char* forced, Level expected) {
    EXPECT_EXIT(
        {
          setenv("WEIGHTFS_ISA", forced, 1);
          std::exit(kernels().level == expected ? 0 : 1);
        },
        testing::ExitedWithCode(0), "")
        << forced;
  };
  const Level best = kernels_for(Level::kAvx512) != nullptr ? Level::kAvx512
                     : kernels_for(Level::kAvx2) != nullptr ? Level::kAvx2
                                                            : Level::kScalar;
  exits_right("scalar", Level::kScalar);
  exits_right("avx2", kernels_for(Level::kAvx2) != nullptr ? Level::kAvx2 : best);
  exits_right("avx512", best);
  exits_right("no-such-level", best);
}

}  // namespace
}  // namespace weightfs::codec
