// SPDX-License-Identifier: Apache-2.0
//
// Forgiving lookups in the JSON documents of a mount.
#include "cli/json_access.h"

#include "cli/json.h"

namespace weightfs::cli {
namespace {

const Json* member(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

}  // namespace

std::string text_of(const Json& object, const char* key) {
  const Json* value = member(object, key);
  return value != nullptr && value->is_string() ? value->get<std::string>() : std::string();
}

std::optional<uint64_t> number_of(const Json& object, const char* key) {
  const Json* value = member(object, key);
  if (value == nullptr || !value->is_number_unsigned()) return std::nullopt;
  return value->get<uint64_t>();
}

std::optional<double> real_of(const Json& object, const char* key) {
  const Json* value = member(object, key);
  if (value == nullptr || !value->is_number()) return std::nullopt;
  return value->get<double>();
}

bool flag_of(const Json& object, const char* key) {
  const Json* value = member(object, key);
  return value != nullptr && value->is_boolean() && value->get<bool>();
}

const Json& array_of(const Json& object, const char* key) {
  static const Json kEmpty = Json::array();
  const Json* value = member(object, key);
  return value != nullptr && value->is_array() ? *value : kEmpty;
}

const Json& object_of(const Json& object, const char* key) {
  static const Json kEmpty = Json::object();
  const Json* value = member(object, key);
  return value != nullptr && value->is_object() ? *value : kEmpty;
}

std::optional<std::string> error_text(const Json& object) {
  const Json* error = member(object, "error");
  if (error == nullptr || !error->is_object()) return std::nullopt;
  return text_of(*error, "message") + " [" + text_of(*error, "code") + "]";
}

}  // namespace weightfs::cli
