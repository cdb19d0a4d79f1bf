// SPDX-License-Identifier: Apache-2.0
// Chain rules of native stores.  A manifest names its parent with the digest of the parent's manifest, which
// names its own parent, and so on down to the base: a version that is admitted stands on exactly the bytes it
// was made from.  A net may replace a parent that was pruned: it names both of its ends in the same way.
#include "chain/native_chain.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include "common/log.h"
#include "common/text.h"
#include "delta/file_hash.h"
#include "delta/native_layout.h"
#include "model/tree_layout.h"

namespace weightfs {
namespace {

using Kind = NativeManifest::Kind;

/// When a version was made; the time of its files where the manifest says it in another way.
int64_t made_at_ns(const NativeVersion& version) {
  std::tm parts{};
  const char* const end = strptime(version.manifest().created.c_str(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  if (end == nullptr || *end != '\0') return version.mtime_ns();
  return static_cast<int64_t>(timegm(&parts)) * 1'000'000'000;
}

Version describe(const NativeVersion& version, uint64_t number) {
  const NativeManifest& manifest = version.manifest();
  Version out;
  out.name = manifest.name;
  out.kind = number == 0 ? VersionKind::kBase : manifest.kind == Kind::kFull ? VersionKind::kFull : VersionKind::kDelta;
  out.format = "native-" + std::string(native_kind_name(manifest.kind));
  out.path = version.folder();
  out.number = number;
  out.delta_bytes = version.stored_bytes();
  out.changed_elements = manifest.changed;
  out.mtime_ns = made_at_ns(version);
  out.message = manifest.message;
  return out;
}

/// What a layout would unfold to: a few bytes of paths can name very many folders.
Status check_entries(const TreeLayout& tree, const std::string& where) {
  constexpr uint64_t kMaxEntries = 1'000'000;
  uint64_t entries = 0;
  std::string_view before;
  for (const TreeFile& file : tree.files()) {
    const std::string_view path = file.path;
    const auto same = std::mismatch(path.begin(), path.end(), before.begin(), before.end()).first;
    entries += 1 + static_cast<uint64_t>(std::count(same, path.end(), '/'));
    before = path;
  }
  if (entries <= kMaxEntries) return {};
  return Error{ErrorCode::kNativeLayout,
               quote(where) + ": its layout has more than " + std::to_string(kMaxEntries) + " files and folders"};
}

bool made_before(const NativeVersion& a, const NativeVersion& b) {
  return std::tie(a.manifest().created, a.manifest().name) < std::tie(b.manifest().created, b.manifest().name);
}

}  // namespace

Result<NativeLink> native_link(const std::shared_ptr<const NativeVersion>& delta, size_t from,
                               std::shared_ptr<const TreeLayout>& tree) {
  NativeLink link{delta, from, nullptr};
  auto layout = TRY(delta->read_layout(tree.get()));
  if (!layout) return link;
  // Many trees that are equal should be one.
  if (!(*layout->tree == *tree)) tree = std::move(layout->tree);
  link.parents = std::make_shared<const std::vector<uint32_t>>(std::move(layout->parents));
  return link;
}

NativeChain::NativeChain(const StoreContents& contents) : contents_(contents) {
  for (const auto& found : contents.versions) {
    if (!found.version) continue;
    readable_.emplace(found.name, *found.version);
    decisions_.emplace(found.name, Decision{});
  }
}

Status NativeChain::add_base(std::shared_ptr<const ModelFolder> folder) {
  const Opened base = readable_.at(std::string(kBaseVersionName));
  root_ = base->manifest().digest;
  NativeState state;
  state.version = base;
  if (folder != nullptr) {
    state.folder = std::move(folder);
  } else {
    auto layout = TRY(base->read_layout(nullptr));
    if (!layout) {
      return Error{ErrorCode::kNativeManifest, quote(base->folder()) + ": a base without a layout; copy it again"};
    }
    TRY(check_result_files(base->manifest(), *layout->tree));
    TRY(check_entries(*layout->tree, base->folder()));
    state.folder = folder_of(layout->tree);
    state.links.push_back({base, std::nullopt, nullptr});
    state.own_link = true;
  }
  append(base, std::move(state));
  decisions_.at(std::string(kBaseVersionName)) = {true, 0};
  return {};
}

void NativeChain::append(const Opened& version, NativeState state) {
  Version described = describe(*version, versions_.size());
  const uint64_t own = xxh3_64(as_bytes(version->manifest().digest));
  if (states_.empty()) {
    described.identity = mix_identity(state.folder->identity(), own);
    if (state.links.empty()) {  // its files are on disk
      described.path = state.folder->path();
      described.delta_bytes = 0;
      described.changed_elements = 0;
      described.mtime_ns = 0;
      for (const auto& entry : state.folder->entries()) {
        if (entry.source) described.mtime_ns = std::max(described.mtime_ns, entry.mtime_ns);
      }
    }
  } else {
    described.identity = mix_identity(versions_.front().identity, own);
    const auto& from = state.links.front().from;
    if (from) described.parent = versions_[place_[*from]].name;
  }
  place_.push_back(versions_.size());
  versions_.push_back(std::move(described));
  states_.push_back(std::move(state));
}

/// One folder object for all versions of one tree.
std::shared_ptr<const ModelFolder> NativeChain::folder_of(const std::shared_ptr<const TreeLayout>& tree) {
  auto& folder = folders_[tree.get()];
  if (!folder) folder = ModelFolder::of_tree(tree);
  return folder;
}

/// The readable version that a link names; null when there is none, or another one of that name.
const NativeChain::Opened* NativeChain::find(const NativeManifest::Link& link) const {
  const auto found = readable_.find(link.name);
  return found == readable_.end() || found->second->manifest().digest != link.digest ? nullptr : &found->second;
}

std::optional<size_t> NativeChain::ordinal_of(const NativeManifest::Link& link) const {
  return find(link) == nullptr ? std::nullopt : decisions_.at(link.name).ordinal;
}

std::vector<NativeChain::Opened> NativeChain::nets_to(const NativeVersion& version) const {
  std::vector<Opened> nets;
  const NativeManifest::Link wanted{version.manifest().name, version.manifest().digest};
  for (const auto& found : contents_.nets) {
    if (found.version && (*found.version)->manifest().result == wanted) nets.push_back(*found.version);
  }
  return nets;
}

/// Whether all that could be below a version has been decided.
bool NativeChain::ready(const NativeVersion& version) const {
  const auto decided = [&](const std::optional<NativeManifest::Link>& link) {
    return !link || find(*link) == nullptr || decisions_.at(link->name).decided;
  };
  if (!decided(version.manifest().parent)) return false;
  if (version.manifest().kind == Kind::kFull || ordinal_of(*version.manifest().parent)) return true;
  const auto nets = nets_to(version);
  return std::all_of(nets.begin(), nets.end(), [&](const Opened& net) { return decided(net->manifest().parent); });
}

void NativeChain::add_versions() {
  std::vector<Opened> waiting;
  for (const auto& [name, version] : readable_) {
    if (!decisions_.at(name).decided) waiting.push_back(version);
  }
  std::sort(waiting.begin(), waiting.end(), [](const Opened& a, const Opened& b) { return made_before(*a, *b); });
  while (!waiting.empty()) {
    const auto next = std::find_if(waiting.begin(), waiting.end(), [&](const Opened& v) { return ready(*v); });
    if (next == waiting.end()) break;
    const Opened version = *next;
    waiting.erase(next);
    decide(version);
  }
  for (const Opened& version : waiting) {
    refuse(version, {ErrorCode::kParentMismatch, version->folder() + ": it and the versions below it run in a circle"});
  }
  refuse_unreadable();
  attach_nets();
}

void NativeChain::decide(const Opened& version) {
  const NativeManifest& manifest = version->manifest();
  Decision& decision = decisions_.at(manifest.name);
  auto state = manifest.root == root_
                   ? admit(version)
                   : Error{ErrorCode::kParentMismatch, version->folder() + ": made on another base than this store's"};
  if (!state) return refuse(version, std::move(state).error());
  decision = {true, states_.size()};
  append(version, *std::move(state));
}

void NativeChain::refuse(const Opened& version, Error error) {
  decisions_.at(version->manifest().name) = {true, std::nullopt};
  Version described = describe(*version, versions_.size());
  if (version->manifest().parent) described.parent = version->manifest().parent->name;
  described.error = std::move(error);
  versions_.push_back(std::move(described));
}

void NativeChain::refuse_unreadable() {
  for (const auto& found : contents_.versions) {
    if (found.version) continue;
    Version version;
    version.name = found.name;
    version.format = "native";
    version.path = found.path;
    version.number = versions_.size();
    version.error = found.version.error();
    versions_.push_back(std::move(version));
  }
}

std::optional<Error> NativeChain::parent_fault(const NativeManifest& manifest) const {
  const NativeManifest::Link& parent = *manifest.parent;
  if (ordinal_of(parent)) return std::nullopt;
  const std::string what = manifest.name + ": builds on " + quote(parent.name);
  const bool is_there = std::any_of(contents_.versions.begin(), contents_.versions.end(),
                                    [&](const auto& found) { return found.name == parent.name; });
  if (!is_there) {
    return Error{ErrorCode::kChainMissing, what + ", which is missing; restore it, or a net that leads over it"};
  }
  if (find(parent) == nullptr && readable_.contains(parent.name)) {
    return Error{ErrorCode::kParentMismatch,
                 what + " with the digest " + parent.digest + ", but the version of that name here is another one"};
  }
  return Error{ErrorCode::kChainParentRefused, what + ", which was refused; repair that one"};
}

Result<NativeState> NativeChain::admit(const Opened& version) {
  const NativeManifest& manifest = version->manifest();
  NativeState state;
  state.version = version;
  state.own_link = true;
  std::shared_ptr<const TreeLayout> tree;
  if (manifest.kind == Kind::kFull) {
    auto layout = TRY(version->read_layout(nullptr));
    if (!layout) {
      return Error{ErrorCode::kNativeManifest, version->folder() + ": a full version without a layout"};
    }
    tree = *layout->tree == *states_.front().folder->tree() ? states_.front().folder->tree() : layout->tree;
    state.links.push_back({version, std::nullopt, nullptr});
  } else {
    if (auto fault = parent_fault(manifest)) return admit_by_net(version, *fault);
    const size_t parent = *ordinal_of(*manifest.parent);
    tree = states_[parent].folder->tree();
    state.links.push_back(TRY(native_link(version, parent, tree)));
  }
  TRY(check_result_files(manifest, *tree));
  TRY(check_entries(*tree, version->folder()));
  state.folder = folder_of(tree);
  return state;
}

Result<NativeState> NativeChain::admit_by_net(const Opened& version, const Error& why_not) {
  for (const Opened& net : nets_to(*version)) {
    const auto from = ordinal_of(*net->manifest().parent);
    if (!from) continue;
    std::shared_ptr<const TreeLayout> tree = states_[*from].folder->tree();
    auto link = native_link(net, *from, tree);
    if (!link || !check_result_files(version->manifest(), *tree) || !check_entries(*tree, net->folder())) continue;
    NativeState state;
    state.version = version;
    state.folder = folder_of(tree);
    state.links.push_back(*std::move(link));
    return state;
  }
  return why_not;
}

void NativeChain::attach_nets() {
  for (const auto& found : contents_.nets) {
    const Status attached = found.version ? attach(*found.version) : Status(found.version.error());
    if (attached) continue;
    const Error fault = attached.error().in("net " + quote(found.name) + " is not used");
    versions_.front().warnings.push_back(fault.text());
    versions_.front().net_faults.push_back(fault);
  }
}

Status NativeChain::attach(const Opened& net) {
  const NativeManifest& manifest = net->manifest();
  const auto to = ordinal_of(*manifest.result);
  const auto from = ordinal_of(*manifest.parent);
  if (!to || !from || *from >= *to || manifest.root != root_) {
    return Error{ErrorCode::kParentMismatch, "it does not lead from one version here to a later one"};
  }
  NativeState& state = states_[*to];
  const auto is_it = [&](const NativeLink& link) { return link.delta == net; };
  if (std::none_of(state.links.begin(), state.links.end(), is_it)) {
    std::shared_ptr<const TreeLayout> tree = states_[*from].folder->tree();
    auto link = TRY(native_link(net, *from, tree));
    if (!(*tree == *state.folder->tree())) {
      return Error{ErrorCode::kNativeLayout, "it leads to other files than " + quote(manifest.result->name) + " has"};
    }
    state.links.push_back(std::move(link));
  }
  versions_[place_[*to]].net_bytes += net->stored_bytes();
  return {};
}

}  // namespace weightfs
