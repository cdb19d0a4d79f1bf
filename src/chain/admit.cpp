// SPDX-License-Identifier: Apache-2.0
// Chain rules.  Candidates come in order of their numbers; `Link` remembers the version before, so
// that each rule looks only one step back.  weight_v names its parent and is strict; TRL names none,
// gaps in its numbering are normal, and only a complete anchor proves that nothing earlier is needed.
#include "chain/admit.h"

#include <algorithm>

#include "common/text.h"
#include "delta/file_hash.h"
#include "delta/trl.h"
#include "delta/weight_v.h"

namespace weightfs {
namespace {

// Files of one run are written after its first anchor; two seconds allow for copies and coarse clocks.
constexpr int64_t kClockSlackNs = 2'000'000'000;

struct Opened {
  const Candidate* candidate;
  Result<Delta> delta;
};

/// The version before the one being judged.
struct Link {
  std::string name = "base";
  uint64_t number = 0;
  uint64_t identity = 0;
  bool admitted = true;
};

Version describe(const Candidate& candidate, const Result<Delta>& delta) {
  Version version;
  version.name = candidate.name;
  version.path = candidate.path;
  version.number = candidate.number;
  version.mtime_ns = candidate.mtime_ns;
  if (!delta) {
    version.error = delta.error();
    return version;
  }
  version.kind = delta->full ? VersionKind::kFull : VersionKind::kDelta;
  version.format = delta->format;
  version.delta_bytes = delta->stored_bytes;
  version.mtime_ns = delta->mtime_ns;
  uint64_t changed = 0;
  bool known = true;
  for (const DeltaTensor& tensor : delta->tensors) {
    known = known && tensor.changed_elements.has_value();
    if (!tensor.tied_to) changed += tensor.changed_elements.value_or(0);
  }
  if (known) version.changed_elements = changed;
  return version;
}

void seal(Version& version, Delta delta, const Link& parent) {
  const uint64_t own = mix_identity(xxh3_64(as_bytes(version.name)), delta.identity);
  version.identity = mix_identity(version.kind == VersionKind::kFull ? 0 : parent.identity, own);
  version.delta = std::make_shared<const Delta>(std::move(delta));
}

Error parent_refused(const Version& version, const Link& previous) {
  return {ErrorCode::kChainParentRefused, version.path + ": builds on " + previous.name +
                                              ", which was refused; repair that one, or publish a full version"};
}

bool same_number(const std::vector<Opened>& all, size_t i) {
  const uint64_t number = all[i].candidate->number;
  return (i > 0 && all[i - 1].candidate->number == number) ||
         (i + 1 < all.size() && all[i + 1].candidate->number == number);
}

Error duplicate(const Candidate& candidate) {
  return {ErrorCode::kChainDuplicate, candidate.path + ": another delta has the number " +
                                          std::to_string(candidate.number) + " too; remove the one that is wrong"};
}

// --- weight_v -----------------------------------------------------------------------------------

std::optional<Error> weight_v_fault(const Version& version, const Delta& delta, const Link& previous) {
  if (delta.full) return std::nullopt;
  const uint64_t base = delta.base_number.value_or(0);
  if (base == previous.number && base < version.number) {
    if (!previous.admitted) return parent_refused(version, previous);
    return std::nullopt;
  }
  if (base > previous.number && base < version.number) {
    return Error{ErrorCode::kChainMissing, version.path + ": builds on version " + std::to_string(base) +
                                               ", which is missing; restore it, or publish a full version"};
  }
  return Error{ErrorCode::kParentMismatch, version.path + ": says that it builds on version " + std::to_string(base) +
                                               ", but the version before it is " + std::to_string(previous.number)};
}

std::vector<Version> admit_weight_v(std::vector<Opened> all, const Discovery& discovery, uint64_t base_identity) {
  std::vector<Version> versions;
  Link previous{"base", 0, base_identity, true};
  bool beyond = discovery.pointer == "base";
  for (size_t i = 0; i < all.size(); ++i) {
    const Candidate& candidate = *all[i].candidate;
    Version version = describe(candidate, all[i].delta);
    if (beyond) {
      version.error =
          Error{ErrorCode::kChainUnpublished, candidate.path + ": the pointer file `latest` names " +
                                                  *discovery.pointer + ", so this one is not published yet"};
    } else if (same_number(all, i)) {
      version.error = duplicate(candidate);
    } else if (!version.error) {
      version.error = weight_v_fault(version, *all[i].delta, previous);
    }
    if (version.kind == VersionKind::kDelta) version.parent = previous.name;
    if (version.admitted()) seal(version, std::move(*all[i].delta), previous);
    previous = {version.name, version.number, version.identity, version.admitted()};
    beyond = beyond || (discovery.pointer && version.name == *discovery.pointer);
    versions.push_back(std::move(version));
  }
  return versions;
}

// --- TRL ----------------------------------------------------------------------------------------

using TensorSet = std::vector<bool>;  // by base tensor

bool is_dense(const Delta& delta) {
  return !delta.tensors.empty() &&
         std::all_of(delta.tensors.begin(), delta.tensors.end(), [](const DeltaTensor& t) { return t.patch->dense(); });
}

bool holds_all(const Delta& delta, const TensorSet& required) {
  TensorSet missing = required;
  for (const DeltaTensor& tensor : delta.tensors) missing[tensor.tensor] = false;
  return std::none_of(missing.begin(), missing.end(), [](bool is_missing) { return is_missing; });
}

/// What an anchor must hold so that nothing before it matters: all that the first anchor holds and
/// all that any file of the bucket changes.  Without a readable first anchor, the whole base.
TensorSet required_tensors(const std::vector<Opened>& all, const ModelFolder& base) {
  const bool has_first = !all.empty() && all[0].candidate->number == 1 && all[0].delta && is_dense(*all[0].delta);
  TensorSet required(base.tensors().size(), !has_first);
  for (const Opened& opened : all) {
    if (!opened.delta) continue;
    for (const DeltaTensor& tensor : opened.delta->tensors) required[tensor.tensor] = true;
  }
  return required;
}

/// The time of anchors/step_000001 when it is there: a trainer that restarts in the same bucket writes
/// it anew and leaves the higher numbers of the former run behind.
std::optional<int64_t> run_start(const std::vector<Opened>& all) {
  for (const Opened& opened : all) {
    const Candidate& candidate = *opened.candidate;
    if (candidate.number == 1 && candidate.path.find("/anchors/") != std::string::npos) return candidate.mtime_ns;
  }
  return std::nullopt;
}

bool of_other_run(const Candidate& candidate, const std::optional<int64_t>& start) {
  return start && candidate.mtime_ns + kClockSlackNs < *start;
}

Error other_run(const Candidate& candidate) {
  return {ErrorCode::kChainOtherRun,
          candidate.path +
              ": older than anchors/step_000001, so a former run left it behind; remove it (or, if the "
              "bucket was copied without file times, set its time to that of the anchor or later with touch)"};
}

std::optional<Error> trl_fault(const Version& version, const Delta& delta, const Link& previous) {
  if (delta.full) return std::nullopt;
  if (!previous.admitted) return parent_refused(version, previous);
  if (previous.number == 0 && version.number > 2) {
    return Error{ErrorCode::kChainNoStart, version.path + ": the bucket begins here, but a sparse step " +
                                               std::to_string(version.number) +
                                               " does not build on the base; restore an earlier anchor"};
  }
  return std::nullopt;
}

void warn_of_gap(Version& version, const Link& previous) {
  if (version.number <= previous.number + 1 || version.kind == VersionKind::kFull) return;
  version.warnings.push_back("follows " + previous.name +
                             "; steps without a change are not published, but a lost file looks the same");
}

std::vector<Version> admit_trl(std::vector<Opened> all, const ModelFolder& base) {
  const auto start = run_start(all);
  std::vector<Version> versions;
  const auto stale = [&](const Opened& opened) { return of_other_run(*opened.candidate, start); };
  for (const Opened& opened : all) {
    if (!stale(opened)) continue;
    Version version = describe(*opened.candidate, opened.delta);
    version.error = other_run(*opened.candidate);
    versions.push_back(std::move(version));
  }
  std::erase_if(all, stale);
  const TensorSet required = required_tensors(all, base);
  Link previous{"base", 0, base.identity(), true};
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i].delta) all[i].delta->full = is_dense(*all[i].delta) && holds_all(*all[i].delta, required);
    Version version = describe(*all[i].candidate, all[i].delta);
    if (same_number(all, i)) {
      version.error = duplicate(*all[i].candidate);
    } else if (!version.error) {
      version.error = trl_fault(version, *all[i].delta, previous);
    }
    if (version.kind == VersionKind::kDelta) version.parent = previous.name;
    warn_of_gap(version, previous);
    if (version.admitted()) seal(version, std::move(*all[i].delta), previous);
    previous = {version.name, version.number, version.identity, version.admitted()};
    versions.push_back(std::move(version));
  }
  std::stable_sort(versions.begin(), versions.end(),
                   [](const Version& a, const Version& b) { return a.number < b.number; });
  return versions;
}

}  // namespace

std::vector<Version> admit(const Files& files, const Discovery& discovery, const NameMap& names, bool verify) {
  std::vector<Opened> all;
  all.reserve(discovery.candidates.size());
  for (const Candidate& candidate : discovery.candidates) {
    all.push_back({&candidate, discovery.layout == Layout::kTrl
                                   ? open_trl_file(files, candidate.path, candidate.number, names)
                                   : open_weight_v_folder(files, candidate.path, candidate.number, names, verify)});
  }
  if (discovery.layout == Layout::kTrl) return admit_trl(std::move(all), names.base());
  return admit_weight_v(std::move(all), discovery, names.base().identity());
}

}  // namespace weightfs
