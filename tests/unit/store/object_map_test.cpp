// SPDX-License-Identifier: Apache-2.0
#include "store/object_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "delta/native_version.h"
#include "unit/store/made_checkpoint.h"
#include "unit/store/outcome.h"

namespace weightfs::test {
namespace {

using testing::ElementsAre;

constexpr uint32_t kNone = NativeLayout::kNoParent;

/// Names of objects: FILE:TENSOR, or FILE.
std::string name_of(const TreeLayout& tree, size_t object) {
  const TreeObject& place = tree.objects()[object];
  return tree.files()[place.file].path + (place.tensor ? ":" + place.info.name : "");
}

/// "new <- old" for every object of `after`, "new" alone where there is no parent.
std::vector<std::string> mapped(const Checkpoint& before, const Checkpoint& after) {
  const TempFolder folder(memory_path());
  before.write(folder.path("before"));
  after.write(folder.path("after"));
  const Files files;
  const auto old_side = store::FolderReader::open(files, folder.path("before"));
  const auto new_side = store::FolderReader::open(files, folder.path("after"));
  store::Work work;
  work.threads = 2;
  const auto parents = store::map_objects(**old_side, **new_side, work);
  EXPECT_TRUE(parents) << parents.error().text();
  std::vector<std::string> lines;
  for (size_t i = 0; i < parents->size(); ++i) {
    const uint32_t parent = (*parents)[i];
    lines.push_back(name_of((*new_side)->tree(), i) +
                    (parent == kNone ? "" : " <- " + name_of((*old_side)->tree(), parent)));
  }
  return lines;
}

MadeTensor made(const std::string& name, const std::string& bytes, const std::string& dtype = "U8") {
  return MadeTensor::list(name, dtype, bytes);
}

TEST(ObjectMap, TheSamePlaceComesFirst) {
  Checkpoint before;
  before.shards["m.safetensors"] = {made("a", "1111"), made("b", "2222")};
  before.files["x"] = "text";
  Checkpoint after = before;
  after.shards["m.safetensors"] = {made("b", "1111"), made("a", "2222")};  // contents swapped: names decide
  after.files["x"] = "TEXT";
  EXPECT_THAT(mapped(before, after),
              ElementsAre("m.safetensors:b <- m.safetensors:b", "m.safetensors:a <- m.safetensors:a", "x <- x"));
}

TEST(ObjectMap, ATensorIsFoundInAnotherFile) {
  Checkpoint before;
  before.shards["1.safetensors"] = {made("a", "1111")};
  before.shards["2.safetensors"] = {made("b", "2222")};
  Checkpoint after;
  after.shards["all.safetensors"] = {made("a", "1112"), made("b", "2223"), made("c", "2222")};
  EXPECT_THAT(mapped(before, after),
              ElementsAre("all.safetensors:a <- 1.safetensors:a", "all.safetensors:b <- 2.safetensors:b",
                          "all.safetensors:c <- 2.safetensors:b"));
}

TEST(ObjectMap, LengthAndElementWidthMustBeTheSame) {
  Checkpoint before;
  before.shards["m.safetensors"] = {made("a", "11112222"), made("b", "11113333", "BF16"), made("c", "1", "U8")};
  before.files["x"] = "text";
  Checkpoint after;
  after.shards["m.safetensors"] = {made("a", "11114444", "BF16"), made("b", "11115555", "F16"), made("c", "12", "U8")};
  after.files["x"] = "texts";
  EXPECT_THAT(mapped(before, after),
              ElementsAre("m.safetensors:a", "m.safetensors:b <- m.safetensors:b", "m.safetensors:c", "x"));
}

TEST(ObjectMap, EqualBytesUnderAnotherName) {
  const std::string large(3'000'000, 'w');
  std::string other = large;
  other.back() = 'v';  // differs behind everything that is compared early
  Checkpoint before;
  before.shards["m.safetensors"] = {made("a", large), made("b", other), made("c", "3333")};
  before.files["old.txt"] = "notes";
  Checkpoint after;
  after.shards["m.safetensors"] = {made("B", other), made("A", large), made("C", "3334")};
  after.files["new.txt"] = "notes";
  EXPECT_THAT(mapped(before, after),
              ElementsAre("m.safetensors:B <- m.safetensors:b", "m.safetensors:A <- m.safetensors:a", "m.safetensors:C",
                          "new.txt <- old.txt"));
}

TEST(ObjectMap, WhatNothingElseBuildsOnComesFirst) {
  Checkpoint before;
  before.shards["m.safetensors"] = {made("a", "same"), made("b", "same")};
  Checkpoint after;
  after.shards["m.safetensors"] = {made("a", "same"), made("c", "same")};
  EXPECT_THAT(mapped(before, after),
              ElementsAre("m.safetensors:a <- m.safetensors:a", "m.safetensors:c <- m.safetensors:b"));
}

TEST(ObjectMap, EmptyObjectsNeedNoParent) {
  Checkpoint before;
  before.files["a"] = "";
  Checkpoint after;
  after.shards["m.safetensors"] = {made("e", "")};
  after.files["b"] = "";
  EXPECT_THAT(mapped(before, after), ElementsAre("b", "m.safetensors:e"));
}

TEST(ObjectMap, EqualTreesAreMappedOneToOne) {
  Dice dice(5);
  for (int round = 0; round < 10; ++round) {
    const Checkpoint before = random_checkpoint(dice);
    for (const std::string& line : mapped(before, before)) {
      const size_t arrow = line.find(" <- ");
      ASSERT_NE(arrow, std::string::npos) << line;
      EXPECT_EQ(line.substr(0, arrow), line.substr(arrow + 4));
    }
  }
}

}  // namespace
}  // namespace weightfs::test
