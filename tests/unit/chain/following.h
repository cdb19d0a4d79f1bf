// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "chain/follower.h"
#include "common/text.h"
#include "support/formats.h"
#include "unit/support/temp_folder.h"

namespace weightfs::test {

using Words = std::vector<std::string>;

/// A follower, a clock that tests move, and checks that fail when a test says so.
class FollowTest : public ::testing::Test {
 protected:
  void follow(const std::string& source, std::optional<size_t> keep = {}) {
    options_.source = {source, {}, true};
    options_.keep = keep;
    options_.now = [this] { return now_; };
    begin(nullptr);
  }
  /// What is there now is opened; `former`: what another process left.
  void begin(const ShownState* former) {
    const auto first = open_source(files_, options_.source);
    ASSERT_TRUE(first) << first.error().text();
    follower_ = Follower::make(files_, options_, *first, former);
    catalog_.emplace(follower_->catalog({}));
    accepted_.clear();
    for (const auto& shown : catalog_->shown()) accepted_[shown.ordinal] = shown.version().identity;
  }
  /// The process dies; what it leaves.
  std::string die() {
    std::string left = follower_->state().to_text();
    follower_.reset();
    return left;
  }
  /// Another process takes its place.
  void resume(const std::string& left) {
    const auto former = ShownState::parse(left);
    ASSERT_TRUE(former) << former.error().text();
    begin(&*former);
  }
  void crash() { resume(die()); }
  void wait(double seconds) { now_ += std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000)); }

  /// What a mount does after something happened: everything new is checked, then shown.
  void look(const std::set<std::string>& finished = {}, bool thorough = true) {
    follower_->look({thorough, finished});
    checked_.clear();
    while (const auto next = follower_->next()) {
      ASSERT_LT(checked_.size(), 1000u) << "there is no end of it";
      checked_.push_back(short_name(next->version().name));
      const auto fault = faults_.find(next->version().name);
      if (fault != faults_.end()) {
        follower_->refuse({fault->second, "the test says so"});
        continue;
      }
      accepted_[next->ordinal] = next->version().identity;
      follower_->accept();
    }
    catalog_.emplace(follower_->catalog(pinned_));
  }

  static std::string short_name(const std::string& name) {
    const size_t digits = name.find_last_not_of("0123456789") + 1;
    return digits == 0 || digits == name.size() || digits < 5 ? name : std::to_string(std::stoul(name.substr(digits)));
  }
  /// Names of what is shown without the base, by rising ordinals; "*" marks the latest.
  Words shown() const {
    Words words;
    for (size_t i = 0; i < catalog_->shown().size(); ++i) {
      const std::string star = i == catalog_->latest_index() ? "*" : "";
      if (i > 0 || !star.empty()) words.push_back(short_name(catalog_->shown()[i].version().name) + star);
    }
    return words;
  }
  /// Name and code of what is not.
  Words refused() const {
    Words words;
    for (const Version& version : catalog_->refused()) {
      words.push_back(short_name(version.name) + " " + std::string(code_id(version.error->code)));
    }
    return words;
  }
  const Catalog::Shown& of(const std::string& name) const {
    for (const auto& shown : catalog_->shown()) {
      if (short_name(shown.version().name) == name) return shown;
    }
    ADD_FAILURE() << name << " is not shown";
    return catalog_->base();
  }
  /// The versions of published formats that a shown one is made of, oldest first, itself last.
  static Words made_of(const Catalog::Shown& shown) {
    Words words;
    for (size_t ordinal = 1; ordinal <= shown.ordinal; ++ordinal) {
      if (!shown.snapshot->has(ordinal)) continue;
      if (shown.snapshot->admitted(ordinal).kind == VersionKind::kFull) words.clear();
      words.push_back(short_name(shown.snapshot->admitted(ordinal).name));
    }
    return words;
  }
  Words made_of(const std::string& name) const { return made_of(of(name)); }
  std::optional<ErrorCode> problem() const {
    return follower_->problem() ? std::optional(follower_->problem()->code) : std::nullopt;
  }
  bool due_within(double seconds) const {
    return follower_->due() && *follower_->due() > now_ &&
           *follower_->due() <= now_ + std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
  }

  TempFolder folder_{memory_path()};
  Files files_;
  FollowOptions options_;
  FollowOptions::TimePoint now_ = std::chrono::steady_clock::now();
  std::unique_ptr<Follower> follower_;
  std::optional<Catalog> catalog_;
  std::map<std::string, ErrorCode> faults_;  // by name: what the check of it says
  std::vector<uint64_t> pinned_;
  Words checked_;                        // in the last look
  std::map<size_t, uint64_t> accepted_;  // identities by ordinal
};

