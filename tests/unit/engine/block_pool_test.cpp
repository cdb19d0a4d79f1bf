// SPDX-License-Identifier: Apache-2.0
// Memory of blocks: nobody's is anybody else's, and no more of it is held than was promised.
#include "engine/block_pool.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "engine/engine.h"

namespace weightfs {
namespace {

TEST(BlockPool, BlocksHaveTheSizeAskedForAndTheirOwnMemory) {
  const auto pool = std::make_shared<BlockPool>(kBlockBytes);
  auto a = pool->take(kBlockBytes);
  auto b = pool->take(5);
  EXPECT_EQ(a->bytes().size(), kBlockBytes);
  EXPECT_EQ(b->bytes().size(), 5u);
  std::fill(a->bytes().begin(), a->bytes().end(), std::byte{1});
  std::fill(b->bytes().begin(), b->bytes().end(), std::byte{2});
  EXPECT_EQ(a->bytes().back(), std::byte{1});
}

TEST(BlockPool, MemoryIsUsedAgain) {
  const auto pool = std::make_shared<BlockPool>(kBlockBytes);
  const std::byte* place = pool->take(1)->bytes().data();
  EXPECT_EQ(pool->take(1)->bytes().data(), place);
}

TEST(BlockPool, ABlockMayOutliveTheLastOtherUserOfThePool) {
  auto pool = std::make_shared<BlockPool>(kBlockBytes);
  auto block = pool->take(9);
  pool.reset();
  block->bytes()[8] = std::byte{3};
  block.reset();
}

TEST(BlockPool, ThreadsNeverShareABlock) {
  const auto pool = std::make_shared<BlockPool>(kBlockBytes);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 500; ++i) {
        std::vector<std::shared_ptr<Block>> held;
        for (int n = 0; n < 6; ++n) {
          held.push_back(pool->take(64));
          std::fill(held.back()->bytes().begin(), held.back()->bytes().end(), static_cast<std::byte>(t));
        }
        for (const auto& block : held) wrong += block->bytes()[63] != static_cast<std::byte>(t);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(BlockPool, ManyBlocksOfEveryCapacityNeverOverlapInWhateverOrderTheyGo) {
  for (const size_t capacity : {size_t{4096}, kBlockBytes, size_t{1} << 20, BlockPool::kSlabBytes}) {
    const auto pool = std::make_shared<BlockPool>(capacity, 3 * capacity);
    std::mt19937 random(7);
    std::vector<std::pair<std::shared_ptr<Block>, std::byte>> held;
    for (int i = 0; i < 600; ++i) {
      if (held.size() < 20 && random() % 5 < 3) {
        const auto mark = static_cast<std::byte>(random());
        held.emplace_back(pool->take(capacity), mark);
        auto bytes = held.back().first->bytes();
        ASSERT_EQ(reinterpret_cast<uintptr_t>(bytes.data()) % capacity, 0u);
        bytes.front() = bytes.back() = bytes[capacity / 2] = mark;
      } else if (!held.empty()) {
        const auto at = held.begin() + static_cast<std::ptrdiff_t>(random() % held.size());
        held.erase(at);
      }
      for (const auto& [block, mark] : held) {
        ASSERT_EQ(block->bytes().front(), mark) << capacity;
        ASSERT_EQ(block->bytes()[capacity / 2], mark) << capacity;
        ASSERT_EQ(block->bytes().back(), mark) << capacity;
      }
      ASSERT_GE(pool->held_bytes(), held.size() * capacity);
    }
  }
}

TEST(BlockPool, KeepsNoMoreThanItMayOfWhatIsGivenBack) {
  constexpr uint64_t kKept = BlockPool::kKeptBytes;
  const auto pool = std::make_shared<BlockPool>(kBlockBytes, kKept);
  for (int round = 0; round < 3; ++round) {
    std::vector<std::shared_ptr<Block>> held;
    for (int i = 0; i < 400; ++i) held.push_back(pool->take(kBlockBytes));
    EXPECT_GE(pool->held_bytes(), 400 * kBlockBytes);
    EXPECT_LE(pool->held_bytes(), 400 * kBlockBytes + kKept + BlockPool::kSlabBytes);
    for (size_t i = 0; i < held.size(); ++i) {  // one of eight stays, so that no slab is without a block in use
      if (i % 8 != 0) held[i].reset();
    }
    EXPECT_LE(pool->held_bytes(), 50 * kBlockBytes + kKept);
    held.clear();
    EXPECT_LE(pool->held_bytes(), kKept + BlockPool::kSlabBytes);
  }
}

size_t resident_pages(const std::byte* memory, size_t size) {
  std::vector<unsigned char> pages(size / 4096);
  if (::mincore(const_cast<std::byte*>(memory), size, pages.data()) != 0) return size;
  return static_cast<size_t>(
      std::count_if(pages.begin(), pages.end(), [](unsigned char page) { return (page & 1) != 0; }));
}

TEST(BlockPool, WhatIsNotKeptIsGivenBackToTheSystemThoughItsNeighboursAreInUse) {
  const auto pool = std::make_shared<BlockPool>(kBlockBytes, 0);
  auto first = pool->take(kBlockBytes);
  auto second = pool->take(kBlockBytes);
  std::fill(first->bytes().begin(), first->bytes().end(), std::byte{1});
  std::fill(second->bytes().begin(), second->bytes().end(), std::byte{2});
  const std::byte* const place = second->bytes().data();
  EXPECT_EQ(resident_pages(place, kBlockBytes), kBlockBytes / 4096);
  second.reset();
  EXPECT_EQ(resident_pages(place, kBlockBytes), 0u);
  EXPECT_EQ(resident_pages(first->bytes().data(), kBlockBytes), kBlockBytes / 4096);
  EXPECT_EQ(first->bytes().back(), std::byte{1});
}

TEST(BlockPool, ManyThreadsThatWantMemoryAtOnceGetNoMoreThanTheyNeed) {
  constexpr int kThreads = 16;
  constexpr int kBlocks = 24;
  const auto pool = std::make_shared<BlockPool>(kBlockBytes, uint64_t{16} << 20);
  std::vector<std::vector<std::shared_ptr<Block>>> held(kThreads);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kBlocks; ++i) {
        held[static_cast<size_t>(t)].push_back(pool->take(kBlockBytes));
        held[static_cast<size_t>(t)].back()->bytes()[9] = static_cast<std::byte>(t);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  std::set<const std::byte*> places;
  for (int t = 0; t < kThreads; ++t) {
    for (const auto& block : held[static_cast<size_t>(t)]) {
      EXPECT_EQ(block->bytes()[9], static_cast<std::byte>(t));
      EXPECT_TRUE(places.insert(block->bytes().data()).second);
    }
  }
  // Two threads at a time get slabs: at most one of those is more than was wanted.
  EXPECT_LE(pool->held_bytes(), kThreads * kBlocks * kBlockBytes + 2 * BlockPool::kSlabBytes);
}

TEST(BlockPool, WhatIsPreparedIsUsedFirst) {
  const auto pool = std::make_shared<BlockPool>(kBlockBytes);
  EXPECT_EQ(pool->held_bytes(), 0u);
  pool->prepare();
  pool->prepare();
  EXPECT_EQ(pool->held_bytes(), BlockPool::kSlabBytes);
  std::vector<std::shared_ptr<Block>> held;
  while (held.size() * kBlockBytes < BlockPool::kSlabBytes) held.push_back(pool->take(kBlockBytes));
  EXPECT_EQ(pool->held_bytes(), BlockPool::kSlabBytes);
  held.push_back(pool->take(kBlockBytes));
  EXPECT_EQ(pool->held_bytes(), 2 * BlockPool::kSlabBytes);
}

}  // namespace
}  // namespace weightfs
