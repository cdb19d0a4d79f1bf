// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "common/error.h"

namespace weightfs {

/// In a table of cases and the errors that they give: none.
inline constexpr auto kFine = static_cast<ErrorCode>(0xffff);

}  // namespace weightfs
