// SPDX-License-Identifier: Apache-2.0
// A mount of a small tree whose base is real files, so that the kernel can read them itself.
#pragma once

#include <fmt/format.h>
#include <linux/capability.h>
#include <sys/syscall.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "io/files.h"
#include "mount/served_mount.h"

namespace weightfs::test {

namespace fs = std::filesystem;

inline constexpr uint64_t kShardSize = (3u << 20) + 4567;

/// What the serving process tells about itself; static because a control file is made before the session.
inline std::atomic<uint64_t> reads_served{0};
inline const Session* serving = nullptr;

/// Files from a folder for the base; in later versions the first shard is the pattern and the rest the base's.
class FolderReader final : public FileReader {
 public:
  explicit FolderReader(const std::string& folder) : tree_(small_tree()) {
    for (size_t entry = 0; entry < entries().size(); ++entry) {
      const bool is_file = entries()[entry].kind != ModelFolder::EntryKind::kDirectory;
      sources_.push_back(is_file ? files_.open(folder + path_of(entry)).value() : nullptr);
    }
  }

  Status read(size_t ordinal, size_t entry, uint64_t offset, MutableBytes out) override {
    ++reads_served;
    if (untouched(ordinal, entry)) return sources_[entry]->read_at(offset, out);
    for (size_t i = 0; i < out.size(); ++i) out[i] = pattern(ordinal, entry, offset + i);
    return {};
  }
  Result<LentFile> lend(size_t ordinal, size_t entry) override {
    if (!untouched(ordinal, entry)) return LentFile();
    return sources_[entry]->lend();
  }

 private:
  const Listing& entries() const { return *tree_.versions[0].entries; }
  bool untouched(size_t ordinal, size_t entry) const { return ordinal == 0 || entries()[entry].name != kShard; }
  std::string path_of(size_t entry) const {
    const auto& node = entries()[entry];
    return entry == 0 ? "" : path_of(node.parent) + "/" + node.name;
  }

  TreeContents tree_;
  Files files_;
  std::vector<std::shared_ptr<FileSource>> sources_;
};

class SelfReport final : public ControlFiles {
 public:
  std::string status_json() override {
    const auto state = serving->passthrough();
    const auto ahead = serving->negotiated();
    const fs::directory_iterator fds("/proc/self/fd");
    return nlohmann::json{{"reads", reads_served.load()},
                          {"state", state.state},
                          {"open", state.open_files},
                          {"refused", state.refused},
                          {"read_ahead", ahead.read_ahead},
                          {"read_ahead_problem", ahead.read_ahead_problem},
                          {"fds", std::distance(begin(fds), end(fds))}}
        .dump();
  }
  std::string version_json(const std::string&) override { return "{}"; }
};

inline void drop_admin() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (::syscall(SYS_capget, &header, data) != 0) ::abort();
  for (auto* set : {&data[0].effective, &data[0].permitted}) *set &= ~(1u << CAP_SYS_ADMIN);
  if (::syscall(SYS_capset, &header, data) != 0) ::abort();
}

class PassthroughMount : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_FUSE();
    fs::create_directory(point_);
    const auto tree = small_tree();
    for (const auto& file : small_model()) {
      const size_t entry = entry_index(tree, fs::path(file.path).filename().string());
      fs::create_directories(fs::path(disk(file.path)).parent_path());
      std::ofstream(disk(file.path), std::ios::binary) << pattern_text(0, entry, 0, file.size);
    }
  }

  ServeOptions options() const {
    ServeOptions options;
    options.make_reader = [folder = disk_] { return std::make_unique<FolderReader>(folder); };
    options.make_control = [] { return std::make_unique<SelfReport>(); };
    options.before_serving = [](Session& session) { serving = &session; };
    return options;
  }
  /// Mounts; false (and the test is to be skipped) where this kernel cannot do it.
  bool mount_with_passthrough() {
    mount_ = std::make_unique<ServedMount>(point_, options());
    EXPECT_TRUE(mount_->ready());
    why_not_ = report()["state"];
    return why_not_ == "on";
  }
#define MOUNT_OR_SKIP() \
  if (!mount_with_passthrough()) GTEST_SKIP() << "no passthrough here: " << why_not_

  nlohmann::json report() const { return nlohmann::json::parse(read_file(point_ + "/.weightfs/status.json")); }
  uint64_t reads() const { return report()["reads"]; }
  /// RELEASE arrives some time after close().
  bool becomes_open(int count) const {
    for (int i = 0; i < 500; ++i, ::usleep(10'000)) {
      if (report()["open"] == count) return true;
    }
    return false;
  }
  std::string disk(const std::string& name) const { return disk_ + "/" + name; }
  std::string base(const std::string& name) const { return point_ + "/base/" + name; }
  Descriptor open_base(const char* name = kShard, int flags = 0) const {
    Descriptor file(::open(base(name).c_str(), O_RDONLY | O_CLOEXEC | flags));
    EXPECT_TRUE(file) << std::strerror(errno);
    return file;
  }
  std::string shard_text(uint64_t offset, size_t length) const { return pattern_text(0, entry_, offset, length); }
  static std::string read_at(const Descriptor& file, uint64_t offset, size_t length) {
    std::string got(length, '?');
    const auto count = ::pread(file.get(), got.data(), length, static_cast<off_t>(offset));
    got.resize(count < 0 ? 0 : static_cast<size_t>(count));
    return got;
  }
  bool shows_the_base(const std::string& version) const {
    const auto tree = small_tree();
    for (const auto& file : small_model()) {
      const size_t entry = entry_index(tree, fs::path(file.path).filename().string());
      if (version != "base" && file.path == kShard) continue;
      if (read_file(point_ + "/" + version + "/" + file.path) != pattern_text(0, entry, 0, file.size)) return false;
    }
    return true;
  }

  TemporaryFolder folder_;
  std::string point_ = folder_.sub("mount");
  std::string disk_ = folder_.sub("disk");
  std::string why_not_;
  const size_t entry_ = entry_index(small_tree(), kShard);
  std::unique_ptr<ServedMount> mount_;
};

}  // namespace weightfs::test
