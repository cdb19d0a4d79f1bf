// SPDX-License-Identifier: Apache-2.0
// The message is given byte by byte here, as Linux 6.9 documents it, not by our own structures.
#include "attach/init_request.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>

namespace weightfs::test {
namespace {

constexpr size_t kFlags = 12;
constexpr size_t kFlags2 = 16;
constexpr uint32_t kExt = 1u << 30;
constexpr uint32_t kPassthrough = 1u << 5;  // bit 37
constexpr uint32_t kResend = 1u << 7;       // bit 39

std::array<std::byte, 64> init(uint32_t flags, uint32_t flags2) {
  std::array<std::byte, 64> message{};
  const auto put = [&](size_t at, uint32_t value) {
    for (size_t i = 0; i < 4; ++i) message[at + i] = static_cast<std::byte>(value >> (8 * i));
  };
  put(kFlags, flags);
  put(kFlags2, flags2);
  return message;
}

TEST(InitRequest, SaysWhatTheKernelCanDo) {
  for (const bool passthrough : {false, true}) {
    for (const bool resend : {false, true}) {
      const uint32_t flags2 = (passthrough ? kPassthrough : 0) | (resend ? kResend : 0);
      const KernelOffers offers = kernel_offers(init(kExt, flags2));
      EXPECT_EQ(offers.passthrough, passthrough);
      EXPECT_EQ(offers.resend, resend);
    }
  }
  const KernelOffers others = kernel_offers(init(~0u, ~(kPassthrough | kResend)));
  EXPECT_FALSE(others.passthrough || others.resend);
}

TEST(InitRequest, WithoutTheExtensionTheSecondWordMeansNothing) {
  const KernelOffers offers = kernel_offers(init(~kExt, ~0u));
  EXPECT_FALSE(offers.passthrough || offers.resend);
}

TEST(InitRequest, OfAnOldKernelEndsBefore) {
  const auto message = init(kExt, ~0u);
  for (size_t size = 0; size < kFlags2 + 4; ++size) {
    const KernelOffers offers = kernel_offers(std::span(message).first(size));
    EXPECT_FALSE(offers.passthrough || offers.resend) << size;
  }
  EXPECT_TRUE(kernel_offers(std::span(message).first(kFlags2 + 4)).resend);
}

}  // namespace
}  // namespace weightfs::test
