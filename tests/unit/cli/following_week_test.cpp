// SPDX-License-Identifier: Apache-2.0
// A week of a mount that follows, on a clock of its own: what only time does (pins that end, trees that may go, looks
// that become due, versions that are tried again) happens as often as in seven days.  What the kernel and loaders do is
// played here; WEIGHTFS_WEEK_VERSIONS is the number of minutes, one version each: 10080 is the week.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <random>

#include "cli/following.h"
#include "common/memory_limit.h"
#include "support/formats.h"
#include "support/made_run.h"
#include "support/open_run.h"
#include "unit/support/fake_keeper.h"
#include "unit/support/temp_folder.h"
#include "vfs/vfs.h"

namespace weightfs::cli {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
using TimePoint = std::chrono::steady_clock::time_point;

constexpr uint64_t kKeep = 8;
constexpr seconds kWeekLimit{60};  // no test waits for it to pass
constexpr minutes kLongestLoad{40};
constexpr size_t kLoaders = 12;  // at once, at most
constexpr uint64_t kFullEvery = 50;
constexpr const char* kFile = "model.safetensors";
constexpr int32_t kNoProcess = 1 << 24;  // more than the kernel ever gives a process

int minutes_to_play() {
  const char* const text = std::getenv("WEIGHTFS_WEEK_VERSIONS");
  return text != nullptr ? std::atoi(text) : 900;
}

class NoControl final : public ControlFiles {
 public:
  std::string status_json() override { return "{}"; }
  std::string version_json(const std::string&) override { return "null"; }
};

/// What the kernel knows of a mount.  As Linux does, it counts its lookups, and keeps what nobody uses while it has a
/// name; that it loses when we say so, or when memory is short, which it never is here.
class Kernel {
 public:
  explicit Kernel(Vfs& vfs) : vfs_(vfs) {}

  /// Nothing when there is no such name.
  std::optional<NodeId> walk(const std::vector<std::string>& path, NodeId from = NodeTable::kRootId) {
    const std::lock_guard lock(mutex_);
    NodeId at = from;
    for (const std::string& name : path) {
      const auto known = names_.find({at, name});
      const auto next = known != names_.end() ? std::optional(known->second) : look_up(at, name);
      if (!next) return std::nullopt;
      at = *next;
    }
    return at;
  }
  void hold(NodeId id) {
    const std::lock_guard lock(mutex_);
    ++inodes_[id].users;
  }
  void let_go(NodeId id) {
    const std::lock_guard lock(mutex_);
    --inodes_[id].users;
    release(id);
  }
  void take_back(const std::vector<LeftName>& names) {
    const std::lock_guard lock(mutex_);
    for (const LeftName& left : names) {
      const auto known = names_.find({left.folder, left.name});
      if (known == names_.end()) continue;
      const NodeId id = known->second;
      names_.erase(known);
      inodes_[id].named = false;
      release(id);
    }
  }
  /// How often it knows nodes of versions, and whether the mount says the same.
  uint64_t lookups() const {
    const std::lock_guard lock(mutex_);
    return sum();
  }
  bool agrees() const {
    const std::lock_guard lock(mutex_);
    return vfs_.held().lookups == sum();
  }

 private:
  struct Inode {
    NodeId parent = NodeTable::kRootId;
    uint64_t lookups = 0;
    uint64_t users = 0;  // children included
    bool named = false;
  };

  uint64_t sum() const {
    uint64_t total = 0;
    for (const auto& [id, inode] : inodes_) total += id == NodeTable::kLatestId ? 0 : inode.lookups;
    return total;
  }
  std::optional<NodeId> look_up(NodeId folder, const std::string& name) {
    const auto found = vfs_.lookup(folder, name);
    if (!found) return std::nullopt;
    vfs_.looked_up(*found);
    Inode& inode = inodes_[*found];
    if (inode.lookups++ == 0) ++inodes_[folder].users;
    inode.parent = folder;
    inode.named = true;
    names_[{folder, name}] = *found;
    return *found;
  }
  void release(NodeId id) {
    while (id != NodeTable::kRootId && inodes_[id].users == 0 && !inodes_[id].named) {
      const Inode inode = inodes_[id];
      vfs_.forget(id, inode.lookups);
      inodes_.erase(id);
      id = inode.parent;
      --inodes_[id].users;
    }
  }

