// SPDX-License-Identifier: Apache-2.0
// The worked example of docs/FORMAT.md: the writer writes its bytes, and the reader reads them.
#include <gtest/gtest.h>

#include <filesystem>
#include <sstream>

#include "delta/native_version.h"
#include "support/heads.h"
#include "support/made_version.h"
#include "unit/support/temp_folder.h"

namespace weightfs {
namespace {

namespace fs = std::filesystem;
using test::read_file;
using test::TempFolder;

/// The indented block that follows "`name`, N bytes:" in the document.
std::vector<std::string> block_after(const std::string& name) {
  std::istringstream lines(read_file(fs::path(WEIGHTFS_TESTS_DIR).parent_path() / "docs/FORMAT.md"));
  std::vector<std::string> block;
  bool found = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("`" + name + "`, ")) found = true;
    if (found && line.starts_with("    ")) block.push_back(line.substr(4));
    if (!block.empty() && line.empty()) break;
  }
  return block;
}

std::string documented_manifest(const std::string& name) {
  const auto block = block_after("versions/" + name + "/manifest.json");
  return block.size() == 1 ? block[0] + "\n" : "";
}

std::string documented_payload() {
  std::string bytes;
  for (const std::string& line : block_after("versions/step-1/payload-00001.safetensors")) {
    std::istringstream row(line.substr(6, 47));
    for (std::string byte; row >> byte;) bytes += static_cast<char>(std::stoi(byte, nullptr, 16));
  }
  return bytes;
}

std::map<std::string, std::string> model(const std::string& w) {
  const std::string header = R"({"w":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}})";
  return {{"config.json", "{}"}, {"model.safetensors", test::safetensors_raw(header, w)}};
}

const std::string kBefore("\x80\x3f\x80\x3f\x80\xbf\0\0", 8);
const std::string kAfter("\x80\x3f\x81\x3f\x80\xbf\0\0", 8);

TEST(FormatDocument, TheWriterWritesTheWorkedExample) {
  const TempFolder root;
  fs::create_directories(root.path("base"));
  fs::create_directories(root.path("step-1"));
  NativeManifest base = test::draft_manifest(NativeManifest::Kind::kReference, model(kBefore));
  base.name = "base";
  base.parent.reset();
  base.root.clear();
  base.path = "/models/tiny";
  ASSERT_TRUE(write_manifest(root.path("base"), base));
  EXPECT_EQ(read_file(root.path("base/manifest.json")), documented_manifest("base"));

  NativeManifest step = test::draft_manifest(NativeManifest::Kind::kDelta, model(kAfter));
  step.parent = NativeManifest::Link{"base", base.digest};
  step.root = base.digest;
  step.created = "2026-11-25T07:00:00Z";
  const auto writer = NativeWriter::create(root.path("step-1"), {}).value();
  std::vector<NativeWriter::Block> blocks{test::raw_block(0, kAfter, 1)};
  ASSERT_TRUE(writer->add(1, codec::BlockParams(2), std::move(blocks)));
  ASSERT_TRUE(writer->finish(step, 2, nullptr, true));
  EXPECT_EQ(read_file(root.path("step-1/manifest.json")), documented_manifest("step-1"));
  EXPECT_EQ(read_file(root.path("step-1/payload-00001.safetensors")), documented_payload());
}

TEST(FormatDocument, TheReaderReadsTheWorkedExample) {
  const TempFolder root;
  root.write("manifest.json", documented_manifest("step-1"));
  root.write("payload-00001.safetensors", documented_payload());
  const auto version = NativeVersion::open(Files(), root.path());
  ASSERT_TRUE(version) << version.error().text();
  const auto tree = test::tree_of(model(kBefore));
  EXPECT_EQ((*version)->touched_objects(*tree).value(), std::vector<uint32_t>{1});
  const auto patch = (*version)->find(*tree, 1, true, test::heads()).value();
  const auto table = patch->load_table(test::heads()).value();
  std::vector<std::byte> out(8);
  ASSERT_TRUE(patch->decode(*table, *table->find(0), {}, out));
  EXPECT_EQ(as_text(out), kAfter);
  EXPECT_EQ(xxh3_64(out), table->find(0)->digest);
}

}  // namespace
}  // namespace weightfs
