// SPDX-License-Identifier: Apache-2.0
// weight_v names its parent and is strict; TRL names none, gaps in its numbering are normal, and only a complete
// anchor proves that nothing earlier is needed.
#include "chain/chain_rules.h"

#include <algorithm>

#include "common/text.h"
#include "delta/file_hash.h"
#include "delta/trl.h"
#include "delta/weight_v.h"

namespace weightfs {
namespace {

// Files of one run are written after its first anchor; two seconds allow for copies and coarse clocks.
constexpr int64_t kClockSlackNs = 2'000'000'000;

Error parent_refused(const Version& version, const Link& previous) {
  return {ErrorCode::kChainParentRefused, version.path + ": builds on " + previous.name +
                                              ", which was refused; repair that one, or publish a full version"};
}

std::optional<Error> weight_v_fault(const Version& version, const Delta& delta, const Link& previous) {
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

std::optional<Error> trl_fault(const Version& version, const Link& previous) {
  if (!previous.admitted) return parent_refused(version, previous);
  if (previous.number == 0 && version.number > 2) {
    return Error{ErrorCode::kChainNoStart, version.path + ": the bucket begins here, but a sparse step " +
                                               std::to_string(version.number) +
                                               " does not build on the base; restore an earlier anchor"};
  }
  return std::nullopt;
}

}  // namespace

Result<Delta> open_candidate(const Files& files, Layout layout, const Candidate& candidate, const NameMap& names,
                             bool verify) {
  if (layout == Layout::kTrl) return open_trl_file(files, candidate.path, candidate.number, names);
  return open_weight_v_folder(files, candidate.path, candidate.number, names, verify);
}

Version describe(const Candidate& candidate, Error error) {
  Version version;
  version.name = candidate.name;
  version.path = candidate.path;
  version.number = candidate.number;
  version.mtime_ns = candidate.mtime_ns;
  version.error = std::move(error);
  return version;
}

Version describe(const Candidate& candidate, const Delta& delta) {
  Version version = describe(candidate, Error{});
  version.error.reset();
  version.kind = delta.full ? VersionKind::kFull : VersionKind::kDelta;
  version.format = delta.format;
  version.delta_bytes = delta.stored_bytes;
  version.mtime_ns = delta.mtime_ns;
  uint64_t changed = 0;
  bool known = true;
  for (const DeltaTensor& tensor : delta.tensors) {
    known = known && tensor.changed_elements.has_value();
    if (!tensor.tied_to) changed += tensor.changed_elements.value_or(0);
  }
  if (known) version.changed_elements = changed;
  return version;
}

std::optional<Error> chain_fault(Layout layout, Version& version, const Delta& delta, const Link& previous) {
  if (delta.full) return std::nullopt;
  version.parent = previous.name;
  return layout == Layout::kTrl ? trl_fault(version, previous) : weight_v_fault(version, delta, previous);
}

uint64_t identity_on(const Link& previous, std::string_view name, const Delta& delta, bool full) {
  const uint64_t own = mix_identity(xxh3_64(as_bytes(name)), delta.identity);
  return mix_identity(full ? 0 : previous.identity, own);
}

void seal(Version& version, std::shared_ptr<const Delta> delta, const Link& previous) {
  version.identity = identity_on(previous, version.name, *delta, version.kind == VersionKind::kFull);
  version.delta = std::move(delta);
}

Link link_to(const Version& version) { return {version.name, version.number, version.identity, version.admitted()}; }

bool has_gap(const Version& version, const Link& previous) {
  return version.number > previous.number + 1 && version.kind != VersionKind::kFull;
}

void warn_of_gap(Version& version, const Link& previous) {
  if (!has_gap(version, previous)) return;
  version.warnings.push_back("follows " + previous.name +
                             "; steps without a change are not published, but a lost file looks the same");
}

std::optional<int64_t> run_start(const std::vector<Candidate>& candidates) {
  for (const Candidate& candidate : candidates) {
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

Error duplicate(const Candidate& candidate) {
  return {ErrorCode::kChainDuplicate, candidate.path + ": another delta has the number " +
                                          std::to_string(candidate.number) + " too; remove the one that is wrong"};
}

Error unpublished(const Candidate& candidate, const std::string& pointer) {
  return {ErrorCode::kChainUnpublished,
          candidate.path + ": the pointer file `latest` names " + pointer + ", so this one is not published yet"};
}

void add_tensors(TensorSet& set, const Delta& delta) {
  for (const DeltaTensor& tensor : delta.tensors) set[tensor.tensor] = true;
}

bool is_dense(const Delta& delta) {
  return !delta.tensors.empty() &&
         std::all_of(delta.tensors.begin(), delta.tensors.end(), [](const DeltaTensor& t) { return t.patch->dense(); });
}

bool is_anchor(const Delta& delta, const TensorSet& required) {
  if (!is_dense(delta)) return false;
  TensorSet missing = required;
  for (const DeltaTensor& tensor : delta.tensors) missing[tensor.tensor] = false;
  return std::none_of(missing.begin(), missing.end(), [](bool is_missing) { return is_missing; });
}

}  // namespace weightfs