  Vfs& vfs_;
  mutable std::mutex mutex_;  // guards what follows
  std::map<std::pair<NodeId, std::string>, NodeId> names_;
  std::map<NodeId, Inode> inodes_;
};

/// A trainer that publishes one version after the other, each in one step.
class Trainer {
 public:
  Trainer(const test::TempFolder& folder, std::mt19937_64& random)
      : folder_(folder), random_(random), first_(test::random_bytes(random, kBytes)), now_(first_) {
    test::write_model(folder_.path("source/base"), {{{"a", "BF16", {kBytes / 2}, first_}}});
  }

  static std::string name_of(uint64_t number) { return "weight_v" + test::six_digits(number); }
  std::string name() const { return name_of(number_); }
  const std::string& bytes() const { return now_; }
  uint64_t number() const { return number_; }

  void publish() {
    const std::string before = now_;
    for (int i = 0; i < 20; ++i) now_[random_() % kBytes] ^= static_cast<char>(1 + random_() % 255);
    ++number_;
    if (number_ % kFullEvery == 0) {
      test::write_model(folder_.path("made/" + name()), {{{"a", "BF16", {kBytes / 2}, now_}}});
    } else {
      test::write_weight_v(folder_.path("made"), {number_, number_ - 1, "xor", "xxh3-128", 1}, {{"a", before, now_}});
    }
    put();
    // Two full versions back nobody needs anything.
    if (number_ > 2 * kFullEvery) fs::remove_all(folder_.path("source/" + name_of(number_ - 2 * kFullEvery)));
  }
  /// As publish(), but bytes are not what their digest says; mend() writes it anew.
  void publish_damaged() {
    before_damage_ = now_;
    for (int i = 0; i < 20; ++i) now_[random_() % kBytes] ^= 1;
    ++number_;
    std::string other = now_;
    other[7] ^= 1;
    auto files = test::weight_v_files({number_, number_ - 1, "xor", "xxh3-128", 1}, {{"a", before_damage_, other}});
    for (const auto& [file, bytes] : files) {
      std::string wrong = bytes;
      const std::string digest = test::xxh3_128_hex(other);
      for (size_t at = wrong.find(digest); at != std::string::npos; at = wrong.find(digest)) {
        wrong[at] = wrong[at] == '0' ? '1' : '0';
      }
      test::write_file(folder_.path("made/" + name() + "/" + file), wrong);
    }
    put();
  }
  void mend() {
    test::write_weight_v(folder_.path("made"), {number_, number_ - 1, "xor", "xxh3-128", 1},
                         {{"a", before_damage_, now_}});
    fs::rename(folder_.path("source/" + name()), folder_.path("old"));
    put();
    fs::remove_all(folder_.path("old"));
  }
  /// Starts anew from the base.
  void wipe() {
    for (const auto& entry : fs::directory_iterator(folder_.path("source"))) {
      if (entry.path().filename() != "base") fs::remove_all(entry.path());
    }
    now_ = first_;
    number_ = 0;
  }
  bool next_is_delta() const { return (number_ + 1) % kFullEvery != 0; }

 private:
  static constexpr size_t kBytes = 1u << 12;

  void put() const { fs::rename(folder_.path("made/" + name()), folder_.path("source/" + name())); }

  const test::TempFolder& folder_;
  std::mt19937_64& random_;
  std::string first_;
  std::string now_;
  std::string before_damage_;
  uint64_t number_ = 0;
};

/// A server that comes through `latest`, opens shard after shard by path, and keeps what it has got.
struct Loader {
  int32_t process;
  std::string version;
  std::string bytes;  // of the tensor, as the trainer had it
  NodeId folder;
  NodeId file;
  TimePoint began;
  TimePoint until;
};

class WeekOfFollowing : public ::testing::Test {
 protected:
  void SetUp() override {
    trainer_.publish();
    expect_[trainer_.name()] = trainer_.bytes();
    follow_.source = {folder_.path("source"), {}, true};
    follow_.keep = kKeep;
    follow_.now = [this] { return now_.load(); };
    auto first = test::open_snapshot(files_, folder_.path("source"));
    ASSERT_NE(first, nullptr);
    auto follower = Follower::make(files_, follow_, first);
    serving_ = serve_all(follower->catalog({}), std::make_shared<Engine>(first, EngineOptions{16u << 20, 2, true}));
    VfsOptions options;
    options.pin_grace = minutes(1);
    options.keeper = keeper_;
    options.now = follow_.now;
    vfs_ = std::make_unique<Vfs>(table_of(*serving_), engine_reader(serving_->versions), std::make_unique<NoControl>(),
                                 options);
    kernel_ = std::make_unique<Kernel>(*vfs_);
    FollowingOptions following;
    following.poll = milliseconds(200);
    following.now = follow_.now;
    Following::Actions actions;
    actions.show = [this](const auto& serving, const ShownState& state) { show(serving, state); };
    actions.pinned = [this] { return vfs_->pinned(); };
    actions.tidy = [this] { kernel_->take_back(vfs_->tidy()); };
    actions.open = [this] { return vfs_->gone(); };
    actions.pins = [this] { return vfs_->pinned_trees(); };
    following_ = std::make_unique<Following>(std::move(follower), follow_.keep, serving_, std::move(following),
                                             std::move(actions));
    following_->start();
  }
  void TearDown() override { following_.reset(); }

