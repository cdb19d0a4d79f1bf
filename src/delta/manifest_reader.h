// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "delta/native_manifest.h"
#include "model/json_events.h"

namespace weightfs {

/// Collects the members of a manifest from its JSON: types, duplicate keys, and that every record is
/// complete.  What members mean together is checked afterwards, by NativeManifest::parse.
class ManifestReader final : public JsonHandler {
 public:
  enum Member : uint32_t {
    kUnknown = 0,
    kFormat = 1u << 0,
    kVersion = 1u << 1,
    kFeatures = 1u << 2,
    kOptional = 1u << 3,
    kKind = 1u << 4,
    kName = 1u << 5,
    kParent = 1u << 6,
    kRoot = 1u << 7,
    kResult = 1u << 8,
    kPath = 1u << 9,
    kCreated = 1u << 10,
    kTool = 1u << 11,
    kMessage = 1u << 12,
    kBlockBytes = 1u << 13,
    kChanged = 1u << 14,
    kLayout = 1u << 15,
    kIndex = 1u << 16,
    kPayload = 1u << 17,
    kFiles = 1u << 18,
    kDigest = 1u << 19,
    // only in the records inside
    kFile = 1u << 20,
    kAt = 1u << 21,
    kBytes = 1u << 22,
    kHead = 1u << 23,
    kBlocks = 1u << 24,
  };
  /// An object of a manifest may have so many members, unknown ones included.
  static constexpr size_t kMaxMembers = 1000;

  bool begin_object() override;
  bool end_object() override;
  bool begin_array() override;
  bool end_array() override;
  bool key(std::string& name) override;
  bool text(std::string& value) override;
  bool count(uint64_t value) override;
  bool other(Other kind, std::string_view spelling) override;

  /// Members of the top level that were there (null ones too).
  uint32_t seen() const { return seen_; }
  NativeManifest take() { return std::move(manifest_); }

 private:
  enum class Place { kTop, kRecord, kTexts, kRecords, kIgnored };
  struct Frame {
    Place place = Place::kIgnored;
    std::set<std::string, std::less<>> keys;
  };
  /// A record inside: a link, a range, a payload file or a result file.
  struct Record {
    uint32_t seen = 0;
    std::string name, digest, file, path;
    uint64_t at = 0, bytes = 0, head = 0, blocks = 0;
  };

  Place place() const { return frames_.back().place; }
  bool ignores_value() const;
  bool open(Place place);
  bool refuse(std::string_view what);
  bool top_text(std::string& value);
  bool top_count(uint64_t value);
  bool record_text(std::string& value);
  bool record_count(uint64_t value);
  bool array_text(std::string& value);
  bool finish_record();
  bool store_range();

  NativeManifest manifest_;
  std::vector<Frame> frames_;
  uint32_t seen_ = 0;
  Member top_ = kUnknown;    // of the value at the top level
  Member field_ = kUnknown;  // of the value in a record
  std::string name_;         // the key as it stands there, for messages
  Record record_;
};

/// "format", "version", ...
std::string_view member_name(ManifestReader::Member member);

}  // namespace weightfs
