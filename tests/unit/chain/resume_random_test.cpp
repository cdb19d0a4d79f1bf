// SPDX-License-Identifier: Apache-2.0
// Two processes follow one source; one of them dies again and again.  In the end both show the same, and the one that
// dies has never shown anything that it did not check, nor gone back.
#include <algorithm>
#include <random>

#include "unit/chain/following.h"
#include "unit/chain/native_chain.h"

namespace weightfs::test {
namespace {

namespace fs = std::filesystem;

/// A process that keeps a mount up with its source, as far as that is the follower's work.
class Mount {
 public:
  Mount(const Files& files, FollowOptions options) : files_(files), options_(std::move(options)) { begin(nullptr); }

  void crash() {
    const std::string left = follower_->state().to_text();
    follower_.reset();
    const auto former = ShownState::parse(left);
    ASSERT_TRUE(former) << former.error().text();
    const std::set<uint64_t> before = identities();
    const uint64_t latest = catalog_->latest().version().identity;
    begin(&*former);
    ASSERT_EQ(identities(), before) << "nothing was deleted";
    ASSERT_EQ(catalog_->latest().version().identity, latest);
  }
  /// Dies after `steps` answers, if it gets so far.
  void look(const std::set<std::string>& faults, uint64_t steps) {
    follower_->look({});
    while (const auto next = follower_->next()) {
      if (steps-- == 0) return crash();
      if (faults.contains(next->version().name)) {
        follower_->refuse({ErrorCode::kDigestMismatch, "the test says so"});
        continue;
      }
      const uint64_t identity = next->version().identity;
      ASSERT_TRUE(ordinals_.emplace(next->ordinal, identity).first->second == identity) << "two of one ordinal";
      accepted_.insert(identity);
      follower_->accept();
      show();
    }
    show();
  }
  Words names() const {
    Words names;
    for (const Catalog::Shown& shown : catalog_->shown()) names.push_back(shown.version().name);
    std::sort(names.begin(), names.end());
    return names;
  }
  std::set<uint64_t> identities() const {
    std::set<uint64_t> identities;
    for (const Catalog::Shown& shown : catalog_->shown()) identities.insert(shown.version().identity);
    return identities;
  }
  const Version& latest() const { return catalog_->latest().version(); }
  bool went_back() const { return went_back_; }

 private:
  void begin(const ShownState* former) {
    const auto first = open_source(files_, options_.source);
    ASSERT_TRUE(first) << first.error().text();
    follower_ = Follower::make(files_, options_, *first, former);
    catalog_.emplace(follower_->catalog({}));
    ordinals_.clear();
    if (former == nullptr) accepted_ = identities();
    for (const Catalog::Shown& shown : catalog_->shown()) ordinals_[shown.ordinal] = shown.version().identity;
  }
  void show() {
    const Version before = latest();
    catalog_.emplace(follower_->catalog({}));
    const bool native = before.format.starts_with("native");  // there the time when it was made counts
    const bool back = native ? latest().mtime_ns < before.mtime_ns : latest().number < before.number;
    went_back_ = went_back_ || (back && before.kind != VersionKind::kBase);
    for (const uint64_t identity : identities()) ASSERT_TRUE(accepted_.contains(identity)) << "never checked";
  }

  const Files& files_;
  const FollowOptions options_;
  std::unique_ptr<Follower> follower_;
  std::optional<Catalog> catalog_;
  std::set<uint64_t> accepted_;
  std::map<size_t, uint64_t> ordinals_;
  bool went_back_ = false;
};

/// What both kinds of source have in common.
template <class Source>
class Twins : public Source, public ::testing::WithParamInterface<int> {
 protected:
  uint64_t dice(uint64_t sides) { return random_() % sides; }
  bool keeps_all() const { return GetParam() % 2 == 0; }

  void start(const std::string& source) {
    FollowOptions options;
    options.source = {source, {}, true};
    options.now = [this] { return this->now_; };
    if (!keeps_all()) options.keep = 3;
    steady_ = std::make_unique<Mount>(this->files_, options);
    dying_ = std::make_unique<Mount>(this->files_, options);
  }
  /// True when both see all that there is.
  void look() {
    steady_->look(bad_, UINT64_MAX);
    dying_->look(bad_, dice(3) == 0 ? dice(4) : UINT64_MAX);
    if (dice(4) == 0) dying_->crash();
    ASSERT_FALSE(dying_->went_back());
  }
  void settle() {
    for (int i = 0; i < 3; ++i) {
      this->wait(20);
      steady_->look(bad_, UINT64_MAX);
      dying_->look(bad_, UINT64_MAX);
    }
  }

