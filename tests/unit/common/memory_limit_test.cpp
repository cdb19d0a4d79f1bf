// SPDX-License-Identifier: Apache-2.0
#include "common/memory_limit.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace weightfs {
namespace {

/// A file tree that stands for "/".
class MemoryLimit : public ::testing::Test {
 protected:
  MemoryLimit() {
    std::string pattern = (std::filesystem::temp_directory_path() / "weightfs-cgroup-XXXXXX").string();
    root_ = ::mkdtemp(pattern.data());
  }
  ~MemoryLimit() override { std::filesystem::remove_all(root_); }

  void write(const std::string& path, const std::string& text) const {
    const std::filesystem::path file = root_ + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text << "\n";
  }

  std::string root_;
};

TEST_F(MemoryLimit, IsNothingWithoutControlGroups) { EXPECT_EQ(cgroup_memory_limit(root_), std::nullopt); }

TEST_F(MemoryLimit, OfV2IsTheGroupsOwn) {
  write("/proc/self/cgroup", "0::/user.slice/session");
  write("/sys/fs/cgroup/user.slice/session/memory.max", "268435456");
  EXPECT_EQ(cgroup_memory_limit(root_), 268435456u);
}

TEST_F(MemoryLimit, OfV2IsTheLowestOfAllAncestors) {
  write("/proc/self/cgroup", "0::/a/b/c");
  write("/sys/fs/cgroup/a/b/c/memory.max", "max");
  write("/sys/fs/cgroup/a/b/memory.max", "100000000");
  write("/sys/fs/cgroup/a/memory.max", "500000000");
  EXPECT_EQ(cgroup_memory_limit(root_), 100000000u);
}

TEST_F(MemoryLimit, OfV2MayBeUnlimited) {
  write("/proc/self/cgroup", "0::/a");
  write("/sys/fs/cgroup/a/memory.max", "max");
  EXPECT_EQ(cgroup_memory_limit(root_), std::nullopt);
}

TEST_F(MemoryLimit, InAContainerIsThatOfTheMountedRoot) {
  write("/proc/self/cgroup", "0::/system.slice/docker-1234.scope");  // a path of the host
  write("/sys/fs/cgroup/memory.max", "134217728");
  EXPECT_EQ(cgroup_memory_limit(root_), 134217728u);
}

TEST_F(MemoryLimit, OfANamespacedPathOutsideIsThatOfTheMountedRoot) {
  write("/proc/self/cgroup", "0::/../../other");
  write("/sys/fs/cgroup/memory.max", "134217728");
  EXPECT_EQ(cgroup_memory_limit(root_), 134217728u);
}

TEST_F(MemoryLimit, OfV1IsTheLowestOfAllAncestors) {
  write("/proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/jobs/7\n1:name=systemd:/y");
  write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712");
  write("/sys/fs/cgroup/memory/jobs/memory.limit_in_bytes", "2000000000");
  write("/sys/fs/cgroup/memory/jobs/7/memory.limit_in_bytes", "3000000000");
  EXPECT_EQ(cgroup_memory_limit(root_), 2000000000u);
}

TEST_F(MemoryLimit, OfV1MayBeUnlimited) {
  write("/proc/self/cgroup", "4:memory:/");
  write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712");
  EXPECT_EQ(cgroup_memory_limit(root_), std::nullopt);
}

TEST_F(MemoryLimit, IgnoresOtherControllersAndBrokenLines) {
  write("/proc/self/cgroup", "nonsense\n:\n3:memoryish:/a\n2:cpu:/b");
  write("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1000");
  write("/sys/fs/cgroup/memory/b/memory.limit_in_bytes", "1000");
  EXPECT_EQ(cgroup_memory_limit(root_), std::nullopt);
}

TEST_F(MemoryLimit, IgnoresValuesThatAreNoNumbers) {
  write("/proc/self/cgroup", "0::/a");
  write("/sys/fs/cgroup/a/memory.max", "-1");
  write("/sys/fs/cgroup/memory.max", "");
  EXPECT_EQ(cgroup_memory_limit(root_), std::nullopt);
}

TEST_F(MemoryLimit, OfAHybridHierarchyLooksAtBoth) {
  write("/proc/self/cgroup", "4:memory:/a\n0::/a");
  write("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "4000000000");
  write("/sys/fs/cgroup/unified/a/memory.max", "3000000000");
  EXPECT_EQ(cgroup_memory_limit(root_), 3000000000u);
}

TEST(MemoryBudget, IsOneGibibyteOrAQuarterOfTheLimit) {
  EXPECT_EQ(default_memory_budget(std::nullopt), 1u << 30);
  EXPECT_EQ(default_memory_budget(uint64_t{64} << 30), 1u << 30);
  EXPECT_EQ(default_memory_budget(uint64_t{512} << 20), 128u << 20);
}

TEST(ResidentMemory, IsThatOfAProcess) {
  const uint64_t before = resident_memory();
  EXPECT_GT(before, 1u << 20);
  const std::string large(64u << 20, 'x');
  EXPECT_GT(resident_memory(), before + large.size() / 2);
}

}  // namespace
}  // namespace weightfs
