// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace weightfs::cli {

/// How following goes, from the "follow" object of a status, in words; empty when the mount does not follow.
std::string follow_text(const nlohmann::ordered_json& follow);
/// The same of the command that runs when `latest` has moved; empty when there is none.
std::string hook_text(const nlohmann::ordered_json& follow);
/// Why nothing is admitted at present; empty when nothing hinders it.
std::string follow_problem_text(const nlohmann::ordered_json& follow);

}  // namespace weightfs::cli
