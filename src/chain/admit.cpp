// SPDX-License-Identifier: Apache-2.0
// All candidates of a source at once, in order of their numbers.
#include "chain/admit.h"

#include <algorithm>

#include "chain/chain_rules.h"

namespace weightfs {
namespace {

struct Opened {
  const Candidate* candidate;
  Result<Delta> delta;
};

bool same_number(const std::vector<Opened>& all, size_t i) {
  const uint64_t number = all[i].candidate->number;
  return (i > 0 && all[i - 1].candidate->number == number) ||
         (i + 1 < all.size() && all[i + 1].candidate->number == number);
}

Version describe(const Opened& opened) {
  return opened.delta ? describe(*opened.candidate, *opened.delta) : describe(*opened.candidate, opened.delta.error());
}

/// What stands against version `i`, which comes after `previous`.
void judge(Layout layout, Version& version, const std::vector<Opened>& all, size_t i, const Link& previous) {
  if (version.kind == VersionKind::kDelta) version.parent = previous.name;
  if (same_number(all, i)) {
    version.error = duplicate(*all[i].candidate);
  } else if (!version.error) {
    version.error = chain_fault(layout, version, *all[i].delta, previous);
  }
}

std::vector<Version> admit_weight_v(std::vector<Opened> all, const Discovery& discovery, uint64_t base_identity) {
  std::vector<Version> versions;
  Link previous{"base", 0, base_identity, true};
  bool beyond = discovery.pointer == "base";
  for (size_t i = 0; i < all.size(); ++i) {
    Version version = describe(all[i]);
    judge(Layout::kWeightV, version, all, i, previous);
    if (beyond) version.error = unpublished(*all[i].candidate, *discovery.pointer);
    if (version.admitted()) seal(version, std::make_shared<const Delta>(*std::move(all[i].delta)), previous);
    previous = link_to(version);
    beyond = beyond || (discovery.pointer && version.name == *discovery.pointer);
    versions.push_back(std::move(version));
  }
  return versions;
}

/// All that the first anchor holds and all that any file of the bucket changes.  Without a readable first anchor, the
/// whole base.
TensorSet required_tensors(const std::vector<Opened>& all, const ModelFolder& base) {
  const bool has_first = !all.empty() && all[0].candidate->number == 1 && all[0].delta && is_dense(*all[0].delta);
  TensorSet required(base.tensors().size(), !has_first);
  for (const Opened& opened : all) {
    if (opened.delta) add_tensors(required, *opened.delta);
  }
  return required;
}

std::vector<Version> admit_trl(std::vector<Opened> all, const Discovery& discovery, const ModelFolder& base) {
  const auto start = run_start(discovery.candidates);
  std::vector<Version> versions;
  const auto stale = [&](const Opened& opened) { return of_other_run(*opened.candidate, start); };
  for (const Opened& opened : all) {
    if (!stale(opened)) continue;
    Version version = describe(opened);
    version.error = other_run(*opened.candidate);
    versions.push_back(std::move(version));
  }
  std::erase_if(all, stale);
  const TensorSet required = required_tensors(all, base);
  Link previous{"base", 0, base.identity(), true};
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i].delta) all[i].delta->full = is_anchor(*all[i].delta, required);
    Version version = describe(all[i]);
    judge(Layout::kTrl, version, all, i, previous);
    warn_of_gap(version, previous);
    if (version.admitted()) seal(version, std::make_shared<const Delta>(*std::move(all[i].delta)), previous);
    previous = link_to(version);
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
    all.push_back({&candidate, open_candidate(files, discovery.layout, candidate, names, verify)});
  }
  if (discovery.layout == Layout::kTrl) return admit_trl(std::move(all), discovery, names.base());
  return admit_weight_v(std::move(all), discovery, names.base().identity());
}

}  // namespace weightfs
