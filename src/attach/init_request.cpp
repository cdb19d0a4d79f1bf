// SPDX-License-Identifier: Apache-2.0
#include "attach/init_request.h"

#include <cstdint>
#include <cstring>

namespace weightfs {
namespace {

// struct fuse_init_in is major, minor, max_readahead, flags, flags2.  From Linux 6.9's <linux/fuse.h>; older ones lack
// some of these.
constexpr size_t kFlags = 12;
constexpr size_t kFlags2 = 16;
constexpr uint32_t kInitExt = 1u << 30;  // without it the second word of flags means nothing
constexpr uint32_t kPassthroughFlag2 = 1u << (37 - 32);
constexpr uint32_t kHasResendFlag2 = 1u << (39 - 32);

uint32_t load(std::span<const std::byte> message, size_t at) {
  uint32_t value = 0;
  std::memcpy(&value, message.data() + at, sizeof value);
  return value;
}

}  // namespace

KernelOffers kernel_offers(std::span<const std::byte> init) {
  if (init.size() < kFlags2 + sizeof(uint32_t) || (load(init, kFlags) & kInitExt) == 0) return {};
  const uint32_t more = load(init, kFlags2);
  return {.passthrough = (more & kPassthroughFlag2) != 0, .resend = (more & kHasResendFlag2) != 0};
}

}  // namespace weightfs
