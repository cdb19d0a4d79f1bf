// SPDX-License-Identifier: Apache-2.0
// Opens and releases in every order, with a process that may end between any two steps: the kernel, as far as it
// matters here, is a model that remembers what is open and sends again what was not answered.
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/text.h"
#include "fuse/passthrough.h"
#include "unit/fuse/passthrough_parts.h"
#include "unit/support/fake_keeper.h"

namespace weightfs::test {
namespace {

/// Node and handle of an open file or of its RELEASE.
struct OpenFile {
  NodeId node;
  uint64_t handle;
};

class Crashes : public ::testing::TestWithParam<unsigned> {
 protected:
  static constexpr NodeId kNodes = 4;  // in use at one time; others follow, for a count that is too high stays so

  Crashes() : random_(GetParam()) {
    keeper_->on_call = [this](std::string_view) { maybe_crash(); };
    boot(false);
  }

  uint32_t below(uint32_t limit) { return static_cast<uint32_t>(random_() % limit); }
  void maybe_crash() {
    if (may_crash_ && below(100) == 0) throw Crash();
  }

  Passthrough::Kernel hooks() {
    return {[this](int) {
              if (below(6) == 0) return -ENOMEM;
              registered_.insert(next_id_);
              maybe_crash();
              return next_id_++;
            },
            [this](int id) {
              maybe_crash();
              for (const auto& [node, kernel] : nodes_) {
                EXPECT_FALSE(kernel.opens != 0 && kernel.id == id) << "id " << id << " is in use for node " << node;
              }
              EXPECT_EQ(registered_.erase(id), 1u) << id;
              ++closed_;
              maybe_crash();
            }};
  }

  void boot(bool successor) {
    const bool before = std::exchange(may_crash_, false);
    table_ = std::make_unique<Passthrough>(keeper_);
    if (successor) {
      table_->restore(keeper_->all("open/"), [this](NodeId) -> Result<LentFile> {
        if (below(3) == 0) return Error{ErrorCode::kIoChanged, "changed"};
        return below(3) == 0 ? LentFile() : std::make_shared<const int>(7);
      });
    }
    table_->start(hooks(), nullptr);
    may_crash_ = before;
  }

  /// The process ends and another one takes over; the kernel sends again what was not answered.
  void crash() {
    ++crashes_;
    ++next_id_;  // an id may have been given to a process that no longer heard of it
    boot(true);
    uncounted_.clear();
    for (const Decided& open : std::exchange(decided_, {})) opening_.push_back(open.node);
  }

  Result<LentFile> some_file() {
    switch (below(6)) {
      case 0:
        return LentFile();
      case 1:
        return Error{ErrorCode::kIoChanged, "changed"};
      default:
        return LentFile(std::make_shared<const int>(7));
    }
  }

  /// The process decides about an OPEN; its answer is still to come.
  void decide() {
    if (opening_.empty()) return;
    const NodeId node = take(opening_);
    opening_.push_back(node);  // until it has been answered, should the process end in here
    const auto opened = table_->open(node, some_file());
    opening_.pop_back();
    if (opened) decided_.push_back({node, *opened});
  }

  void answer_open() {
    if (decided_.empty()) return;
    const auto [node, opened] = take(decided_);
    if (below(20) == 0) {  // who asked is gone: the answer fails
      uncounted_.push_back({node, opened.handle});
      return;
    }
    KernelNode& kernel = nodes_[node];
    if (opened.backing_id != 0) {
      EXPECT_TRUE(registered_.contains(opened.backing_id)) << "the kernel knows no such id";
    }
    if (kernel.opens != 0) {
      EXPECT_EQ(kernel.id, opened.backing_id) << "the kernel fails an open unlike others of its node";
    }
    kernel.id = opened.backing_id;
    ++kernel.opens;
    files_.push_back({node, opened.handle});
  }

  void close() {
    if (files_.empty()) return;
    releasing_.push_back(take(files_));
    --nodes_[releasing_.back().node].opens;
  }

  void answer_release() {
    if (!releasing_.empty()) uncounted_.push_back(take(releasing_));
  }

