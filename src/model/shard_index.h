// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "common/result.h"

namespace weightfs {

/// `model.safetensors.index.json`: which shard carries which tensor.
struct ShardIndex {
  /// Values of the object "metadata"; numbers and booleans as their JSON text.
  std::map<std::string, std::string> metadata;
  /// Tensor name -> shard file name (checked to be a plain file name).
  std::map<std::string, std::string> weight_map;

  /// Strict: an object with an object "weight_map" of texts; duplicate keys are refused.
  static Result<ShardIndex> parse(std::string_view json);
};

inline constexpr std::string_view kIndexFileName = "model.safetensors.index.json";
inline constexpr std::string_view kSingleFileName = "model.safetensors";
inline constexpr std::string_view kSafetensorsSuffix = ".safetensors";

}  // namespace weightfs
