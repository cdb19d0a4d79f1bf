// SPDX-License-Identifier: Apache-2.0
// Who is helped ahead and who is not, how far it goes, and that it ends when its reader does.
#include "vfs/stream_ahead.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <utility>
#include <vector>

namespace weightfs {
namespace {

constexpr uint64_t kMega = 1u << 20;
constexpr uint64_t kPage = 4096;

constexpr uint64_t kRun = 512;

std::byte pattern(NodeId node, uint64_t offset) { return static_cast<std::byte>(node * 31 + offset / kRun); }

/// Takes what is stored, and checks it against the pattern that it is read from.
class StreamAheadTest : public ::testing::Test {
 protected:
  void start(StreamAhead::Limits limits = {3, 16}) {
    StreamAhead::Actions actions;
    actions.read = [this](NodeId node, uint64_t offset, MutableBytes out) -> size_t {
      held.wait(true);
      if (unreadable) return 0;
      for (size_t i = 0; i < out.size(); i += kRun) {
        std::ranges::fill(out.subspan(i, std::min<size_t>(kRun, out.size() - i)), pattern(node, offset + i));
      }
      return out.size();
    };
    actions.store = [this](NodeId node, uint64_t offset, Bytes bytes) { return store(node, offset, bytes); };
    actions.found = [this](NodeId) {
      ++found;
      return taken_over.load();
    };
    streams_ = std::make_unique<StreamAhead>(std::move(actions), limits);
  }
  bool store(NodeId node, uint64_t offset, Bytes bytes) {
    if (bytes.front() != pattern(node, offset) || bytes.back() != pattern(node, offset + bytes.size() - 1)) ++wrong;
    const std::lock_guard lock(mutex_);
    stored_[node] += bytes.size();
    farthest_[node] = std::max(farthest_[node], offset + bytes.size());
    if (!pages_.insert({{node, offset}, bytes.size()}).second) ++twice;
    return true;
  }
  /// Requests as the kernel makes them: 128 KiB each, the eight of a window in any order.
  void read(NodeId node, uint64_t from, uint64_t to) {
    constexpr uint64_t kRequest = 128u << 10;
    std::vector<uint64_t> offsets;
    for (uint64_t at = from; at < to; at += kRequest) offsets.push_back(at);
    for (size_t i = 0; i + 8 <= offsets.size(); i += 8) {
      std::shuffle(offsets.begin() + static_cast<long>(i), offsets.begin() + static_cast<long>(i) + 8, random_);
    }
    for (const uint64_t at : offsets) streams_->was_read(node, at, std::min(kRequest, to - at));
  }
  uint64_t stored(NodeId node) {
    const std::lock_guard lock(mutex_);
    return stored_[node];
  }
  uint64_t farthest(NodeId node) {
    const std::lock_guard lock(mutex_);
    return farthest_[node];
  }
  /// How far a node is stored once nothing more comes; waits for `wanted`, however slow the machine is.
  uint64_t reaches(NodeId node, uint64_t wanted) {
    for (int i = 0; i < 3000 && farthest(node) < wanted; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    settled(node);
    return farthest(node);
  }
  /// Waits until nothing more is stored of a node.
  uint64_t settled(NodeId node) {
    uint64_t last = stored(node);
    for (int quiet = 0; quiet < 10; ++quiet) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      if (const uint64_t now = stored(node); now != last) {
        last = now;
        quiet = -1;
      }
    }
    return last;
  }