  static NodeTable table_of(const Serving& serving) { return NodeTable::build(tree_contents(serving.catalog)).value(); }

  void show(const std::shared_ptr<const Serving>& serving, const ShownState& state) {
    kernel_->take_back(vfs_->show(table_of(*serving), engine_reader(serving->versions)));
    const std::lock_guard lock(mutex_);
    serving_ = serving;
    remembered_ = state.shown.size() + state.verified.size();
    changed_.notify_all();
  }
  template <class Condition>
  bool when(Condition condition) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kWeekLimit, [&] { return condition(serving_->catalog); });
  }
  void is_latest() {
    expect_[trainer_.name()] = trainer_.bytes();
    expect_.erase(Trainer::name_of(trainer_.number() - 4 * kFullEvery));
    const std::string name = trainer_.name();
    ASSERT_TRUE(when([&](const Catalog& catalog) { return catalog.latest().version().name == name; })) << name;
  }

  void publish() {
    if (trainer_.next_is_delta() && random_() % 60 == 0) {
      trainer_.publish_damaged();
      const std::string name = trainer_.name();
      ASSERT_TRUE(when([&](const Catalog& catalog) { return catalog.find_refused(name) != nullptr; })) << name;
      ++damaged_;
      half_a_minute();
      trainer_.mend();
    } else {
      if (random_() % 400 == 0) {
        trainer_.wipe();
        ++wiped_;
      }
      trainer_.publish();
    }
    is_latest();
  }

  void pass(seconds time) { now_.store(now_.load() + time); }

  std::string read_tensor(NodeId file) {
    const auto size = static_cast<size_t>(vfs_->getattr(file)->st_size);
    std::string out(size, '?');
    const auto count = vfs_->read(file, 0, 0, std::as_writable_bytes(std::span(out)));
    return count && count->value() == size ? out.substr(size - trainer_.bytes().size()) : "not read";
  }

  void begin_load() {
    Loader loader{next_process_++, {}, {}, 0, 0, now_.load(), {}};
    const auto answer = vfs_->readlink(NodeTable::kLatestId, loader.process);
    ASSERT_TRUE(answer);
    loader.version = *answer;
    loader.bytes = expect_.at(loader.version);
    const auto folder = kernel_->walk({loader.version});
    ASSERT_TRUE(folder) << loader.version;
    loader.folder = *folder;
    kernel_->hold(loader.folder);
    const auto file = kernel_->walk({kFile}, loader.folder);
    ASSERT_TRUE(file) << loader.version;
    loader.file = *file;
    ASSERT_TRUE(vfs_->open(loader.file, loader.process));
    kernel_->hold(loader.file);
    loader.until = loader.began + seconds(random_() % (kLongestLoad / seconds(1)));
    loaders_.push_back(loader);
  }
  /// Whoever loads finds the same version through `latest`, as long as its name was not taken by another run.
  void go_on(Loader& loader) {
    const auto answer = vfs_->readlink(NodeTable::kLatestId, loader.process);
    ASSERT_TRUE(answer);
    if (loader.bytes != expect_.at(loader.version)) return;  // wiped meanwhile
    ASSERT_EQ(*answer, loader.version) << "after " << (now_.load() - loader.began) / seconds(1) << " s";
    ASSERT_TRUE(vfs_->open(loader.file, loader.process));
  }
  void end_load(const Loader& loader) {
    EXPECT_TRUE(read_tensor(loader.file) == loader.bytes) << loader.version << ": of another version";
    // By the handle of a folder a file is found as long as that is held, also when the version has left.
    EXPECT_EQ(kernel_->walk({kFile}, loader.folder), loader.file);
    kernel_->let_go(loader.file);
    kernel_->let_go(loader.folder);
  }
  void half_a_minute() {
    pass(seconds(30));
    for (Loader& loader : loaders_) go_on(loader);
    while (!loaders_.empty() && loaders_.front().until <= now_.load()) {
      end_load(loaders_.front());
      loaders_.pop_front();
    }
    if (loaders_.size() < kLoaders && random_() % 4 == 0) begin_load();
    kernel_->walk({"latest"});
  }

  struct Sizes {
    size_t resident = resident_memory();
    size_t descriptors = count_in("/proc/self/fd");
    size_t threads = count_in("/proc/self/task");

    static size_t count_in(const char* folder) {
      return static_cast<size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
    }
  };

  /// None of it depends on how many minutes there were.
  void expect_bounded() {
    // Versions in use: those listed, those pinned beside them, and those of loads that are under way.
    const TreesHeld held = vfs_->held();
    EXPECT_LE(held.trees, 1 + 2 * kLoaders);
    EXPECT_LE(held.former_versions, 2 * kLoaders);
    EXPECT_LE(vfs_->pinned().size(), kLoaders + 2);
    EXPECT_LE(vfs_->pinned_trees(), kLoaders + 2);
    EXPECT_LE(keeper_->size(), 2 * (kLoaders + 4));
    EXPECT_LE(kernel_->lookups(), 4 * (1 + kKeep + 2 * kLoaders));
    const std::lock_guard lock(mutex_);
    const Catalog& catalog = serving_->catalog;
    EXPECT_LE(catalog.shown().size(), 1 + kKeep + kLoaders + 2);
    EXPECT_LE(catalog.refused().size(), kFullEvery) << "left over when a run began anew";
    EXPECT_LE(catalog.latest().snapshot->admitted_count(), 3 * kFullEvery + 2);
    EXPECT_LE(remembered_, 2 * (1 + kKeep + kLoaders + 2));
  }

  test::TempFolder folder_{test::memory_path()};
  std::mt19937_64 random_{11};
  Trainer trainer_{folder_, random_};
  std::map<std::string, std::string> expect_;  // by name: the tensor of the newest version of that name
  const Files files_;
  FollowOptions follow_;
  std::atomic<TimePoint> now_{std::chrono::steady_clock::now()};
  std::shared_ptr<test::FakeKeeper> keeper_ = std::make_shared<test::FakeKeeper>();
  std::unique_ptr<Vfs> vfs_;
  std::unique_ptr<Kernel> kernel_;
  std::mutex mutex_;  // guards the next three
  std::condition_variable changed_;
  std::shared_ptr<const Serving> serving_;
  size_t remembered_ = 0;
  std::unique_ptr<Following> following_;
  std::deque<Loader> loaders_;
  int32_t next_process_ = kNoProcess;
  int damaged_ = 0;
  int wiped_ = 0;
};