/// Published formats on disk.  Every file gets a time of its own, all of them within a second of one run.
class PublishedTest : public FollowTest {
 protected:
  static constexpr int64_t kThen = 1'700'000'000;

  PublishedTest() { write_model(folder_.path("base"), {{{"a", "BF16", {2}, "aaaa"}, {"b", "BF16", {2}, "bbbb"}}}); }

  void follow(std::optional<size_t> keep = {}) { FollowTest::follow(folder_.path(), keep); }
  static std::string v(uint64_t number) { return "weight_v" + six_digits(number); }
  void age(const std::string& path, int64_t later = 0) {
    ++tick_;
    if (!std::filesystem::is_directory(path)) return set_mtime(path, kThen + later, tick_ * 1000);
    for (const auto& file : std::filesystem::directory_iterator(path)) {
      set_mtime(file.path().string(), kThen + later, tick_ * 1000);
    }
  }
  void delta(uint64_t number, std::optional<uint64_t> parent = {}) {
    wipe(number);
    write_weight_v(folder_.path(), {number, parent.value_or(number - 1), "xor", "xxh3-128", 1},
                   {{"a", "aaaa", "aaab"}});
    age(folder_.path(v(number)));
  }
  void full(uint64_t number) {
    wipe(number);
    write_model(folder_.path(v(number)), {{{"a", "BF16", {2}, "AAAA"}, {"b", "BF16", {2}, "BBBB"}}});
    age(folder_.path(v(number)));
  }
  void spoil(uint64_t number) {
    folder_.write(v(number) + "/model.safetensors.index.json", "{");
    age(folder_.path(v(number)));
  }
  void wipe(uint64_t number) const { std::filesystem::remove_all(folder_.path(v(number))); }
  void hide(uint64_t number) const { std::filesystem::rename(folder_.path(v(number)), folder_.path("." + v(number))); }
  void restore(uint64_t number) const {
    std::filesystem::rename(folder_.path("." + v(number)), folder_.path(v(number)));
  }
  void point_at(uint64_t number) const { folder_.write("latest", "run/" + v(number) + "\n"); }

  std::string step(uint64_t number, bool anchor = false) const { return trl_path(folder_.path(), anchor, number); }
  void sparse(uint64_t number, const char* tensor = "a", int64_t later = 0) {
    write_file(step(number), trl_delta(TrlKind::kT1, number, {{tensor, "BF16", {1}, "XX"}}));
    age(step(number), later);
  }
  void anchor(uint64_t number, const Words& tensors = {"a", "b"}, int64_t later = 0) {
    std::vector<MadeTensor> list;
    for (const std::string& name : tensors) list.push_back({name, "BF16", {2}, "AAAA"});
    write_file(step(number, true), trl_anchor(TrlKind::kT1, number, list));
    age(step(number, true), later);
  }
  void wipe_steps() const {
    std::filesystem::remove_all(folder_.path("anchors"));
    std::filesystem::remove_all(folder_.path("deltas"));
  }

  int64_t tick_ = 0;
};

}  // namespace weightfs::test
