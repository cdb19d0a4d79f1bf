// SPDX-License-Identifier: Apache-2.0
// Following a run on disk with everything but a mount: the thread looks, checks, warms and shows.
#include "cli/following.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <filesystem>
#include <random>

#include "chain/resume.h"
#include "support/made_run.h"
#include "support/open_run.h"
#include "unit/support/temp_folder.h"

namespace weightfs::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using test::MadeRun;
using ::testing::ElementsAre;

constexpr seconds kPatience{30};  // no test waits for it to pass
constexpr uint64_t kMega = 1u << 20;

class FollowingTest : public ::testing::Test {
 protected:
  FollowingTest() : run_(folder_.path(), shards()) { publish(); }
  ~FollowingTest() override { following_.reset(); }

  std::vector<std::vector<test::MadeTensor>> shards() {
    return {{test::random_tensor(random_, "a", "BF16", {500, 500}), test::random_tensor(random_, "b", "F32", {1000})}};
  }
  void publish() { run_.publish_weight_v(run_.random_changes(random_, 0.01, 1.0)); }
  /// A run elsewhere that begins with the bytes that are the newest here.
  MadeRun another() const {
    return {folder_.path("other"),
            {{{"a", "BF16", {500, 500}, run_.newest("a")}, {"b", "F32", {1000}, run_.newest("b")}}}};
  }
  static std::string v(uint64_t number) { return "weight_v" + test::six_digits(number); }

  void start(FollowingOptions options = {}, uint64_t memory = 256 * kMega, const ShownState* former = nullptr) {
    follow_.source = {folder_.path(), {}, true};
    auto first = test::open_snapshot(files_, folder_.path());
    ASSERT_NE(first, nullptr);
    if (former != nullptr) first = restored(files_, follow_.source, first, *former);
    auto follower = Follower::make(files_, follow_, first, former);
    serving_ = serve_all(follower->catalog({}), std::make_shared<Engine>(first, EngineOptions{memory, 2, true}));
    Following::Actions actions;
    actions.show = [this](const std::shared_ptr<const Serving>& serving, const ShownState& state) {
      const std::lock_guard lock(mutex_);
      if (throws_ > 0) {
        --throws_;
        throw std::runtime_error("the test says so");
      }
      serving_ = serving;
      state_ = state;
      ++shows_;
      changed_.notify_all();
    };
    actions.pinned = [] { return std::vector<uint64_t>(); };
    actions.pins = [] { return size_t{7}; };
    actions.advanced = [this](uint64_t identity) {
      const std::lock_guard lock(mutex_);
      advanced_ = identity;
    };
    following_ = std::make_unique<Following>(std::move(follower), follow_.keep, serving_, std::move(options),
                                             std::move(actions));
    following_->start();
  }
  static constexpr uint64_t kStep = 100'000;
  /// The least memory in which one version can be warm.
  uint64_t room_for_one() {
    const auto snapshot = test::open_snapshot(files_, folder_.path());
    uint64_t memory = 500'000;
    while (!Engine(snapshot, EngineOptions{memory, 2, true}).warm(1)) memory += kStep;
    return memory;
  }
  std::shared_ptr<const Serving> serving() {
    const std::lock_guard lock(mutex_);
    return serving_;
  }
  /// What is shown once `name` is the latest; null when it never is.
  std::shared_ptr<const Serving> when_latest(const std::string& name, milliseconds patience = kPatience) {
    std::unique_lock lock(mutex_);
    const auto is_it = [&] { return serving_->catalog.latest().version().name == name; };
    return changed_.wait_for(lock, patience, is_it) ? serving_ : nullptr;
  }
  template <class Condition>
  FollowState when(Condition condition) const {
    const auto until = std::chrono::steady_clock::now() + kPatience;
    auto state = following_->state();
    for (; !condition(state) && std::chrono::steady_clock::now() < until; state = following_->state()) {
      std::this_thread::sleep_for(milliseconds(1));
    }
    return state;
  }
  void expect_right(const Serving& serving, const std::string& name) const {
    const auto index = serving.find(name);
    ASSERT_TRUE(index);
    const auto& [engine, ordinal] = serving.versions[*index];
    const auto bytes = test::read_file(*engine, ordinal, test::entry_of(engine->snapshot(), run_.shard_name(0)));
    ASSERT_TRUE(bytes) << bytes.error().text();
    EXPECT_TRUE(*bytes == run_.expected_file(name, 0));
  }

