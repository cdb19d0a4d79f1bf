// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

namespace weightfs::cli {

using Json = nlohmann::ordered_json;  ///< members stay in the order in which a reader is to see them

}  // namespace weightfs::cli
