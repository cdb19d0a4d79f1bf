// SPDX-License-Identifier: Apache-2.0
// manifest.json of a native version.  The file carries a digest of its own bytes, which is looked at before
// anything else: what passes it is as some writer wrote it, and what the writer wrote is then checked as
// strictly as if it came from nowhere.
#include "delta/native_manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "common/checked.h"
#include "common/digest.h"
#include "common/text.h"
#include "delta/manifest_reader.h"
#include "delta/native_index.h"
#include "model/tree_path.h"

namespace weightfs {
namespace {

using Kind = NativeManifest::Kind;
using Reader = ManifestReader;

constexpr std::string_view kDigestKey = R"(,"digest":")";
constexpr std::string_view kEnd = "\"}\n";
constexpr size_t kDigestDigits = 32;
constexpr uint64_t kMaxIndexBytes = std::numeric_limits<uint32_t>::max();
constexpr uint64_t kMaxFileBytes = std::numeric_limits<int64_t>::max();

constexpr uint32_t kAlways = Reader::kFormat | Reader::kVersion | Reader::kFeatures | Reader::kOptional |
                             Reader::kKind | Reader::kName | Reader::kParent | Reader::kRoot | Reader::kCreated |
                             Reader::kTool | Reader::kMessage | Reader::kFiles | Reader::kDigest;
constexpr uint32_t kCoded =
    Reader::kBlockBytes | Reader::kChanged | Reader::kLayout | Reader::kIndex | Reader::kPayload;
constexpr uint32_t kByKind = kCoded | Reader::kResult | Reader::kPath;

Error bad_manifest(std::string what) { return {ErrorCode::kNativeManifest, std::move(what)}; }

std::string digest_of(std::string_view bytes) {
  const auto hasher = make_hasher(DigestKind::kXxh3_128);
  hasher->update(as_bytes(bytes));
  return hasher->finish();
}

bool is_digest(std::string_view text) { return is_digest_text(DigestKind::kXxh3_128, text); }

/// The digest member at the end of the text, after it was compared with the bytes before it.
Result<std::string> check_digest(std::string_view text) {
  constexpr size_t kTail = kDigestKey.size() + kDigestDigits + kEnd.size();
  const std::string_view tail = text.size() < kTail ? std::string_view() : text.substr(text.size() - kTail);
  if (!tail.starts_with(kDigestKey) || !tail.ends_with(kEnd)) {
    return bad_manifest("it does not end in its digest: it was cut short, or is not a manifest of weightfs");
  }
  std::string stored(tail.substr(kDigestKey.size(), kDigestDigits));
  const std::string computed = digest_of(text.substr(0, text.size() - kTail));
  if (stored != computed) {
    return bad_manifest(
        fmt::format("its digest is {}, but its bytes have {}: it was damaged", quote(stored), computed));
  }
  return stored;
}

uint32_t members_of(Kind kind) {
  switch (kind) {
    case Kind::kReference:
      return kAlways | Reader::kPath;
    case Kind::kNet:
      return kAlways | kCoded | Reader::kResult;
    default:
      return kAlways | kCoded;
  }
}

Status check_members(const NativeManifest& manifest, uint32_t seen) {
  if ((seen & Reader::kKind) == 0) return bad_manifest("the member `kind` is missing");
  const uint32_t wanted = members_of(manifest.kind);
  if (const uint32_t missing = wanted & ~seen; missing != 0) {
    const auto first = static_cast<Reader::Member>(missing & -missing);
    return bad_manifest(fmt::format("the member `{}` is missing", member_name(first)));
  }
  if (const uint32_t surplus = seen & kByKind & ~wanted; surplus != 0) {
    const auto first = static_cast<Reader::Member>(surplus & -surplus);
    return bad_manifest(
        fmt::format("a manifest of kind {} has no member `{}`", native_kind_name(manifest.kind), member_name(first)));
  }
  return {};
}

Status check_link(const NativeManifest::Link& link, std::string_view which) {
  if (!is_plain_file_name(link.name)) return bad_manifest(fmt::format("`{}` has the name {}", which, quote(link.name)));
  if (!is_digest(link.digest)) return bad_manifest(fmt::format("`{}` has the digest {}", which, quote(link.digest)));
  return {};
}

Status check_links(const NativeManifest& manifest) {
  const Kind kind = manifest.kind;
  if (manifest.parent) TRY(check_link(*manifest.parent, "parent"));
  if (manifest.result) TRY(check_link(*manifest.result, "result"));
  if (kind == Kind::kReference && manifest.parent) return bad_manifest("a reference has a parent");
  if ((kind == Kind::kDelta || kind == Kind::kNet) && !manifest.parent) {
    return bad_manifest(fmt::format("a {} has no parent", native_kind_name(kind)));
  }
  if (manifest.parent ? !is_digest(manifest.root) : !manifest.root.empty()) {
    return bad_manifest(fmt::format("its root is {}: the base alone has none", quote(manifest.root)));
  }
  return {};
}

/// "2026-11-25T06:46:28Z"
bool is_time(std::string_view text) {
  constexpr std::string_view kForm = "dddd-dd-ddTdd:dd:ddZ";
  return std::equal(text.begin(), text.end(), kForm.begin(), kForm.end(),
                    [](char c, char form) { return form == 'd' ? c >= '0' && c <= '9' : c == form; });
}

Status check_texts(const NativeManifest& manifest) {
  if (!is_plain_file_name(manifest.name)) return bad_manifest(fmt::format("its name is {}", quote(manifest.name)));
  if (!is_time(manifest.created)) return bad_manifest(fmt::format("it was created at {}", quote(manifest.created)));
  const bool absolute = manifest.path.starts_with('/') && manifest.path.find('\0') == std::string::npos;
  if (manifest.kind == Kind::kReference && !absolute) {
    return bad_manifest(fmt::format("the path of the model is {}, which is not absolute", quote(manifest.path)));
  }
  return {};
}

Status check_files(const NativeManifest& manifest) {
  const std::string* before = nullptr;
  uint64_t total = 0;
  for (const auto& file : manifest.files) {
    if (!is_tree_path(file.path)) return bad_manifest(fmt::format("`files` has the path {}", quote(file.path)));
    if (before != nullptr && file.path <= *before) {
      return bad_manifest(fmt::format("`files` is not in ascending order at {}", quote(file.path)));
    }
    if (!is_digest(file.digest)) {
      return bad_manifest(fmt::format("file {} has the digest {}", quote(file.path), quote(file.digest)));
    }
    const auto sum = checked_add(total, file.bytes);
    if (!sum || *sum > kMaxFileBytes) return bad_manifest("the sizes of `files` exceed 63 bits");
    total = *sum;
    before = &file.path;
  }
  return {};
}

Status check_payload(const std::vector<NativeManifest::PayloadFile>& payload) {
  if (payload.empty()) return bad_manifest("`payload` names no file");
  std::set<std::string_view> names;
  uint64_t total = 0;
  for (const auto& file : payload) {
    if (!is_plain_file_name(file.file) || file.file == kManifestFileName || !names.insert(file.file).second) {
      return bad_manifest(fmt::format("`payload` names the file {}", quote(file.file)));
    }
    const auto end = checked_add(file.at, file.blocks);
    const auto sum = checked_add(total, file.blocks);
    if (!end || *end > file.bytes || file.bytes > kMaxFileBytes || !sum || *sum > kMaxFileBytes) {
      return bad_manifest(fmt::format("payload file {}: {} bytes of blocks at {} do not fit its {} bytes",
                                      quote(file.file), file.blocks, file.at, file.bytes));
    }
    total = *sum;
  }
  return {};
}

/// Index, layout and blocks lie in payload file 1, one beside the other.
Status check_ranges(const NativeManifest& manifest) {
  const auto& file = manifest.payload.front();
  std::vector<std::pair<uint64_t, uint64_t>> ranges = {{file.at, file.blocks},
                                                       {manifest.index.at, manifest.index.bytes}};
  if (manifest.layout) ranges.emplace_back(manifest.layout->at, manifest.layout->bytes);
  std::sort(ranges.begin(), ranges.end());
  uint64_t free = 0;
  for (const auto& [at, bytes] : ranges) {
    const auto end = checked_add(at, bytes);
    if (at < free || !end || *end > file.bytes) {
      return bad_manifest(
          fmt::format("{} bytes at {} of payload file {} overlap others or are outside", bytes, at, quote(file.file)));
    }
    free = *end;
  }
  return {};
}

Status check_coded(const NativeManifest& manifest) {
  if (manifest.block_bytes != 64u << 10 && manifest.block_bytes != 256u << 10 && manifest.block_bytes != 1u << 20) {
    return bad_manifest(fmt::format("blocks of {} bytes; 65536, 262144 and 1048576 are known", manifest.block_bytes));
  }
  if (manifest.changed == std::numeric_limits<uint64_t>::max()) return bad_manifest("`changed` is out of range");
  if (manifest.kind == Kind::kFull && !manifest.layout) return bad_manifest("a full version has no layout");
  const NativeManifest::Range& index = manifest.index;
  if (index.head < kIndexHeaderBytes || (index.head - kIndexHeaderBytes) % kIndexEntryBytes != 0 ||
      index.head > index.bytes || index.bytes > kMaxIndexBytes) {
    return bad_manifest(fmt::format("an index of {} bytes with a head of {}", index.bytes, index.head));
  }
  TRY(check_payload(manifest.payload));
  return check_ranges(manifest);
}

// --- writing ------------------------------------------------------------------------------------

/// JSON text; what is not UTF-8 becomes U+FFFD.
std::string json_text(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string link_json(const std::optional<NativeManifest::Link>& link) {
  if (!link) return "null";
  return fmt::format(R"({{"name":{},"digest":{}}})", json_text(link->name), json_text(link->digest));
}

template <class Items, class ToJson>
std::string list_json(const Items& items, const ToJson& to_json) {
  std::string text = "[";
  for (const auto& item : items) {
    if (text.size() > 1) text += ',';
    text += to_json(item);
  }
  return text + "]";
}

std::string layout_json(const std::optional<NativeManifest::Range>& range) {
  if (!range) return "null";
  return fmt::format(R"({{"at":{},"bytes":{},"digest":"{:016x}"}})", range->at, range->bytes, range->digest);
}

std::string coded_json(const NativeManifest& manifest) {
  const NativeManifest::Range& index = manifest.index;
  std::string text =
      fmt::format(R"(,"block_bytes":{},"changed":{},"layout":{})", manifest.block_bytes,
                  manifest.changed ? std::to_string(*manifest.changed) : "null", layout_json(manifest.layout));
  text += fmt::format(R"(,"index":{{"at":{},"bytes":{},"head":{},"digest":"{:016x}"}})", index.at, index.bytes,
                      index.head, index.digest);
  return text + ",\"payload\":" + list_json(manifest.payload, [](const NativeManifest::PayloadFile& file) {
           return fmt::format(R"({{"file":{},"bytes":{},"at":{},"blocks":{}}})", json_text(file.file), file.bytes,
                              file.at, file.blocks);
         });
}

}  // namespace

Result<NativeManifest> NativeManifest::parse(std::string_view text) {
  if (text.size() > kMaxManifestBytes) {
    return bad_manifest(fmt::format("it has {} bytes; at most {} are read", text.size(), kMaxManifestBytes));
  }
  const std::string digest = TRY(check_digest(text));
  Reader reader;
  TRY(parse_json_object(text, reader, ErrorCode::kNativeManifest));
  NativeManifest manifest = reader.take();
  TRY(check_members(manifest, reader.seen()));
  if (manifest.digest != digest) return bad_manifest("its last member is not `digest`");
  TRY(check_links(manifest));
  TRY(check_texts(manifest));
  TRY(check_files(manifest));
  if (manifest.kind != Kind::kReference) TRY(check_coded(manifest));
  return manifest;
}

std::string NativeManifest::serialise() {
  std::string text = fmt::format(R"({{"format":"weightfs-delta","version":1,"features":{},"optional":{})",
                                 list_json(features, json_text), list_json(optional, json_text));
  text += fmt::format(R"(,"kind":"{}","name":{},"parent":{},"root":{})", native_kind_name(kind), json_text(name),
                      link_json(parent), json_text(root));
  if (kind == Kind::kNet) text += ",\"result\":" + link_json(result);
  if (kind == Kind::kReference) text += ",\"path\":" + json_text(path);
  text +=
      fmt::format(R"(,"created":{},"tool":{},"message":{})", json_text(created), json_text(tool), json_text(message));
  if (kind != Kind::kReference) text += coded_json(*this);
  text += ",\"files\":" + list_json(files, [](const ResultFile& file) {
            return fmt::format(R"({{"path":{},"bytes":{},"digest":{}}})", json_text(file.path), file.bytes,
                               json_text(file.digest));
          });
  digest = digest_of(text);
  text += kDigestKey;
  text += digest;
  return text += kEnd;
}

std::string_view native_kind_name(Kind kind) {
  constexpr std::array<std::string_view, 4> kNames = {"reference", "full", "delta", "net"};
  return kNames.at(static_cast<size_t>(kind));
}

}  // namespace weightfs