  test::TempFolder folder_;
  std::mt19937_64 random_{5};
  MadeRun run_;
  const Files files_;
  FollowOptions follow_;
  std::mutex mutex_;  // guards the next six
  std::condition_variable changed_;
  std::shared_ptr<const Serving> serving_;
  ShownState state_;  // for a successor, as of the last show
  uint64_t advanced_ = 0;
  size_t shows_ = 0;
  int throws_ = 0;
  std::unique_ptr<Following> following_;
};

TEST_F(FollowingTest, ShowsWhatIsPublished) {
  start();
  for (uint64_t i = 2; i <= 4; ++i) {
    publish();
    const auto shown = when_latest(v(i));
    ASSERT_NE(shown, nullptr) << v(i);
    EXPECT_EQ(shown->catalog.shown().size(), i + 1);
    ASSERT_EQ(shown->versions.size(), i + 1);
    EXPECT_TRUE(shown->verified.back());
    const auto& [engine, ordinal] = shown->versions.back();
    EXPECT_EQ(engine->warm_status(ordinal).state, WarmState::kWarm);
    for (uint64_t j = 1; j <= i; ++j) expect_right(*shown, v(j));
  }
  const FollowState state = when([](const FollowState& s) { return s.admitted == 3 && s.last_delay_seconds; });
  EXPECT_EQ(state.admitted, 3u);
  EXPECT_EQ(state.refusals, 0u);
  EXPECT_EQ(state.pins, 7u);
  EXPECT_TRUE(state.warm);
  EXPECT_EQ(state.poll_seconds, 5.0);
  EXPECT_FALSE(state.problem);
  EXPECT_GE(state.last_delay_seconds.value_or(-1), 0.0);
}

TEST_F(FollowingTest, WithoutWarming) {
  FollowingOptions options;
  options.warm = false;
  follow_.keep = 1;
  start(options);
  publish();
  const auto shown = when_latest(v(2));
  ASSERT_NE(shown, nullptr);
  const auto& [engine, ordinal] = shown->versions.back();
  EXPECT_EQ(engine->warm_status(ordinal).state, WarmState::kCold);
  EXPECT_TRUE(shown->verified.back());
  EXPECT_EQ(shown->catalog.shown().size(), 2u);
  EXPECT_EQ(following_->state().keep, 1u);
}

TEST_F(FollowingTest, RefusesOnceAndShowsWhatIsMended) {
  start();
  publish();
  ASSERT_NE(when_latest(v(2)), nullptr);
  MadeRun other = another();
  other.skip_number();
  other.skip_number();
  other.publish_weight_v(other.random_changes(random_, 0.01, 1.0));
  const std::string published = folder_.path("other/" + v(3));
  const std::string name = "/model-00000-of-00001.safetensors";
  const std::string good = test::read_whole(published + name);
  std::string bad = good;
  bad[bad.size() - 11] ^= 0x33;
  test::write_file(published + name, bad);
  std::filesystem::rename(published, folder_.path(v(3)));
  FollowState state = when([](const FollowState& s) { return s.refusals > 0; });
  EXPECT_EQ(state.refusals, 1u);
  EXPECT_EQ(serving()->catalog.latest().version().name, v(2));
  test::write_file(folder_.path(v(3)) + name, good);
  EXPECT_NE(when_latest(v(3)), nullptr);
  EXPECT_EQ(following_->state().admitted, 2u);
}

TEST_F(FollowingTest, CallsTheCommand) {
  FollowingOptions options;
  options.hook_command = "env > '" + folder_.path(".told") + "'";
  options.mount_point = "/m/t";
  start(options);
  publish();
  ASSERT_NE(when_latest(v(2)), nullptr);
  const FollowState state = when([](const FollowState& s) { return s.hook && s.hook->runs == 1 && s.hook->last; });
  ASSERT_TRUE(state.hook && state.hook->last);
  EXPECT_EQ(state.hook->last->version, v(2));
  EXPECT_EQ(state.hook->last->exit_status, 0);
  EXPECT_EQ(state.hook_command, options.hook_command);
  const std::string told = test::read_whole(folder_.path(".told"));
  EXPECT_NE(told.find("/m/t/" + v(2)), std::string::npos);
  EXPECT_NE(told.find("/m/t/.weightfs/versions/" + v(2) + "/changed.json"), std::string::npos);
}

