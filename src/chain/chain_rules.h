// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "chain/discover.h"
#include "chain/snapshot.h"
#include "delta/delta.h"
#include "delta/names.h"

namespace weightfs {

// The chain rules of the published formats.  Each looks only one step back.

/// The version before the one being judged.
struct Link {
  std::string name = "base";
  uint64_t number = 0;
  uint64_t identity = 0;
  bool admitted = true;
};

/// Reads the headers of a candidate.  Of TRL, `full` is not decided yet.
Result<Delta> open_candidate(const Files& files, Layout layout, const Candidate& candidate, const NameMap& names,
                             bool verify);

/// What is known of a candidate whose headers were read, or not.
Version describe(const Candidate& candidate, const Delta& delta);
Version describe(const Candidate& candidate, Error error);

/// What the layout's rules say against a delta after `previous`; its parent is written into `version`.
std::optional<Error> chain_fault(Layout layout, Version& version, const Delta& delta, const Link& previous);
/// What a delta of that name would be identified by on top of `previous`; `full` says that it needs nothing below.
uint64_t identity_on(const Link& previous, std::string_view name, const Delta& delta, bool full);
/// Makes it an admitted version on top of `previous`.
void seal(Version& version, std::shared_ptr<const Delta> delta, const Link& previous);
Link link_to(const Version& version);

/// TRL: numbers may be left out, but a lost file looks the same.
bool has_gap(const Version& version, const Link& previous);
void warn_of_gap(Version& version, const Link& previous);

/// TRL: the time of anchors/step_000001, where it is among the candidates: a trainer that restarts in the same bucket
/// writes it anew and leaves the higher numbers of the former run behind.
std::optional<int64_t> run_start(const std::vector<Candidate>& candidates);
/// Older than its run: left over from another.
bool of_other_run(const Candidate& candidate, const std::optional<int64_t>& start);
Error other_run(const Candidate& candidate);

Error duplicate(const Candidate& candidate);
Error unpublished(const Candidate& candidate, const std::string& pointer);

/// By base tensor: those that an anchor must hold so that nothing before it matters.
using TensorSet = std::vector<bool>;
void add_tensors(TensorSet& set, const Delta& delta);
bool is_dense(const Delta& delta);
/// TRL: whether a delta is an anchor that needs nothing before it.
bool is_anchor(const Delta& delta, const TensorSet& required);

}  // namespace weightfs
