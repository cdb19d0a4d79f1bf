// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>

namespace weightfs {

// How long tests let SourceWatch::wait() wait.
inline constexpr std::chrono::milliseconds kAtOnce{0};
inline constexpr std::chrono::milliseconds kLongWait{60'000};  // no test waits for it to pass

}  // namespace weightfs