TEST_F(FollowingTest, TellsOfAProblemUntilItIsOver) {
  FollowingOptions options;
  options.poll = milliseconds(20);
  start(options);
  std::filesystem::rename(folder_.path("base/model.safetensors"), folder_.path(".aside"));
  FollowState state = when([](const FollowState& s) { return s.problem.has_value(); });
  ASSERT_TRUE(state.problem);
  EXPECT_EQ(state.problem->code, ErrorCode::kIoChanged);
  std::filesystem::rename(folder_.path(".aside"), folder_.path("base/model.safetensors"));
  state = when([](const FollowState& s) { return !s.problem; });
  EXPECT_FALSE(state.problem);
}

TEST_F(FollowingTest, AnExceptionEndsNothing) {
  FollowingOptions options;
  options.poll = milliseconds(20);
  throws_ = 1;
  start(options);
  publish();
  const FollowState state = when([](const FollowState& s) { return s.problem.has_value(); });
  ASSERT_TRUE(state.problem);
  EXPECT_EQ(state.problem->code, ErrorCode::kInternal);
  publish();
  const auto shown = when_latest(v(3));
  ASSERT_NE(shown, nullptr);
  expect_right(*shown, v(2));
}

TEST_F(FollowingTest, StopsWhileThereIsMuchToDo) {
  for (int i = 0; i < 20; ++i) {
    start();
    publish();
    publish();
    following_.reset();
  }
}

TEST_F(FollowingTest, ShowsWithoutWarmingWhenThereIsNoRoom) {
  start({}, room_for_one() - kStep);
  publish();
  const auto shown = when_latest(v(2));
  ASSERT_NE(shown, nullptr);
  const auto& [engine, ordinal] = shown->versions.back();
  EXPECT_EQ(engine->warm_status(ordinal).state, WarmState::kCold);
  EXPECT_TRUE(shown->verified.back());
  expect_right(*shown, v(2));
}

TEST_F(FollowingTest, WaitsOnlySoLongForMemoryThatOthersHold) {
  start({}, room_for_one());
  const auto first = serving();
  const auto& [engine, ordinal] = first->versions.back();
  ASSERT_TRUE(engine->warm(ordinal));
  ASSERT_EQ(engine->wait_until_warm(ordinal, kPatience).state, WarmState::kWarm);
  LentFile held = engine->lend_warm(ordinal, test::entry_of(engine->snapshot(), run_.shard_name(0)));
  ASSERT_NE(held, nullptr);
  publish();
  auto shown = when_latest(v(2));
  ASSERT_NE(shown, nullptr);
  EXPECT_NE(shown->versions.back().engine->warm_status(shown->versions.back().ordinal).state, WarmState::kWarm);
  expect_right(*shown, v(2));
  held.reset();
  publish();
  shown = when_latest(v(3));
  ASSERT_NE(shown, nullptr);
  EXPECT_EQ(shown->versions.back().engine->warm_status(shown->versions.back().ordinal).state, WarmState::kWarm);
  expect_right(*shown, v(3));
}

TEST_F(FollowingTest, AFolderThatFillsSlowlyIsWatchedFromTheStart) {
  FollowingOptions options;
  options.poll = seconds(300);
  follow_.settle = seconds(300);
  start(options);
  MadeRun other = another();
  other.skip_number();
  other.publish_weight_v(other.random_changes(random_, 0.01, 1.0));
  std::filesystem::create_directory(folder_.path(v(2)));
  std::unique_lock lock(mutex_);
  ASSERT_TRUE(changed_.wait_for(lock, kPatience, [&] { return shows_ > 0; })) << "it is among what waits";
  lock.unlock();
  for (const auto& file : std::filesystem::directory_iterator(folder_.path("other/" + v(2)))) {
    std::filesystem::copy(file.path(), folder_.path(v(2)) + "/" + file.path().filename().string());
  }
  EXPECT_NE(when_latest(v(2)), nullptr);
}