  void count_release() {
    if (uncounted_.empty()) return;
    const OpenFile file = take(uncounted_);
    table_->release(file.node, file.handle);
  }

  void step() {
    ++steps_;
    const uint32_t what = below(100);
    if (what < 20) {
      opening_.push_back(1 + steps_ / 50 + below(kNodes));
    } else if (what < 38) {
      decide();
    } else if (what < 55) {
      answer_open();
    } else if (what < 71) {
      close();
    } else if (what < 85) {
      answer_release();
    } else {
      count_release();
    }
  }

  /// What a successor would find, should there be one now, is not less than what is open.
  void check_records() {
    std::map<std::string, uint64_t> open;
    for (const OpenFile& file : files_) ++open[std::to_string(file.node)];
    for (const OpenFile& file : releasing_) ++open[std::to_string(file.node)];  // sent again, and taken off then
    for (const auto& [node, opens] : open) {
      const auto values = parse_decimals(keeper_->bytes("open/" + node).value_or(""));
      ASSERT_TRUE(values && values->size() == 3) << "node " << node << " is open";
      EXPECT_GE((*values)[1], opens) << "of node " << node;
    }
  }

  void settle() {
    may_crash_ = false;
    for (int i = 0; i < 5; ++i) {
      while (!opening_.empty()) decide();
      while (!decided_.empty()) answer_open();
      while (!files_.empty()) close();
      while (!releasing_.empty()) answer_release();
      while (!uncounted_.empty()) count_release();
    }
  }

  template <class T>
  T take(std::vector<T>& from) {
    std::swap(from[below(static_cast<uint32_t>(from.size()))], from.back());
    const T taken = from.back();
    from.pop_back();
    return taken;
  }

  struct KernelNode {
    int id = 0;  // of those that have it open
    uint64_t opens = 0;
  };
  struct Decided {
    NodeId node;
    Passthrough::Opened opened;
  };

  std::mt19937 random_;
  bool may_crash_ = false;
  uint64_t steps_ = 0;
  int crashes_ = 0;
  int closed_ = 0;
  std::set<int> registered_;
  int next_id_ = 1;
  std::map<NodeId, KernelNode> nodes_;
  std::vector<NodeId> opening_;      // OPENs that nobody has decided about
  std::vector<Decided> decided_;     // and those that are not answered
  std::vector<OpenFile> files_;      // open
  std::vector<OpenFile> releasing_;  // whose RELEASE is not answered
  std::vector<OpenFile> uncounted_;  // whose end is known to nobody but the process
  std::shared_ptr<FakeKeeper> keeper_ = std::make_shared<FakeKeeper>();
  std::unique_ptr<Passthrough> table_;
};

TEST_P(Crashes, NeverTakeAnIdFromAnOpenFile) {
  may_crash_ = true;
  for (int i = 0; i < 10'000 && !HasFailure(); ++i) {
    try {
      step();
      if (below(200) == 0) throw Crash();
    } catch (const Crash&) {
      crash();
    }
    check_records();
  }
  settle();
  EXPECT_GT(crashes_, 20);
  EXPECT_GT(closed_, 50);
}

TEST_P(Crashes, NothingIsLeftWithoutThem) {
  for (int i = 0; i < 4000; ++i) {
    step();
    check_records();
  }
  settle();
  EXPECT_TRUE(registered_.empty());
  EXPECT_EQ(keeper_->size(), 1u) << "that passthrough is on";
}

// The process ends between requests only, having done all that it had to.
TEST_P(Crashes, NothingIsLeftWhereTheyDisturbNothing) {
  for (int i = 0; i < 4000; ++i) {
    step();
    if (below(50) != 0) continue;
    while (!decided_.empty()) answer_open();
    while (!uncounted_.empty()) count_release();
    crash();
    check_records();
  }
  settle();
  EXPECT_TRUE(registered_.empty());
  EXPECT_EQ(keeper_->size(), 1u);
}

INSTANTIATE_TEST_SUITE_P(Seeds, Crashes, ::testing::Range(1u, 21u));

}  // namespace
}  // namespace weightfs::test