TEST_F(WeekOfFollowing, GrowsInNothing) {
  const int count = minutes_to_play();
  std::optional<Sizes> early;
  for (int minute = 1; minute <= count; ++minute) {
    publish();
    half_a_minute();
    half_a_minute();
    if (minute % 60 == 0) expect_bounded();
    if (minute == std::min(300, count / 2)) early.emplace();
    if (HasFailure()) FAIL() << "in minute " << minute << " at " << trainer_.name();
  }
  const Sizes late;
  EXPECT_LE(late.resident, early->resident * 5 / 4 + (16u << 20));
  EXPECT_LE(late.descriptors, early->descriptors + 64);
  EXPECT_LE(late.threads, early->threads + 2);
  const FollowState state = following_->state();
  EXPECT_EQ(state.admitted, static_cast<uint64_t>(count));
  EXPECT_EQ(state.refusals, static_cast<uint64_t>(damaged_)) << "each once, however often it was looked at";
  RecordProperty("damaged", damaged_);
  RecordProperty("wiped", wiped_);
  // Nobody loads any more: all of it ends, by the clock alone.
  for (const Loader& loader : loaders_) end_load(loader);
  loaders_.clear();
  pass(std::chrono::hours(2));
  EXPECT_EQ(vfs_->pinned().size(), 0u);
  EXPECT_EQ(keeper_->size(), 0u);
  EXPECT_TRUE(kernel_->agrees());
  publish();
  pass(seconds(2));
  publish();
  EXPECT_LE(vfs_->held().former_versions, 2u) << "of the last second";
  EXPECT_LE(vfs_->held().lookups, 2 * (1 + kKeep)) << "names of what is shown";
}

}  // namespace
}  // namespace weightfs::cli
