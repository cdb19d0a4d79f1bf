// SPDX-License-Identifier: Apache-2.0
// A native store, mounted: every version shows its own files, byte for byte, through the kernel.
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <random>

#include "mount/served_mount.h"
#include "support/made_run.h"
#include "support/made_store.h"

namespace weightfs::test {
namespace {

namespace fs = std::filesystem;

class NativeMount : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_FUSE();
    fs::create_directory(point_);
  }
  void TearDown() override {
    if (mounted_) run("umount " + point_);
  }
  int run(const std::string& arguments) {
    return std::system((WEIGHTFS_BINARY " " + arguments + " 2>" + folder_.sub("errors")).c_str());
  }
  void mount() {
    mounted_ = run("mount " + store_->path() + " " + point_ + " --log-file " + folder_.sub("log")) == 0;
    ASSERT_TRUE(mounted_) << read_whole(folder_.sub("errors"));
  }
  static std::map<std::string, std::string> contents(const std::string& folder) {
    std::map<std::string, std::string> found;
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      if (entry.is_regular_file()) found[fs::relative(entry.path(), folder).string()] = read_whole(entry.path());
    }
    return found;
  }
  nlohmann::json json(const std::string& path) { return nlohmann::json::parse(read_whole(point_ + "/" + path)); }

  TemporaryFolder folder_;
  std::string point_ = folder_.sub("mount");
  std::unique_ptr<MadeStore> store_;
  bool mounted_ = false;
};

TEST_F(NativeMount, ShowsEveryVersionAsItWasCommitted) {
  std::mt19937_64 random(1);
  store_ = std::make_unique<MadeStore>(
      folder_.path(),
      FakeObjects{{"config.json", "", "{}"},
                  {"model.safetensors", "a", random_bytes(random, 900'000), NativeLayout::kNoParent, "BF16"},
                  {"model.safetensors", "b", random_bytes(random, 5000)},
                  {"sub/folder/words.txt", "", "some words"}});
  FakeObjects objects = store_->next("base");
  for (size_t i = 0; i < 900'000; i += 300) objects[1].bytes[i] ^= 1;
  store_->add("one", "base", objects);
  objects = store_->next("one");
  objects[0] = {"config.json", "", "{\"changed\": true}"};
  objects[2].path = "other.safetensors";
  objects.erase(objects.begin() + 3);
  MadeStore::Options large;
  large.block_bytes = 1048576;
  store_->add("two", "one", objects, large);
  mount();
  for (const auto& name : store_->names()) EXPECT_EQ(contents(point_ + "/" + name), store_->files(name)) << name;
  EXPECT_EQ(fs::read_symlink(point_ + "/latest"), "two");
  EXPECT_FALSE(fs::exists(point_ + "/two/sub"));
  EXPECT_TRUE(fs::exists(point_ + "/one/sub/folder"));
  EXPECT_EQ(json(".weightfs/status.json")["counters"]["read_errors"], 0);
  EXPECT_EQ(json(".weightfs/versions/one/info.json")["changed_elements"], 3000);
}

TEST_F(NativeMount, GivesEioForADamagedBlockAndGoesOn) {
  std::mt19937_64 random(2);
  store_ = std::make_unique<MadeStore>(
      folder_.path(), FakeObjects{{"model.safetensors", "a", random_bytes(random, 900'000), 0, "BF16"}}, false);
  FakeObjects objects = store_->next("base");
  objects[0].bytes[800'000] ^= 1;
  store_->add("one", "base", objects);
  const std::string path = store_->payload_of("one");
  std::string bytes = read_whole(path);
  bytes.at(store_->manifest("one").payload.front().at) ^= 1;
  write_file(path, bytes);
  mount();
  const int file = ::open((point_ + "/one/model.safetensors").c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_GE(file, 0);
  std::string out(4096, '?');
  errno = 0;
  EXPECT_EQ(::pread(file, out.data(), out.size(), 799'000), -1);
  EXPECT_EQ(errno, EIO);
  EXPECT_EQ(::pread(file, out.data(), out.size(), 100'000), 4096);
  EXPECT_EQ(out, store_->files("one").at("model.safetensors").substr(100'000, 4096));
  ::close(file);
  EXPECT_GE(json(".weightfs/status.json")["counters"]["block_failures"], 1);
  const std::string log = read_whole(folder_.sub("log"));
  EXPECT_NE(log.find("error page.verify_failed one/model.safetensors at byte "), std::string::npos) << log;
  EXPECT_NE(log.find("tensor 'a', block "), std::string::npos) << log;
  EXPECT_EQ(log.find("read.failed"), std::string::npos) << log;
}

}  // namespace
}  // namespace weightfs::test
