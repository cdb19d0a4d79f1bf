// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace weightfs {

/// manifest.json of one native version or net.  docs/FORMAT.md, "Manifest".
struct NativeManifest {
  enum class Kind { kReference, kFull, kDelta, kNet };

  struct Link {
    std::string name;
    std::string digest;  ///< of that version's manifest, 32 hex digits
    bool operator==(const Link&) const = default;
  };
  struct Range {
    uint64_t at = 0;  ///< file offset in payload file 1
    uint64_t bytes = 0;
    uint64_t head = 0;    ///< index only: length of header and directory
    uint64_t digest = 0;  ///< XXH3-64; index: of its head, layout: of all
  };
  struct PayloadFile {
    std::string file;
    uint64_t bytes = 0;   ///< file size
    uint64_t at = 0;      ///< file offset of its tensor "blocks"
    uint64_t blocks = 0;  ///< length of that tensor
  };
  struct ResultFile {
    std::string path;
    uint64_t bytes = 0;
    std::string digest;  ///< xxh3-128 of the content, 32 hex digits
  };

  Kind kind = Kind::kDelta;
  std::string name;
  std::vector<std::string> features;
  std::vector<std::string> optional;
  std::optional<Link> parent;
  std::string root;            ///< digest of the base's manifest; empty in the base's own
  std::optional<Link> result;  ///< nets
  std::string path;            ///< references: the model folder
  std::string created;         ///< UTC, "2026-11-25T06:46:28Z"
  std::string tool;
  std::string message;
  uint64_t block_bytes = 0;
  std::optional<uint64_t> changed;  ///< elements
  std::optional<Range> layout;
  Range index;
  std::vector<PayloadFile> payload;
  std::vector<ResultFile> files;
  std::string digest;  ///< of this manifest; set by parse() and serialise()

  /// Strict; `text` is the whole file.  native.bad_manifest, native.unsupported_feature.
  static Result<NativeManifest> parse(std::string_view text);
  /// The file's text; sets `digest`.  parse() of it gives an equal manifest.
  std::string serialise();
};

std::string_view native_kind_name(NativeManifest::Kind kind);

inline constexpr std::string_view kManifestFileName = "manifest.json";
inline constexpr uint64_t kMaxManifestBytes = 64u << 20;

}  // namespace weightfs
