// SPDX-License-Identifier: Apache-2.0
// Trees that follow one another.  What must stay true: a node that the kernel knows is found, whatever is shown
// meanwhile; node ids mean the same in all trees, so it does not matter which of them answers.
#include "vfs/tree.h"

#include <algorithm>

namespace weightfs {
namespace {

/// A node may be on its way to the kernel while its version leaves: no former tree goes before that.
constexpr auto kAtLeast = std::chrono::seconds(1);

uint64_t add_saturating(uint64_t a, uint64_t b) { return a > UINT64_MAX - b ? UINT64_MAX : a + b; }

/// Takes `times` off a count, as many as there are; true when none is left.  None is ever taken off those that were
/// there before we counted.
bool take_off(std::atomic<int64_t>& count, uint64_t times) {
  int64_t before = count.load(std::memory_order_relaxed);
  int64_t after = 0;
  do {
    const int64_t least = before >= Tree::kInherited ? Tree::kInherited : 0;
    const auto counted = static_cast<uint64_t>(before - least);
    after = before - static_cast<int64_t>(std::min(times, counted));
  } while (!count.compare_exchange_weak(before, after, std::memory_order_relaxed));
  return after == 0;
}

void add_names_below(const NodeTable& table, size_t version, std::vector<LeftName>& names) {
  const Listing& entries = table.entries(version);
  for (size_t folder = 0; folder < entries.size(); ++folder) {
    const NodeId id = table.id_of({Node::Kind::kEntry, version, folder});
    for (const size_t child : entries[folder].children) names.push_back({id, entries[child].name});
  }
}

}  // namespace

Tree::Tree(NodeTable nodes, std::unique_ptr<FileReader> bytes) : table(std::move(nodes)), reader(std::move(bytes)) {
  std::vector<uint64_t> sizes;  // by listing
  for (const auto& listing : table.listings()) {
    auto& counts = subfolders.emplace_back();
    counts.reserve(listing->size());
    uint64_t& sum = sizes.emplace_back(0);
    for (const auto& entry : *listing) {
      const auto folders = std::count_if(entry.children.begin(), entry.children.end(), [&](size_t child) {
        return (*listing)[child].kind == ModelFolder::EntryKind::kDirectory;
      });
      counts.push_back(static_cast<uint32_t>(folders));
      sum = add_saturating(sum, entry.size);
    }
  }
  const auto& versions = table.contents().versions;
  for (size_t i = 0; i < versions.size(); ++i) {
    newest_mtime_ns = std::max(newest_mtime_ns, versions[i].mtime_ns);
    total_bytes = add_saturating(total_bytes, sizes[table.listing_of(i)]);
    total_files += versions[i].entries->size();
    known.push_back(std::make_shared<std::atomic<int64_t>>(0));
  }
}

Trees::Trees(std::shared_ptr<Tree> first, Clock clock, bool inherited)
    : clock_(std::move(clock)), current_(std::move(first)) {
  if (!inherited) return;
  for (const auto& known : current_->known) known->store(Tree::kInherited);
}

std::shared_ptr<const Tree> Trees::current() const {
  const std::shared_lock lock(mutex_);
  return current_;
}

/// Needs mutex_.  The newest tree that has the node; null when none has.
const std::shared_ptr<Tree>* Trees::tree_of(NodeId id, Node& node) const {
  if (current_->table.find(id, node)) return &current_;
  for (auto former = former_.rbegin(); former != former_.rend(); ++former) {
    if (former->tree->table.find(id, node)) return &former->tree;
  }
  return nullptr;
}

std::shared_ptr<const Tree> Trees::find(NodeId id, Node& node) const {
  const std::shared_lock lock(mutex_);
  const auto* const tree = tree_of(id, node);
  return tree != nullptr ? *tree : nullptr;
}

std::vector<LeftName> Trees::show(std::shared_ptr<Tree> next) {
  const Former left = exchange(std::move(next));
  const NodeTable& table = left.tree->table;
  std::vector<LeftName> names;
  for (const size_t version : left.gone) {
    names.push_back({NodeTable::kRootId, table.contents().versions[version].name});
    add_names_below(table, version, names);
  }
  return names;
}

/// Returns what was shown before.
Trees::Former Trees::exchange(std::shared_ptr<Tree> next) {
  const std::unique_lock lock(mutex_);
  Former former{current_, {}, clock_()};
  for (size_t i = 0; i < current_->known.size(); ++i) {
    const size_t same = next->table.find_key(current_->table.key(i));
    if (same == NodeTable::npos) {
      former.gone.push_back(i);
    } else {
      next->known[same] = current_->known[i];
    }
  }
  for (Former& other : former_) {  // what comes back has its count from there
    std::erase_if(other.gone, [&](size_t version) {
      const size_t back = next->table.find_key(other.tree->table.key(version));
      if (back != NodeTable::npos) next->known[back] = other.tree->known[version];
      return back != NodeTable::npos;
    });
  }
  if (!former.gone.empty()) former_.push_back(former);
  current_ = std::move(next);
  let_go();
  return former;
}

std::vector<LeftName> Trees::tidy() {
  const std::unique_lock lock(mutex_);
  let_go();
  std::vector<LeftName> names;
  for (const Former& former : former_) {
    if (!former.tree->late.exchange(false)) continue;
    for (const size_t version : former.gone) add_names_below(former.tree->table, version, names);
  }
  return names;
}

/// Needs mutex_.
void Trees::let_go() {
  const auto now = clock_();
  std::erase_if(former_, [&](const Former& former) {
    const auto is_known = [&](size_t version) { return former.tree->known[version]->load() > 0; };
    return now - former.since >= kAtLeast && std::none_of(former.gone.begin(), former.gone.end(), is_known);
  });
}

/// Null for nodes that are always there.
std::atomic<int64_t>* Trees::count_of(const Tree& tree, const Node& node) {
  return node.kind == Node::Kind::kEntry ? tree.known[node.index].get() : nullptr;
}

void Trees::looked_up(NodeId id) {
  Node node;
  const std::shared_lock lock(mutex_);
  const auto* const tree = tree_of(id, node);
  if (tree == nullptr) return;
  if (auto* const count = count_of(**tree, node)) count->fetch_add(1, std::memory_order_relaxed);
  if (*tree != current_) (*tree)->late = true;
}

void Trees::forget(NodeId id, uint64_t times) {
  Node node;
  bool last = false;
  {
    const std::shared_lock lock(mutex_);
    const auto* const tree = tree_of(id, node);
    auto* const count = tree != nullptr ? count_of(**tree, node) : nullptr;
    if (count != nullptr) last = take_off(*count, times) && !former_.empty();
  }
  if (!last) return;
  const std::unique_lock lock(mutex_);
  let_go();
}

std::vector<uint64_t> Trees::gone() const {
  const std::shared_lock lock(mutex_);
  std::vector<uint64_t> identities;
  for (const Former& former : former_) {
    for (const size_t version : former.gone) {
      identities.push_back(former.tree->table.contents().versions[version].identity);
    }
  }
  return identities;
}

TreesHeld Trees::held() const {
  const std::shared_lock lock(mutex_);
  TreesHeld held{1 + former_.size()};
  const auto add = [&held](const std::atomic<int64_t>& known) {
    const int64_t count = known.load(std::memory_order_relaxed);
    held.lookups += static_cast<uint64_t>(count >= Tree::kInherited ? count - Tree::kInherited : count);
  };
  for (const auto& known : current_->known) add(*known);
  for (const Former& former : former_) {
    held.former_versions += former.gone.size();
    for (const size_t version : former.gone) add(*former.tree->known[version]);
  }
  return held;
}

}  // namespace weightfs
