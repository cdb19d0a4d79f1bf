// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/digest.h"
#include "common/result.h"
#include "delta/patch.h"
#include "io/files.h"
#include "model/model_folder.h"

namespace weightfs {

/// A digest of a tensor's whole new bytes, as published.
struct PublishedDigest {
  DigestKind kind = DigestKind::kXxh3_128;
  std::string text;
};

/// One tensor that a delta changes, already matched with the base.
struct DeltaTensor {
  size_t tensor = 0;           ///< index into ModelFolder::tensors()
  std::string published_name;  ///< differs from the base's name when a rule mapped it
  std::string file;            ///< path of the file that holds it, for messages
  std::shared_ptr<const Patch> patch;
  std::optional<PublishedDigest> digest;
  std::optional<uint64_t> changed_elements;  ///< where the format tells without decoding
  uint64_t stored_bytes = 0;
  /// The patch was published for another tensor to which this one is tied; it holds only if the
  /// base's bytes of both are equal.
  std::optional<size_t> tied_to;
};

/// One published delta, opened and checked as far as headers tell.  Immutable, hence thread-safe.
struct Delta {
  std::string format;                   ///< e.g. "trl-t2-gap_delta", "weight_v-xor"
  uint64_t number = 0;                  ///< its place in the run
  std::optional<uint64_t> base_number;  ///< the version that it says it builds on
  bool full = false;                    ///< every tensor of the base is replaced: nothing earlier is needed
  std::vector<DeltaTensor> tensors;     ///< by base tensor index
  uint64_t stored_bytes = 0;            ///< size of its files
  uint64_t identity = 0;                ///< XXH3-64 over names, sizes, times and headers of its files
  int64_t mtime_ns = 0;                 ///< newest of its files
};

}  // namespace weightfs
