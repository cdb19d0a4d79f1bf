// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "cli/export_tree.h"
#include "unit/cli/cli_run.h"
#include "unit/support/temp_folder.h"

namespace weightfs::cli::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using weightfs::test::read_whole;

class Export : public testing::Test {
 protected:
  Export() : run_(source_.path(), small_model(), "{\"a\": 1}") {
    source_.write("base/tokenizer/merges.txt", "a b\n");
    source_.write("blobs/readme", "linked");
    fs::create_symlink(source_.path("blobs/readme"), source_.path("base/README.md"));
    source_.write("base/empty", "");
    std::mt19937_64 random(9);
    run_.publish_weight_v(run_.random_changes(random, 0.2, 1.0));
    run_.publish_weight_v(run_.random_changes(random, 0.2, 1.0));
  }

  CliResult export_to(const std::string& target, const std::string& version = "latest") {
    return run_cli({"export", source_.path(), version, target});
  }
  /// Names in the folder that the targets lie in.
  std::vector<std::string> left_over() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(target_.path())) names.push_back(entry.path().filename());
    return names;
  }

  const weightfs::test::TempFolder source_;
  const weightfs::test::TempFolder target_;
  MadeRun run_;
};

TEST_F(Export, WritesEveryFileOfTheVersion) {
  for (const auto& version : run_.names()) {
    const std::string folder = target_.path(version);
    const auto result = export_to(folder, version);
    ASSERT_EQ(result.status, 0) << result.err;
    for (size_t shard = 0; shard < run_.shard_count(); ++shard) {
      EXPECT_TRUE(read_whole(folder + "/" + run_.shard_name(shard)) == run_.expected_file(version, shard)) << version;
    }
    EXPECT_EQ(read_whole(folder + "/config.json"), "{\"a\": 1}");
    EXPECT_EQ(read_whole(folder + "/tokenizer/merges.txt"), "a b\n");
    EXPECT_EQ(read_whole(folder + "/empty"), "");
    EXPECT_EQ(fs::exists(folder + "/model.safetensors.index.json"), true);
  }
  EXPECT_EQ(left_over().size(), run_.names().size());
}

TEST_F(Export, LinkedFilesBecomeRealOnesWithAnOrdinaryMode) {
  const mode_t mask = umask(022);
  ASSERT_EQ(export_to(target_.path("out/")).status, 0);
  umask(mask);
  struct stat status {};
  ASSERT_EQ(lstat(target_.path("out/README.md").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode, S_IFREG | 0644u);
  EXPECT_EQ(read_whole(target_.path("out/README.md")), "linked");
  ASSERT_EQ(lstat(target_.path("out").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode, S_IFDIR | 0755u);
}

TEST_F(Export, NeverOverwrites) {
  target_.write("full/keep", "me");
  fs::create_directory(target_.path("empty"));
  target_.write("file", "mine");
  fs::create_symlink("nowhere", target_.path("link"));
  for (const char* name : {"full", "empty", "file", "link"}) {
    const auto result = export_to(target_.path(name));
    EXPECT_EQ(result.status, 3) << name;
    EXPECT_THAT(result.err, HasSubstr("[export.exists]")) << name;
  }
  EXPECT_EQ(read_whole(target_.path("full/keep")), "me");
  EXPECT_TRUE(fs::is_empty(target_.path("empty")));
  EXPECT_EQ(read_whole(target_.path("file")), "mine");
  EXPECT_EQ(left_over().size(), 4u);
}

TEST_F(Export, ARefusedVersionIsNotExported) {
  fs::remove(source_.path("weight_v000002/model-00000-of-00001.safetensors"));
  const auto result = export_to(target_.path("out"), "weight_v000002");
  EXPECT_EQ(result.status, 3);
  EXPECT_THAT(result.err, HasSubstr("[delta.missing_file]"));
  EXPECT_TRUE(left_over().empty());
}

TEST_F(Export, AFailureLeavesNothingBehind) {
  flip_bit(source_.path("weight_v000001/model-00000-of-00001.safetensors"), 5);
  EXPECT_EQ(export_to(target_.path("out"), "weight_v000002").status, 3);
  EXPECT_TRUE(left_over().empty());
}

TEST_F(Export, AMissingParentFolderIsToldApart) {
  const auto result = export_to(target_.path("no/such/out"));
  EXPECT_EQ(result.status, 3);
  EXPECT_THAT(result.err, HasSubstr("[io.write_failed]"));
}

/// export_version() itself, with its hooks.
class ExportTree : public Export {
 protected:
  ExportTree() {
    auto snapshot = open_source(files_, {source_.path(), "", true});
    EXPECT_TRUE(snapshot) << snapshot.error().text();
    engine_ = std::make_unique<Engine>(*snapshot, EngineOptions{});
  }

  const Files files_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(ExportTree, ReportsEveryByte) {
  std::atomic<uint64_t> wrote{0};
  const auto status = export_version(*engine_, 1, target_.path("out"),
                                     {.wrote = [&](uint64_t bytes) { wrote += bytes; }, .stopped = {}});
  ASSERT_TRUE(status) << status.error().text();
  EXPECT_EQ(wrote, export_bytes(engine_->snapshot().base()));
}

TEST_F(ExportTree, StopsWhenAskedAndCleansUp) {
  bool temporary_seen = false;
  const auto status = export_version(*engine_, 1, target_.path("out"),
                                     {.wrote = {}, .stopped = [&] {
                                        for (const auto& name : left_over()) {
                                          temporary_seen = temporary_seen || name.starts_with("out.weightfs-tmp-");
                                        }
                                        return true;
                                      }});
  EXPECT_FALSE(status);
  EXPECT_TRUE(temporary_seen);
  EXPECT_TRUE(left_over().empty());
}

TEST_F(ExportTree, ATargetThatAppearsMeanwhileIsKept) {
  const auto status =
      export_version(*engine_, 1, target_.path("out"),
                     {.wrote = [&](uint64_t) { fs::create_directories(target_.path("out")); }, .stopped = {}});
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kExportExists);
  EXPECT_EQ(left_over(), std::vector<std::string>{"out"});
  EXPECT_TRUE(fs::is_empty(target_.path("out")));
}

}  // namespace
}  // namespace weightfs::cli::test
