// SPDX-License-Identifier: Apache-2.0
// JSON events -> members of a manifest.  Unknown members are skipped whole, so that files of later writers
// stay readable, but a key that stands twice is refused wherever it stands: two readers that see different
// values in one manifest are how a check is bypassed.
#include "delta/manifest_reader.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <utility>

#include "common/digest.h"
#include "common/text.h"

namespace weightfs {
namespace {

using Reader = ManifestReader;

constexpr std::array<std::string_view, 25> kMemberNames = {
    "format", "version", "features", "optional", "kind",        "name",    "parent", "root",  "result",
    "path",   "created", "tool",     "message",  "block_bytes", "changed", "layout", "index", "payload",
    "files",  "digest",  "file",     "at",       "bytes",       "head",    "blocks"};

constexpr uint32_t kLinkFields = Reader::kName | Reader::kDigest;
constexpr uint32_t kLayoutFields = Reader::kAt | Reader::kBytes | Reader::kDigest;
constexpr uint32_t kIndexFields = kLayoutFields | Reader::kHead;
constexpr uint32_t kPayloadFields = Reader::kFile | Reader::kBytes | Reader::kAt | Reader::kBlocks;
constexpr uint32_t kFileFields = Reader::kPath | Reader::kBytes | Reader::kDigest;
constexpr uint32_t kTextFields = Reader::kName | Reader::kDigest | Reader::kFile | Reader::kPath;
constexpr uint32_t kTopMembers = (Reader::kDigest << 1) - 1;
constexpr uint32_t kArrays = Reader::kFeatures | Reader::kOptional | Reader::kPayload | Reader::kFiles;
constexpr uint32_t kObjects = Reader::kParent | Reader::kResult | Reader::kLayout | Reader::kIndex;
constexpr uint32_t kNullable = Reader::kParent | Reader::kLayout | Reader::kChanged;

/// Members that the record at `top` has.
uint32_t fields_of(Reader::Member top) {
  switch (top) {
    case Reader::kParent:
    case Reader::kResult:
      return kLinkFields;
    case Reader::kLayout:
      return kLayoutFields;
    case Reader::kIndex:
      return kIndexFields;
    case Reader::kPayload:
      return kPayloadFields;
    default:
      return kFileFields;
  }
}

/// The member of that name among `allowed`, or kUnknown.
Reader::Member find_member(std::string_view name, uint32_t allowed) {
  for (size_t i = 0; i < kMemberNames.size(); ++i) {
    if (kMemberNames.at(i) == name) return static_cast<Reader::Member>(allowed & (1u << i));
  }
  return Reader::kUnknown;
}

std::optional<uint64_t> parse_hex64(std::string_view text) {
  if (text.size() != 16) return std::nullopt;
  uint64_t value = 0;
  for (const char c : text) {
    const bool digit = c >= '0' && c <= '9';
    if (!digit && (c < 'a' || c > 'f')) return std::nullopt;
    value = value << 4 | static_cast<uint64_t>(digit ? c - '0' : c - 'a' + 10);
  }
  return value;
}

}  // namespace

std::string_view member_name(Reader::Member member) {
  return kMemberNames.at(static_cast<size_t>(std::countr_zero(static_cast<uint32_t>(member))));
}

bool Reader::ignores_value() const {
  switch (place()) {
    case Place::kTop:
      return top_ == kUnknown;
    case Place::kRecord:
      return field_ == kUnknown;
    default:
      return place() == Place::kIgnored;
  }
}

bool Reader::open(Place place) {
  frames_.push_back({place, {}});
  return true;
}

bool Reader::begin_object() {
  if (frames_.empty()) return open(Place::kTop);
  if (ignores_value()) return open(Place::kIgnored);
  const bool record = place() == Place::kTop ? (top_ & kObjects) != 0 : place() == Place::kRecords;
  if (!record) return refuse("an object");
  record_ = Record{};
  return open(Place::kRecord);
}

bool Reader::end_object() {
  const Place left = place();
  frames_.pop_back();
  return left != Place::kRecord || finish_record();
}

bool Reader::begin_array() {
  if (ignores_value()) return open(Place::kIgnored);
  if (place() != Place::kTop || (top_ & kArrays) == 0) return refuse("an array");
  return open((top_ & (kPayload | kFiles)) != 0 ? Place::kRecords : Place::kTexts);
}

bool Reader::end_array() {
  frames_.pop_back();
  return true;
}

bool Reader::key(std::string& name) {
  auto& keys = frames_.back().keys;
  if (keys.contains(name)) return fail(ErrorCode::kNativeManifest, fmt::format("the key {} stands twice", quote(name)));
  if (keys.size() == kMaxMembers) {
    return fail(ErrorCode::kNativeManifest, fmt::format("an object has more than {} members", kMaxMembers));
  }
  name_ = *keys.insert(std::move(name)).first;
  if (place() == Place::kTop) {
    top_ = find_member(name_, kTopMembers);
    seen_ |= top_;
  } else if (place() == Place::kRecord) {
    field_ = find_member(name_, fields_of(top_));
    record_.seen |= field_;
  }
  return true;
}

bool Reader::text(std::string& value) {
  if (ignores_value()) return true;
  switch (place()) {
    case Place::kTop:
      return top_text(value);
    case Place::kRecord:
      return record_text(value);
    case Place::kTexts:
      return array_text(value);
    default:
      return refuse("a text");
  }
}

bool Reader::top_text(std::string& value) {
  switch (top_) {
    case kFormat:
      return value == "weightfs-delta" ||
             fail(ErrorCode::kNativeManifest, fmt::format("its format is {}, not 'weightfs-delta'", quote(value)));
    case kKind:
      for (const auto kind : {NativeManifest::Kind::kReference, NativeManifest::Kind::kFull,
                              NativeManifest::Kind::kDelta, NativeManifest::Kind::kNet}) {
        manifest_.kind = kind;
        if (value == native_kind_name(kind)) return true;
      }
      return fail(ErrorCode::kNativeManifest, fmt::format("it is of the unknown kind {}", quote(value)));
    case kName:
      manifest_.name = std::move(value);
      return true;
    case kRoot:
      manifest_.root = std::move(value);
      return true;
    case kPath:
      manifest_.path = std::move(value);
      return true;
    case kCreated:
      manifest_.created = std::move(value);
      return true;
    case kTool:
      manifest_.tool = std::move(value);
      return true;
    case kMessage:
      manifest_.message = std::move(value);
      return true;
    case kDigest:
      manifest_.digest = std::move(value);
      return true;
    default:
      return refuse("a text");
  }
}

// An unknown feature is told at once: it may change everything that follows.
bool Reader::array_text(std::string& value) {
  if (top_ == kOptional) {
    manifest_.optional.push_back(std::move(value));
    return true;
  }
  return fail(ErrorCode::kNativeFeature,
              fmt::format("it needs the feature {}, which this weightfs does not know; use a newer one", quote(value)));
}

bool Reader::record_text(std::string& value) {
  if ((field_ & kTextFields) == 0) return refuse("a text");
  std::string& target = field_ == kName     ? record_.name
                        : field_ == kDigest ? record_.digest
                        : field_ == kFile   ? record_.file
                                            : record_.path;
  target = std::move(value);
  return true;
}

bool Reader::count(uint64_t value) {
  if (ignores_value()) return true;
  if (place() == Place::kTop) return top_count(value);
  return place() == Place::kRecord ? record_count(value) : refuse("a number");
}

bool Reader::top_count(uint64_t value) {
  switch (top_) {
    case kVersion:
      return value == 1 || fail(ErrorCode::kNativeFeature,
                                fmt::format("it has format version {}; this weightfs reads version 1", value));
    case kBlockBytes:
      manifest_.block_bytes = value;
      return true;
    case kChanged:
      manifest_.changed = value;
      return true;
    default:
      return refuse("a number");
  }
}

bool Reader::record_count(uint64_t value) {
  if ((field_ & kTextFields) != 0) return refuse("a number");
  uint64_t& target = field_ == kAt      ? record_.at
                     : field_ == kBytes ? record_.bytes
                     : field_ == kHead  ? record_.head
                                        : record_.blocks;
  target = value;
  return true;
}

bool Reader::other(Other kind, std::string_view spelling) {
  if (ignores_value()) return true;
  if (kind == Other::kNull && place() == Place::kTop && (top_ & kNullable) != 0) return true;
  return refuse(quote(spelling));
}

bool Reader::finish_record() {
  const uint32_t missing = fields_of(top_) & ~record_.seen;
  if (missing != 0) {
    const auto first = static_cast<Member>(missing & -missing);
    return fail(ErrorCode::kNativeManifest,
                fmt::format("a record of `{}` lacks `{}`", member_name(top_), member_name(first)));
  }
  switch (top_) {
    case kParent:
      manifest_.parent = NativeManifest::Link{std::move(record_.name), std::move(record_.digest)};
      return true;
    case kResult:
      manifest_.result = NativeManifest::Link{std::move(record_.name), std::move(record_.digest)};
      return true;
    case kPayload:
      manifest_.payload.push_back({std::move(record_.file), record_.bytes, record_.at, record_.blocks});
      return true;
    case kFiles:
      manifest_.files.push_back({std::move(record_.path), record_.bytes, std::move(record_.digest)});
      return true;
    default:
      return store_range();
  }
}

bool Reader::store_range() {
  const auto digest = parse_hex64(record_.digest);
  if (!digest) {
    return fail(ErrorCode::kNativeManifest,
                fmt::format("the digest of `{}` is {}, not 16 hex digits", member_name(top_), quote(record_.digest)));
  }
  const NativeManifest::Range range{record_.at, record_.bytes, record_.head, *digest};
  if (top_ == kLayout) {
    manifest_.layout = range;
  } else {
    manifest_.index = range;
  }
  return true;
}

bool Reader::refuse(std::string_view what) {
  return fail(ErrorCode::kNativeManifest, fmt::format("`{}` must not be or hold {}", name_, what));
}

}  // namespace weightfs
