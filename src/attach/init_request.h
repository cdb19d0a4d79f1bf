// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>

namespace weightfs {

/// What the kernel says in its first message, INIT, that it can do, of what libfuse 3.14 does not know.
struct KernelOffers {
  bool passthrough = false;  ///< read files by itself (Linux 6.9)
  bool resend = false;       ///< send requests again that were read and not answered (Linux 6.9)
};

/// `init`: what follows the header of the message.  One that is too short offers nothing.
KernelOffers kernel_offers(std::span<const std::byte> init);

}  // namespace weightfs
