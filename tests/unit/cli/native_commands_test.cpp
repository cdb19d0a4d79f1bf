// SPDX-License-Identifier: Apache-2.0
//
// log, show, verify and export over native stores, run as a shell would run them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "support/made_store.h"
#include "unit/cli/cli_run.h"
#include "unit/support/temp_folder.h"

namespace weightfs::cli::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using weightfs::test::FakeObjects;
using weightfs::test::MadeStore;
using weightfs::test::random_bytes;
using weightfs::test::read_whole;

constexpr uint32_t kNone = NativeLayout::kNoParent;

FakeObjects model() {
  std::mt19937_64 random(3);
  return {{"config.json", "", "{\"layers\": 2}"},
          {"model.safetensors", "embed", random_bytes(random, 40'000), kNone, "BF16"},
          {"model.safetensors", "norm", random_bytes(random, 400), kNone, "F32"},
          {"sub/words.txt", "", "some words"}};
}

class NativeCommands : public testing::Test {
 protected:
  NativeCommands() {
    FakeObjects objects = store_.next("base");
    for (size_t i = 0; i < 40'000; i += 400) objects[1].bytes[i] ^= 1;
    store_.add("one", "base", objects);
    objects = store_.next("one");
    objects[0] = {"config.json", "", "{\"layers\": 3, \"more\": 1}"};
    objects[2].tensor = "final_norm";
    objects[3].bytes[0] = 'S';
    objects.insert(objects.begin() + 3, {"model.safetensors", "adapter", std::string(300, 'a'), kNone, "BF16"});
    store_.add("two", "one", objects);
  }

  static std::map<std::string, std::string> contents(const std::string& folder) {
    std::map<std::string, std::string> found;
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      if (entry.is_regular_file()) found[fs::relative(entry.path(), folder).string()] = read_whole(entry.path());
    }
    return found;
  }
  void flip_block(const std::string& version) {
    const auto& payload = store_.manifest(version).payload.front();
    const std::string path = store_.payload_of(version);
    std::string bytes = read_whole(path);
    bytes.at(payload.at + payload.blocks / 2) ^= 1;
    weightfs::test::write_file(path, bytes);
  }

  const weightfs::test::TempFolder folder_;
  MadeStore store_{folder_.path(), model()};
};

TEST_F(NativeCommands, LogTellsWhatEachVersionCosts) {
  const Json log = run_cli({"log", "--json", store_.path()}).json();
  ASSERT_EQ(log.size(), 3u);
  EXPECT_EQ(log[0]["format"], "native-reference");
  EXPECT_EQ(log[0]["bits_per_change"], nullptr);
  EXPECT_EQ(log[1]["format"], "native-delta");
  EXPECT_EQ(log[1]["parent"], "base");
  EXPECT_EQ(log[1]["changed_elements"], 100);
  uint64_t stored = 0;
  for (const auto& file : fs::directory_iterator(store_.folder_of("one"))) stored += file.file_size();
  EXPECT_EQ(log[1]["delta_bytes"], stored);
  EXPECT_DOUBLE_EQ(log[1]["bits_per_change"].get<double>(), static_cast<double>(stored) * 8 / 100);
  EXPECT_EQ(log[1]["published_at"], "2026-11-25T06:00:01Z");
  const auto table = run_cli({"log", store_.path()});
  EXPECT_EQ(table.status, 0) << table.err;
  EXPECT_THAT(table.out, HasSubstr("native-delta"));
}

TEST_F(NativeCommands, ShowListsChangesOfTensorsAndFiles) {
  const auto result = run_cli({"show", "--json", store_.path(), "two"});
  EXPECT_EQ(result.status, 0) << result.err;
  const Json report = result.json();
  ASSERT_EQ(report["tensors"].size(), 3u);
  EXPECT_EQ(named(report["tensors"], "embed")["changed"], false);
  const Json& renamed = named(report["tensors"], "final_norm");
  EXPECT_EQ(renamed["changed"], false) << "the same bytes under another name";
  const Json& added = named(report["tensors"], "adapter");
  EXPECT_EQ(added["changed"], true);
  EXPECT_EQ(added["change"]["new"], true);
  EXPECT_EQ(added["change"]["changed_elements"], 150);
  ASSERT_EQ(report["files"].size(), 2u);
  EXPECT_EQ(report["files"][0]["path"], "config.json");
  EXPECT_EQ(report["files"][0]["change"]["new"], true);
  EXPECT_EQ(report["files"][1]["change"]["changed_bytes"], 1);
  const Json one = run_cli({"show", "--json", store_.path(), "one"}).json();
  EXPECT_EQ(named(one["tensors"], "embed")["change"]["changed_elements"], 100);
  EXPECT_EQ(named(one["tensors"], "embed")["change"]["changed_bytes"], 200);
  EXPECT_EQ(named(one["tensors"], "embed")["change"]["digest"], "xxh3-64");
}

TEST_F(NativeCommands, ShowPrintsFilesThatAreNoSafetensors) {
  const auto result = run_cli({"show", store_.path(), "latest"});
  EXPECT_EQ(result.status, 0) << result.err;
  for (const char* part : {"adapter", "new", "config.json", "words.txt", "bits a changed element"}) {
    EXPECT_THAT(result.out, HasSubstr(part));
  }
}

TEST_F(NativeCommands, ShowSaysWhenTheIndexIsDamaged) {
  const auto& manifest = store_.manifest("one");
  std::string bytes = read_whole(store_.payload_of("one"));
  bytes.at(manifest.index.at + manifest.index.head + 3) ^= 1;
  weightfs::test::write_file(store_.payload_of("one"), bytes);
  const auto result = run_cli({"show", "--json", store_.path(), "one"});
  EXPECT_EQ(result.status, 1);
  EXPECT_EQ(result.json()["error"]["code"], "native.bad_index");
  EXPECT_EQ(result.json()["tensors"], nullptr);
}

TEST_F(NativeCommands, VerifyChecksEveryVersionAndFile) {
  const auto result = run_cli({"verify", "--json", store_.path()});
  EXPECT_EQ(result.status, 0) << result.out << result.err;
  const Json report = result.json();
  EXPECT_EQ(report["ok"], true);
  ASSERT_EQ(report["versions"].size(), 3u) << "the base too";
  EXPECT_EQ(report["versions"][0]["files"], 3);
  EXPECT_EQ(report["versions"][1]["tensors"], 1);
  EXPECT_EQ(report["versions"][2]["tensors"], 3);
  EXPECT_EQ(report["versions"][2]["digests_checked"], 3);
  EXPECT_THAT(run_cli({"verify", store_.path()}).out, HasSubstr("all digests checked"));
}

TEST_F(NativeCommands, VerifyNamesWhatIsDamaged) {
  flip_block("one");
  const auto result = run_cli({"verify", "--json", store_.path()});
  EXPECT_EQ(result.status, 1);
  const Json report = result.json();
  EXPECT_EQ(report["versions"][0]["state"], "ok");
  EXPECT_EQ(report["versions"][1]["state"], "failed");
  EXPECT_EQ(report["versions"][1]["failures"][0]["tensor"], "embed");
  EXPECT_THAT(report["versions"][1]["failures"][0]["code"].get<std::string>(), testing::StartsWith("native."));
  EXPECT_EQ(report["versions"][2]["state"], "failed") << "it stands on the damaged one";
}

TEST_F(NativeCommands, VerifyFindsABaseThatWasEdited) {
  std::string bytes = read_whole(store_.model() + "/model.safetensors");
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  weightfs::test::write_file(store_.model() + "/model.safetensors", bytes);
  const auto result = run_cli({"verify", "--json", store_.path()});
  EXPECT_EQ(result.status, 1);
  EXPECT_EQ(result.json()["versions"][0]["failures"][0]["tensor"], "model.safetensors");
  EXPECT_EQ(result.json()["versions"][0]["failures"][0]["code"], "digest.mismatch");
}

TEST_F(NativeCommands, VerifyChecksNetsToo) {
  const std::string net = store_.add_net("base", "two", [&] {
    FakeObjects objects = store_.next("two");
    objects[0].parent = kNone;
    objects[3].parent = kNone;
    objects[4].parent = 3;
    return objects;
  }());
  EXPECT_EQ(run_cli({"verify", store_.path()}).status, 0);
  const auto manifest = NativeManifest::parse(read_whole(net + "/manifest.json"));
  ASSERT_TRUE(manifest);
  const std::string path = net + "/payload-00001.safetensors";
  const std::string sound = read_whole(path);
  const auto verify_with_flip_at = [&](uint64_t at) {
    std::string bytes = sound;
    bytes.at(at) ^= 1;
    weightfs::test::write_file(path, bytes);
    const auto result = run_cli({"verify", "--json", store_.path()});
    EXPECT_EQ(result.status, 1);
    return result.json()["versions"];
  };
  const Json block = verify_with_flip_at(manifest->payload.front().at);
  EXPECT_EQ(block[1]["state"], "ok");
  EXPECT_EQ(block[2]["state"], "failed");
  const Json layout = verify_with_flip_at(manifest->layout->at);
  EXPECT_EQ(layout[0]["state"], "failed") << "a net that is left out is said at the base";
  EXPECT_EQ(layout[0]["failures"][0]["code"], "native.bad_layout");
  EXPECT_EQ(layout[2]["state"], "ok");
}

TEST_F(NativeCommands, ExportWritesTheFolderThatWasCommitted) {
  for (const auto& name : store_.names()) {
    const auto result = run_cli({"export", store_.path(), name, folder_.path("out-" + name)});
    EXPECT_EQ(result.status, 0) << result.err;
    EXPECT_EQ(contents(folder_.path("out-" + name)), store_.files(name)) << name;
  }
}

TEST_F(NativeCommands, AMovedBaseIsNamedByHand) {
  fs::rename(store_.model(), folder_.path("elsewhere"));
  const auto result = run_cli({"log", store_.path()});
  EXPECT_EQ(result.status, 3);
  EXPECT_THAT(result.err, HasSubstr("[base.not_found]"));
  EXPECT_EQ(run_cli({"verify", store_.path(), "--base", folder_.path("elsewhere")}).status, 0);
}

}  // namespace
}  // namespace weightfs::cli::test