  std::mt19937_64 random_{static_cast<uint64_t>(GetParam())};
  std::set<std::string> bad_;  // names of what a check refuses
  std::unique_ptr<Mount> steady_;
  std::unique_ptr<Mount> dying_;
};

class TwinsOfWeightV : public Twins<PublishedTest> {};
class TwinsOfTrl : public Twins<PublishedTest> {};

TEST_P(TwinsOfWeightV, EndAlike) {
  start(folder_.path());
  std::map<uint64_t, bool> good;
  for (int i = 0; i < 60 && !HasFatalFailure(); ++i) {
    const uint64_t number = 1 + dice(14);
    if (!good[number]) {
      bad_.erase(v(number));
      const uint64_t kind = dice(8);
      kind == 0 ? full(number) : delta(number);
      if (kind == 1) spoil(number);
      if (kind == 2) bad_.insert(v(number));
      good[number] = kind != 1 && kind != 2;
    }
    wait(static_cast<double>(dice(3)));
    look();
    if (i % 5 != 0 || HasFatalFailure()) continue;
    settle();
    ASSERT_EQ(dying_->identities(), steady_->identities());
    ASSERT_EQ(dying_->names(), steady_->names());
    ASSERT_EQ(dying_->latest().identity, steady_->latest().identity);
  }
}

TEST_P(TwinsOfTrl, EndAlike) {
  anchor(1);
  start(folder_.path());
  std::map<uint64_t, bool> good;
  for (int i = 0; i < 60 && !HasFatalFailure(); ++i) {
    const uint64_t number = 2 + dice(14);
    const std::string name = "step_" + six_digits(number);
    if (!good[number]) {
      bad_.erase(name);
      fs::remove(step(number));
      const uint64_t kind = dice(8);
      kind == 0 ? anchor(number) : sparse(number, dice(2) == 0 ? "a" : "b");
      if (kind == 1) write_file(step(number), "no header");
      if (kind == 1) age(step(number));
      if (kind == 2) bad_.insert(name);
      good[number] = kind != 1 && kind != 2;
    }
    wait(static_cast<double>(dice(13)));
    look();
  }
  // The one that dies waits anew for what is missing, so both have the same only when nothing is missing any more.
  for (const auto& [number, is_good] : good) {
    if (is_good) continue;
    bad_.erase("step_" + six_digits(number));
    sparse(number);
  }
  settle();
  ASSERT_EQ(dying_->latest().identity, steady_->latest().identity);
  ASSERT_EQ(dying_->names(), steady_->names());
  ASSERT_EQ(dying_->identities(), steady_->identities());
}

class StoreOfTwins : public FollowTest {
 protected:
  StoreOfTwins() : store_(folder_.path(), small_objects()) {}

  MadeStore store_;
};
class TwinsOfNative : public Twins<StoreOfTwins> {};

TEST_P(TwinsOfNative, EndAlike) {
  start(store_.path());
  std::vector<std::string> hidden;
  const auto aside = [&](const std::string& name) { return folder_.path("aside-" + name); };
  for (int i = 0; i < 40 && !HasFatalFailure(); ++i) {
    const std::string name = "v" + std::to_string(100 + i);
    const std::string parent =
        store_.names()[store_.names().size() - 1 - dice(std::min<uint64_t>(3, store_.names().size()))];
    FakeObjects objects = store_.next(parent);
    objects[1].bytes[static_cast<size_t>(i) + 1] ^= 1;
    if (std::find(hidden.begin(), hidden.end(), parent) != hidden.end()) hidden.push_back(name);
    store_.add(name, parent, std::move(objects));
    if (dice(4) == 0 || (!hidden.empty() && hidden.back() == name)) {
      fs::rename(store_.folder_of(name), aside(name));
      if (hidden.empty() || hidden.back() != name) hidden.push_back(name);
    }
    if (dice(8) == 0) bad_.insert(name);
    if (!hidden.empty() && dice(3) == 0) {
      const auto back = hidden.begin() + static_cast<std::ptrdiff_t>(dice(hidden.size()));
      fs::rename(aside(*back), store_.folder_of(*back));
      hidden.erase(back);
    }
    if (!bad_.empty() && dice(6) == 0) {
      const std::string mended = *bad_.begin();
      bad_.erase(bad_.begin());
      const std::string folder = fs::exists(aside(mended)) ? aside(mended) : store_.folder_of(mended);
      set_mtime(folder + "/payload-00001.safetensors", 1'700'000'000 + i);
    }
    look();
    if (HasFatalFailure()) return;
    settle();
    ASSERT_EQ(dying_->latest().name, steady_->latest().name);
    if (keeps_all()) {
      ASSERT_EQ(dying_->names(), steady_->names());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, TwinsOfWeightV, ::testing::Range(1, 33));
INSTANTIATE_TEST_SUITE_P(Seeds, TwinsOfTrl, ::testing::Range(1, 33));
INSTANTIATE_TEST_SUITE_P(Seeds, TwinsOfNative, ::testing::Range(1, 17));

}  // namespace
}  // namespace weightfs::test