TEST_F(FollowingTest, LeavesWordOfWhatItShows) {
  start();
  publish();
  const auto shown = when_latest(v(2));
  ASSERT_NE(shown, nullptr);
  const std::lock_guard lock(mutex_);
  std::set<uint64_t> identities;
  for (const auto& version : shown->catalog.shown()) identities.insert(version.version().identity);
  const uint64_t newest = shown->catalog.latest().version().identity;
  EXPECT_EQ(state_.shown, identities);
  EXPECT_EQ(state_.accepted, identities);
  EXPECT_EQ(state_.verified, std::set<uint64_t>{newest}) << "the others were there before";
  EXPECT_EQ(state_.latest, newest);
}

TEST_F(FollowingTest, ASuccessorShowsWhatWasShownAndChecksTheRest) {
  start();
  publish();
  ASSERT_NE(when_latest(v(2)), nullptr);
  following_.reset();
  const auto former = ShownState::parse(state_.to_text());
  ASSERT_TRUE(former);
  publish();
  publish();
  const std::string damaged = folder_.path(v(4) + "/model-00000-of-00001.safetensors");
  std::string bytes = test::read_whole(damaged);
  bytes[bytes.size() - 11] ^= 0x33;
  test::write_file(damaged, bytes);
  FollowingOptions options;
  options.verified = former->verified;
  start(std::move(options), 256 * kMega, &*former);
  const auto third = when_latest(v(3));
  ASSERT_NE(third, nullptr);
  EXPECT_THAT(third->verified, ElementsAre(false, false, true, true));
  expect_right(*third, v(3));
  const FollowState state = when([](const FollowState& s) { return s.refusals == 1; });
  EXPECT_EQ(state.refusals, 1u);
  EXPECT_EQ(state.admitted, 1u);
  EXPECT_EQ(serving()->catalog.latest().version().name, v(3));
}

TEST_F(FollowingTest, ASuccessorRunsTheCommandThatWasStillToRun) {
  publish();
  FollowingOptions options;
  options.hook_command = "env > '" + folder_.path(".told") + "'";
  const auto snapshot = test::open_snapshot(files_, folder_.path());
  options.advanced = snapshot->admitted(1).identity;
  start(std::move(options));
  const FollowState state = when([](const FollowState& s) { return s.hook && s.hook->runs == 1 && s.hook->last; });
  ASSERT_TRUE(state.hook && state.hook->last);
  EXPECT_EQ(state.hook->last->version, v(2));
  EXPECT_NE(test::read_whole(folder_.path(".told")).find("WEIGHTFS_PREVIOUS=" + v(1)), std::string::npos);
  const std::lock_guard lock(mutex_);
  EXPECT_EQ(advanced_, snapshot->admitted(2).identity);
}

TEST_F(FollowingTest, AVersionIsToldOfWhenItsCommandHasEnded) {
  FollowingOptions options;
  options.hook_command = fmt::format("until test -e {0}/.go; do sleep 0.01; done", folder_.path());
  start(std::move(options));
  const uint64_t first = test::open_snapshot(files_, folder_.path())->admitted(1).identity;
  publish();
  const auto shown = when_latest(v(2));
  ASSERT_NE(shown, nullptr);
  when([](const FollowState& s) { return s.hook && s.hook->running; });
  const auto told = [&] {
    const std::lock_guard lock(mutex_);
    return advanced_;
  };
  EXPECT_EQ(told(), first) << "a successor would run it";
  test::write_file(folder_.path(".go"), "");
  when([](const FollowState& s) { return s.hook && s.hook->runs == 1; });
  EXPECT_EQ(told(), shown->catalog.latest().version().identity);
}

TEST_F(FollowingTest, ASuccessorRunsNoCommandTwice) {
  FollowingOptions options;
  options.hook_command = "echo x >> '" + folder_.path(".told") + "'";
  options.advanced = test::open_snapshot(files_, folder_.path())->admitted(1).identity;
  start(std::move(options));
  publish();
  ASSERT_NE(when_latest(v(2)), nullptr);
  when([](const FollowState& s) { return s.hook && s.hook->runs >= 1 && s.hook->last; });
  EXPECT_EQ(test::read_whole(folder_.path(".told")), "x\n");
}

}  // namespace
}  // namespace weightfs::cli