  std::atomic<int> wrong{0};
  std::atomic<int> twice{0};
  std::atomic<int> found{0};
  std::atomic<bool> taken_over{false};
  std::atomic<bool> unreadable{false};
  std::atomic<bool> held{false};  // workers wait before they read
  std::mt19937_64 random_{3};
  std::mutex mutex_;
  std::map<NodeId, uint64_t> stored_;
  std::map<NodeId, uint64_t> farthest_;
  std::map<std::pair<NodeId, uint64_t>, uint64_t> pages_;
  std::unique_ptr<StreamAhead> streams_;
};

TEST_F(StreamAheadTest, AStreamIsStoredAsFarAheadAsItHasCome) {
  start();
  streams_->opened(1, 1000 * kMega);
  read(1, 0, 16 * kMega);
  EXPECT_EQ(reaches(1, 32 * kMega), 32 * kMega);
  EXPECT_GT(stored(1), 14 * kMega);
  read(1, 24 * kMega, 25 * kMega);  // a beacon's request
  settled(1);
  EXPECT_EQ(reaches(1, 50 * kMega), 50 * kMega);
  EXPECT_EQ(streams_->counts().streams, 1u);
  EXPECT_GT(streams_->counts().bytes_stored, 30 * kMega);
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(twice, 0);
}

TEST_F(StreamAheadTest, GoesNoFartherThanTheWindowAndTheEnd) {
  start();
  streams_->opened(1, 1000 * kMega);
  read(1, 0, 600 * kMega);
  settled(1);
  EXPECT_EQ(reaches(1, 600 * kMega + StreamAhead::kMaxWindow), 600 * kMega + StreamAhead::kMaxWindow);
  read(1, 856 * kMega, 857 * kMega);
  settled(1);
  EXPECT_EQ(reaches(1, 1000 * kMega), 1000 * kMega);
}

TEST_F(StreamAheadTest, LeavesPagesOutWhoseRequestsTellHowFarTheReaderIs) {
  start();
  streams_->opened(1, 200 * kMega);
  read(1, 0, 64 * kMega);
  settled(1);
  const std::lock_guard lock(mutex_);
  for (const auto& [place, size] : pages_) {
    for (uint64_t beacon = 0; beacon < 200 * kMega; beacon += 8 * kMega) {
      EXPECT_FALSE(place.second <= beacon && beacon < place.second + size) << place.second << "+" << size;
    }
  }
  EXPECT_TRUE(pages_.contains({1, 72 * kMega + kPage}));
}

TEST_F(StreamAheadTest, AHeaderPeekIsNoStream) {
  start();
  streams_->opened(1, 1000 * kMega);
  read(1, 0, 4 * kMega);
  EXPECT_EQ(settled(1), 0u);
  EXPECT_EQ(found, 0);
}

TEST_F(StreamAheadTest, JumpingByTensorNameIsNoStream) {
  start();
  streams_->opened(1, 4000 * kMega);
  for (uint64_t i = 0; i < 200; ++i) {
    const uint64_t at = (i * 37 % 100) * 40 * kMega;
    read(1, at, at + 2 * kMega);
  }
  EXPECT_EQ(settled(1), 0u);
}

TEST_F(StreamAheadTest, JumpingForwardFromTensorToTensorIsNoStream) {
  start();
  streams_->opened(1, 4000 * kMega);
  for (uint64_t at = 0; at < 4000 * kMega; at += 4 * kMega) streams_->was_read(1, at, 128u << 10);
  EXPECT_EQ(settled(1), 0u);
}

TEST_F(StreamAheadTest, ReadersAtSeveralPlacesAreAllHelpedAndStopAtEachOther) {
  start();
  streams_->opened(1, 400 * kMega);
  held = true;  // what is stored between one place and the next would make one stream of the two
  for (uint64_t part = 0; part < 4; ++part) read(1, part * 100 * kMega, part * 100 * kMega + 60 * kMega);
  held = false;
  held.notify_all();
  settled(1);
  EXPECT_EQ(streams_->counts().streams, 4u);
  EXPECT_EQ(reaches(1, 400 * kMega), 400 * kMega);
  EXPECT_EQ(twice, 0);
  EXPECT_EQ(found, 1) << "once a file";
  EXPECT_NEAR(static_cast<double>(stored(1)), 160e6, 16e6);
}

TEST_F(StreamAheadTest, EndsWhenNobodyHasTheFileOpen) {
  start({1, 16});
  streams_->opened(1, 1000 * kMega);
  streams_->opened(1, 1000 * kMega);
  read(1, 0, 200 * kMega);
  streams_->closed(1);
  read(1, 200 * kMega, 220 * kMega);
  streams_->closed(1);
  const uint64_t then = settled(1);
  read(1, 220 * kMega, 300 * kMega);
  EXPECT_EQ(settled(1), then);
  streams_->opened(1, 1000 * kMega);
  read(1, 300 * kMega, 320 * kMega);
  EXPECT_GT(settled(1), then);
}

TEST_F(StreamAheadTest, WhatSomebodyElseSeesToIsLeftAlone) {
  taken_over = true;
  start();
  streams_->opened(1, 1000 * kMega);
  read(1, 0, 100 * kMega);
  EXPECT_EQ(settled(1), 0u);
  EXPECT_EQ(found, 1);
}

TEST_F(StreamAheadTest, WhatCannotBeReadEndsItsStreamOnly) {
  start();
  unreadable = true;
  streams_->opened(1, 1000 * kMega);
  read(1, 0, 20 * kMega);
  EXPECT_EQ(settled(1), 0u);
  unreadable = false;
  streams_->opened(2, 1000 * kMega);
  read(2, 0, 20 * kMega);
  EXPECT_GT(settled(2), 0u);
}

TEST_F(StreamAheadTest, WithoutWorkersItDoesNothing) {
  start({0, 16});
  streams_->opened(1, 1000 * kMega);
  read(1, 0, 100 * kMega);
  streams_->closed(1);
  EXPECT_EQ(stored(1), 0u);
  EXPECT_EQ(streams_->counts().streams, 0u);
}

TEST_F(StreamAheadTest, MoreStreamsThanItMayHelpAreLeftToThemselves) {
  start({3, 2});
  for (NodeId node = 1; node <= 3; ++node) streams_->opened(node, 1000 * kMega);
  const auto read_all = [&](std::initializer_list<NodeId> nodes, uint64_t from, uint64_t to) {
    for (uint64_t at = from; at < to; at += kMega) {
      for (const NodeId node : nodes) read(node, at, at + kMega);
    }
  };
  read_all({1, 2, 3}, 0, 40 * kMega);
  const uint64_t then = settled(1) + settled(2) + settled(3);
  read_all({1, 2, 3}, 40 * kMega, 80 * kMega);
  EXPECT_EQ(settled(1) + settled(2) + settled(3), then);
  read_all({1, 2}, 80 * kMega, 150 * kMega);  // the third is quiet, or has gone
  EXPECT_GT(settled(1), 0u);
  EXPECT_GT(settled(2), 0u);
}

TEST_F(StreamAheadTest, NothingRunsAfterItWasStopped) {
  start();
  streams_->opened(1, 1000 * kMega);
  read(1, 0, 100 * kMega);
  streams_->stop();
  const uint64_t then = stored(1);
  read(1, 100 * kMega, 200 * kMega);
  streams_->stop();
  EXPECT_EQ(settled(1), then);
}

TEST_F(StreamAheadTest, ClosesThatItNeverSawAnOpenOfAreNothingToIt) {
  start();
  streams_->closed(7);
  streams_->was_read(7, 0, kMega);
  EXPECT_EQ(streams_->counts().streams, 0u);
}

}  // namespace
}  // namespace weightfs
