// SPDX-License-Identifier: Apache-2.0
// The record that a process leaves of what it showed: whole, or refused.
#include "chain/shown_state.h"

#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <string>

#include "common/digest.h"

namespace weightfs::test {
namespace {

ShownState small() {
  return {{1, 2, 0xfedcba9876543210}, {1, 0xfedcba9876543210}, {2}, {2, 77}, 0xfedcba9876543210, 9};
}

/// `body` with an end that fits.
std::string sealed(const std::string& body) {
  std::string digits(16, '0');
  uint64_t digest = xxh3_64(as_bytes(body));
  for (size_t i = digits.size(); i-- > 0; digest >>= 4) digits[i] = "0123456789abcdef"[digest & 15];
  return body + "end " + digits + "\n";
}

const std::string kHead = "weightfs-shown 1\nbase 0000000000000001\nlatest 0000000000000001\n";

TEST(ShownStateText, IsAsDocumented) {
  EXPECT_EQ(small().to_text(), sealed("weightfs-shown 1\n"
                                      "base 0000000000000009\n"
                                      "latest fedcba9876543210\n"
                                      "0000000000000001 as\n"
                                      "0000000000000002 avo\n"
                                      "000000000000004d o\n"
                                      "fedcba9876543210 as\n"));
}

TEST(ShownStateText, ComesBackAsItWas) {
  for (const ShownState& state : {small(), ShownState{}, ShownState{{}, {}, {}, {UINT64_MAX, 0}, 5, 6}}) {
    const auto parsed = ShownState::parse(state.to_text());
    ASSERT_TRUE(parsed) << parsed.error().text();
    EXPECT_EQ(*parsed, state);
  }
}

TEST(ShownStateText, TenThousandVersionsAreSmallAndFast) {
  std::mt19937_64 random(1);
  ShownState state;
  for (int i = 0; i < 10'000; ++i) {
    const uint64_t identity = random();
    state.accepted.insert(identity);
    state.shown.insert(identity);
    state.verified.insert(identity);
    state.latest = identity;
  }
  const std::string text = state.to_text();
  EXPECT_LT(text.size(), 400'000u);
  const auto start = std::chrono::steady_clock::now();
  const auto parsed = ShownState::parse(text);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1)) << "milliseconds, on an idle machine";
  ASSERT_TRUE(parsed);
  EXPECT_EQ(*parsed, state);
}

TEST(ShownStateText, CutOffAnywhereItIsRefused) {
  const std::string text = small().to_text();
  for (size_t size = 0; size < text.size(); ++size) {
    EXPECT_FALSE(ShownState::parse(text.substr(0, size))) << "after " << size << " bytes";
  }
}

TEST(ShownStateText, WithAnyBitFlippedItIsRefused) {
  const std::string text = small().to_text();
  for (size_t at = 0; at < text.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string other = text;
      other[at] = static_cast<char>(static_cast<unsigned char>(other[at]) ^ (1u << bit));
      const auto parsed = ShownState::parse(other);
      // The digest's own digits may be written in capitals: that says the same.
      EXPECT_TRUE(!parsed || *parsed == small()) << "byte " << at << ", bit " << bit;
    }
  }
}

TEST(ShownStateText, WithMoreBehindItIsRefused) {
  const std::string text = small().to_text();
  EXPECT_FALSE(ShownState::parse(text + "\n"));
  EXPECT_FALSE(ShownState::parse(text + "x"));
  EXPECT_FALSE(ShownState::parse(text + text));
  EXPECT_FALSE(ShownState::parse(std::string(1, '\0') + text));
}

TEST(ShownStateText, WhatIsSealedButWrongIsRefused) {
  EXPECT_TRUE(ShownState::parse(sealed(kHead)));
  EXPECT_TRUE(ShownState::parse(sealed(kHead + "0000000000000001 a\n")));
  for (const char* const line : {
           "\n",
           "0000000000000001\n",
           "0000000000000001 \n",
           "0000000000000001 x\n",
           "0000000000000001 a \n",
           "0000000000000001 a\r\n",
           "0000000000000001\ta\n",
           "000000000000001 a\n",
           "00000000000000011 a\n",
           "000000000000000g a\n",
           "-000000000000001 a\n",
           "+000000000000001 a\n",
           "0x00000000000001 a\n",
           " 000000000000001 a\n",
           "0000000000000001 a",
           "latest 0000000000000001\n",
       }) {
    EXPECT_FALSE(ShownState::parse(sealed(kHead + line))) << line;
  }
  for (const char* const head : {
           "",
           "weightfs-shown 1",
           "weightfs-shown 1\n",
           "weightfs-shown 1\nbase 0000000000000001\n",
           "weightfs-shown 1\nlatest 0000000000000001\n",
           "weightfs-shown 1\nlatest 0000000000000001\nbase 0000000000000001\n",
           "weightfs-shown 1\nbase 1\nlatest 1\n",
           "weightfs-shown 1\nbase 0000000000000001\nlatest 0000000000000001",
           "weightfs-shown 1\nbase 0000000000000001\n0000000000000001 a\n",
           "weightfs-shown 1\r\nbase 0000000000000001\nlatest 0000000000000001\n",
           "weightfs-shown 2\nbase 0000000000000001\nlatest 0000000000000001\n",
           "weightfs-shown 11\nbase 0000000000000001\nlatest 0000000000000001\n",
       }) {
    EXPECT_FALSE(ShownState::parse(sealed(head))) << head;
  }
}

TEST(ShownStateText, GarbageIsRefused) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 2000; ++i) {
    std::string text(random() % 200, '\0');
    for (char& c : text) c = static_cast<char>(random());
    EXPECT_FALSE(ShownState::parse(text));
    EXPECT_FALSE(ShownState::parse(kHead + text));
    EXPECT_FALSE(ShownState::parse(sealed(kHead + text + "#\n")));
  }
  EXPECT_FALSE(ShownState::parse(std::string(10'000'000, '\n')));
  EXPECT_FALSE(ShownState::parse(kHead + std::string(10'000'000, '0')));
  const auto large = ShownState::parse(sealed(kHead + std::string(10'000'000, 'f') + "\n"));
  ASSERT_FALSE(large);
  EXPECT_LT(large.error().message.size(), 2000u) << "nobody reads that";
}

}  // namespace
}  // namespace weightfs::test
