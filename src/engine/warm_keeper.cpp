// SPDX-License-Identifier: Apache-2.0
// Names for bytes that are true beyond this process.  What must stay true: two files with the same record have the same
// bytes.  Hence all that bytes come from is in it: the version's identity tells of deltas, and of the base only what
// its headers say, of a full version not even that.
#include "engine/warm_keeper.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "common/digest.h"
#include "delta/file_hash.h"

namespace weightfs {
namespace {

constexpr std::string_view kPrefix = "warm/";
constexpr int kFormat = 1;  // of the text

/// What versions take from the base: the files that deltas are applied to, and which tensors follow others.
uint64_t base_identity(const Snapshot& snapshot) {
  const bool tied = snapshot.base().ties_word_embeddings();
  uint64_t identity = mix_identity(snapshot.admitted(0).identity, tied ? 1 : 0);
  for (const ModelFolder::Entry& entry : snapshot.base().entries()) {
    const bool matters = snapshot.is_native() || entry.kind == ModelFolder::EntryKind::kShard;
    if (!entry.source || !matters) continue;
    const FileIdentity& file = entry.source->identity();
    for (const uint64_t part : {file.device, file.inode, file.size, static_cast<uint64_t>(file.mtime_ns)}) {
      identity = mix_identity(identity, part);
    }
  }
  return identity;
}

std::string path_of(const ModelFolder& folder, size_t entry) {
  std::string path = folder.entries()[entry].name;
  for (size_t at = folder.entries()[entry].parent; at != 0; at = folder.entries()[at].parent) {
    path.insert(0, folder.entries()[at].name + "/");
  }
  return path;
}

/// True for a tensor that some versions leave out because it is tied and others do not.  Where the base does not tie
/// it, a full version that leaves it out shows what a delta before it says, of which its identity does not tell.
bool is_tied_at_times(const std::vector<TensorStep>& history) {
  const auto tied = [](const TensorStep& step) { return step.change->tied_to.has_value(); };
  return std::any_of(history.begin(), history.end(), tied) && !std::all_of(history.begin(), history.end(), tied);
}

bool identity_tells_all(const Snapshot& snapshot, const VersionFile& file) {
  if (snapshot.is_native()) return true;
  const ModelFolder::Entry& entry = snapshot.base().entries()[file.entry];
  if (entry.kind != ModelFolder::EntryKind::kShard) return true;
  const auto& tensors = snapshot.base().shards()[entry.shard].tensors;
  return std::none_of(tensors.begin(), tensors.end(),
                      [&](size_t tensor) { return is_tied_at_times(snapshot.history(tensor)); });
}

/// Makes the records of many files.
class Recorder {
 public:
  explicit Recorder(const Snapshot& snapshot) : snapshot_(snapshot), base_(base_identity(snapshot)) {}

  std::string key(const VersionFile& file) const {
    const uint64_t path = xxh3_64(as_bytes(path_of(snapshot_.folder(file.ordinal), file.entry)));
    const uint64_t chain = mix_identity(snapshot_.admitted(file.ordinal).identity, base_);
    return fmt::format("{:016x}", mix_identity(mix_identity(chain, path), size(file)));
  }

  std::string text(const VersionFile& file, bool verified) const {
    return fmt::format("weightfs {} warm {}\nidentity {:016x}\nbase {:016x}\nsize {}\nverified {:d}\npath {}",
                       WEIGHTFS_VERSION, kFormat, snapshot_.admitted(file.ordinal).identity, base_, size(file),
                       verified, path_of(snapshot_.folder(file.ordinal), file.entry));
  }

 private:
  uint64_t size(const VersionFile& file) const { return snapshot_.folder(file.ordinal).entries()[file.entry].size; }

  const Snapshot& snapshot_;
  const uint64_t base_;
};

std::unordered_map<std::string, VersionFile> files_by_key(const Filler& filler) {
  const Recorder recorder(filler.snapshot());
  std::unordered_map<std::string, VersionFile> files;
  for (size_t ordinal = 0; ordinal < filler.snapshot().end_ordinal(); ++ordinal) {
    if (!filler.snapshot().has(ordinal)) continue;
    for (const VersionFile& file : filler.files(ordinal)) files.insert_or_assign(recorder.key(file), file);
  }
  return files;
}

/// An engine that verifies takes only what was verified.
bool is_record_of(const Filler& filler, const VersionFile& file, const Kept& kept) {
  const auto says = [&](bool verified) {
    const auto record = WarmRecord::of(filler.snapshot(), file, verified);
    return record && record->text == kept.bytes;
  };
  return says(true) || (!filler.verifies() && says(false));
}

}  // namespace

std::optional<WarmRecord> WarmRecord::of(const Snapshot& snapshot, const VersionFile& file, bool verified) {
  if (!identity_tells_all(snapshot, file)) return std::nullopt;
  const Recorder recorder(snapshot);
  return WarmRecord{recorder.key(file), recorder.text(file, verified)};
}

std::string WarmKeeper::keep(const Filler& filler, const WarmFile& file) const {
  if (!keeper_) return {};
  auto record = WarmRecord::of(filler.snapshot(), file.file(), filler.verifies());
  if (!record || record->text.size() > Keeper::kMaxBytes) return {};
  keeper_->keep(std::string(kPrefix) + record->key, record->text, *file.memory().file());
  return std::move(record->key);
}

void WarmKeeper::forget(const std::string& key) const {
  if (keeper_) keeper_->forget(std::string(kPrefix) + key);
}

std::vector<WarmKeeper::Left> WarmKeeper::recognise(const Filler& filler, std::vector<Kept> kept) const {
  std::vector<Left> left;
  if (kept.empty()) return left;
  const auto files = files_by_key(filler);
  for (Kept& record : kept) {
    const auto file = files.find(record.key);
    if (file != files.end() && is_record_of(filler, file->second, record)) {
      left.push_back({file->second, std::move(record)});
    } else {
      forget(record.key);
    }
  }
  std::stable_sort(left.begin(), left.end(),
                   [](const Left& a, const Left& b) { return a.file.ordinal > b.file.ordinal; });
  return left;
}

}  // namespace weightfs
