// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

namespace weightfs::cli {

// Lookups that never throw: a mount may be served by an older or newer weightfs, whose documents lack
// keys that this one knows.

/// The text at `key`, or an empty one.
std::string text_of(const nlohmann::ordered_json& object, const char* key);
std::optional<uint64_t> number_of(const nlohmann::ordered_json& object, const char* key);
std::optional<double> real_of(const nlohmann::ordered_json& object, const char* key);
bool flag_of(const nlohmann::ordered_json& object, const char* key);
/// The array or object at `key`, or an empty one.
const nlohmann::ordered_json& array_of(const nlohmann::ordered_json& object, const char* key);
const nlohmann::ordered_json& object_of(const nlohmann::ordered_json& object, const char* key);
/// "message [code]" of the object's "error"; nothing when that is null.
std::optional<std::string> error_text(const nlohmann::ordered_json& object);

}  // namespace weightfs::cli
