// SPDX-License-Identifier: Apache-2.0
#include "engine/frame_flow.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace weightfs {
namespace {

using ::testing::ElementsAre;
using Added = FrameFlow::Added;

Patch::Segment segment_of(uint64_t changes) {
  codec::SegmentBuilder builder(codec::PatchOp::kReplace, 1);
  const std::byte value{7};
  for (uint64_t i = 0; i < changes; ++i) builder.add(i, &value);
  return builder.finish();
}

class FrameFlowTest : public ::testing::Test {
 protected:
  static std::vector<PatchFrame> frames(std::initializer_list<size_t> steps) {
    std::vector<PatchFrame> list;
    for (const size_t step : steps) list.push_back({3, step, 1000});
    return list;
  }

  Cache cache_{64 << 20};
  FrameFlow::Allowance allowance_{cache_};
  const Patch::Segment some_ = segment_of(100);
};

TEST_F(FrameFlowTest, ASegmentIsCompleteWhenEveryFrameGaveIts) {
  FrameFlow flow(frames({2, 3, 7}), 2 * codec::kSegmentBytes, allowance_);
  EXPECT_EQ(flow.add(0, 0, some_), Added::kPart);
  EXPECT_EQ(flow.add(0, 1, some_), Added::kPart);
  EXPECT_EQ(flow.add(2, 0, some_), Added::kPart);
  EXPECT_EQ(flow.add(1, 0, some_), Added::kComplete);
  EXPECT_EQ(flow.add(1, 1, some_), Added::kPart);
  EXPECT_EQ(flow.add(2, 1, some_), Added::kComplete);
}

TEST_F(FrameFlowTest, WhatItHoldsIsFoundByStepAndSegment) {
  FrameFlow flow(frames({2, 7}), codec::kSegmentBytes + 1, allowance_);
  const auto other = segment_of(5);
  flow.add(0, 0, some_);
  flow.add(1, 0, other);
  EXPECT_EQ(flow.find(2, 0), some_);
  EXPECT_EQ(flow.find(7, 0), other);
  for (const size_t step : {0u, 1u, 3u, 8u}) EXPECT_EQ(flow.find(step, 0), nullptr) << step;
  EXPECT_EQ(flow.find(2, 1), nullptr);
}

TEST_F(FrameFlowTest, WhatWasMadeUseOfIsLetGo) {
  std::weak_ptr<const codec::PatchSegment> held;
  FrameFlow flow(frames({2}), 2 * codec::kSegmentBytes, allowance_);
  {
    auto segment = segment_of(1000);
    held = segment;
    flow.add(0, 0, std::move(segment));
  }
  EXPECT_FALSE(held.expired());
  EXPECT_GE(cache_.usage().reserved, 3000u);
  EXPECT_EQ(allowance_.held, cache_.usage().reserved);
  flow.let_go(0);
  EXPECT_TRUE(held.expired());
  EXPECT_EQ(cache_.usage().reserved, 0u);
  EXPECT_EQ(allowance_.held, 0u);
}

TEST_F(FrameFlowTest, TheEndLetsGoOfAll) {
  {
    FrameFlow flow(frames({2, 3}), 3 * codec::kSegmentBytes, allowance_);
    flow.add(0, 0, some_);
    flow.add(0, 1, some_);
    flow.add(1, 0, some_);
  }
  EXPECT_EQ(cache_.usage().reserved, 0u);
  EXPECT_EQ(allowance_.held, 0u);
}

TEST_F(FrameFlowTest, MoreThanTheAllowanceEndsItAndTheLastFrameNamesWhatIsMissing) {
  Cache cache(8 * 3 * some_->cost());
  FrameFlow::Allowance little{cache};
  FrameFlow flow(frames({2, 3}), 4 * codec::kSegmentBytes, little);
  EXPECT_EQ(flow.add(0, 0, some_), Added::kPart);
  EXPECT_EQ(flow.add(0, 1, some_), Added::kPart);
  EXPECT_EQ(flow.add(1, 0, some_), Added::kComplete);
  EXPECT_FALSE(flow.gave_up());
  EXPECT_EQ(flow.add(0, 2, some_), Added::kTooMuch);
  EXPECT_TRUE(flow.gave_up());
  flow.let_go(0);
  EXPECT_EQ(flow.add(1, 1, some_), Added::kTooMuch) << "once is enough";
  EXPECT_THAT(flow.end_frame(), ElementsAre());
  EXPECT_THAT(flow.end_frame(), ElementsAre(1, 2, 3));
}

TEST_F(FrameFlowTest, AnAllowanceIsOfAllFlowsTogether) {
  Cache cache(8 * 2 * some_->cost());
  FrameFlow::Allowance little{cache};
  FrameFlow first(frames({2}), codec::kSegmentBytes, little);
  {
    FrameFlow second(frames({2}), codec::kSegmentBytes, little);
    EXPECT_EQ(first.add(0, 0, some_), Added::kComplete);
    EXPECT_EQ(second.add(0, 0, some_), Added::kComplete);
    FrameFlow third(frames({2}), codec::kSegmentBytes, little);
    EXPECT_EQ(third.add(0, 0, some_), Added::kTooMuch);
    EXPECT_FALSE(second.gave_up());
  }
  FrameFlow fourth(frames({2}), codec::kSegmentBytes, little);
  EXPECT_EQ(fourth.add(0, 0, some_), Added::kComplete);
}

TEST_F(FrameFlowTest, WhenAllFramesGaveAllNothingIsMissing) {
  FrameFlow flow(frames({2, 3}), codec::kSegmentBytes, allowance_);
  flow.add(0, 0, some_);
  EXPECT_THAT(flow.end_frame(), ElementsAre());
  flow.add(1, 0, some_);
  EXPECT_THAT(flow.end_frame(), ElementsAre());
}

TEST_F(FrameFlowTest, EverySegmentIsCompleteOnceWhateverThreadsDo) {
  for (int turn = 0; turn < 20; ++turn) {
    constexpr uint64_t kSegments = 100;
    FrameFlow flow(frames({1, 2, 3, 4}), kSegments * codec::kSegmentBytes, allowance_);
    std::vector<std::atomic<int>> complete(kSegments);
    {
      std::vector<std::jthread> threads;
      for (size_t frame = 0; frame < 4; ++frame) {
        threads.emplace_back([&, frame] {
          for (uint64_t i = 0; i < kSegments; ++i) {
            if (flow.add(frame, i, some_) != Added::kComplete) continue;
            ++complete[i];
            for (const size_t step : {1u, 2u, 3u, 4u}) EXPECT_EQ(flow.find(step, i), some_);
            flow.let_go(i);
          }
          EXPECT_THAT(flow.end_frame(), ElementsAre());
        });
      }
    }
    for (const auto& count : complete) EXPECT_EQ(count, 1);
    EXPECT_EQ(allowance_.held, 0u);
  }
}

}  // namespace
}  // namespace weightfs
