// SPDX-License-Identifier: Apache-2.0
// Whole versions: what the writer writes, the reader gives back, reading no more than it needs, and every
// damaged byte is noticed.
#include "delta/native_version.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <random>

#include "support/heads.h"
#include "support/made_version.h"
#include "support/native_bytes.h"
#include "unit/support/error_codes.h"
#include "unit/support/temp_folder.h"

namespace weightfs {
namespace {

namespace fs = std::filesystem;
using test::draft_manifest;
using test::object_bytes;
using test::raw_block;
using test::read_file;
using test::TempFolder;
using Content = std::map<std::string, std::string>;
using Kind = NativeManifest::Kind;

constexpr uint64_t kBlockBytes = 64u << 10;

std::string random_text(std::mt19937_64& random, size_t size) {
  std::string text(size, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

/// Files of some size in which every kind of object occurs.
Content made_content(std::mt19937_64& random) {
  const auto tensor = [&](const char* name, const char* dtype, uint64_t elements) {
    return test::MadeTensor{name, dtype, {elements}, random_text(random, elements * test::dtype_width(dtype))};
  };
  return {{"config.json", random_text(random, 1 + random() % 100)},
          {"empty", ""},
          {"model.safetensors",
           test::safetensors_file({tensor("a", "BF16", 100'000), tensor("b", "F32", 1 + random() % 40'000),
                                   tensor("c", "U8", 3 * kBlockBytes), tensor("none", "F32", 0)})}};
}

/// Which blocks of an object are touched.
using Touched = std::map<size_t, std::vector<uint64_t>>;

Touched random_touched(const TreeLayout& tree, std::mt19937_64& random, uint64_t of_ten) {
  Touched touched;
  for (size_t i = 0; i < tree.objects().size(); ++i) {
    for (uint64_t block = 0; block * kBlockBytes < tree.objects()[i].bytes; ++block) {
      if (random() % 10 < of_ten) touched[i].push_back(block);
    }
  }
  return touched;
}

struct Made {
  Content content;
  std::shared_ptr<const TreeLayout> tree;
  Touched touched;
  NativeManifest manifest;
};

struct WriteOptions {
  Kind kind = Kind::kDelta;
  NativeWriter::Options writer{kBlockBytes, 4ull << 30};
  bool layout = false;
  bool one_by_one = false;  // one call a block
};

/// Writes the touched blocks of `made` as they are.
void write_version(const std::string& folder, Made& made, const WriteOptions& options = {}) {
  fs::create_directories(folder);
  auto writer = NativeWriter::create(folder, options.writer);
  ASSERT_TRUE(writer) << writer.error().text();
  for (const auto& [object, blocks] : made.touched) {
    const codec::BlockParams params(made.tree->objects()[object].element_bytes);
    const std::string bytes = object_bytes(*made.tree, object, made.content);
    std::vector<NativeWriter::Block> batch;
    for (const uint64_t block : blocks) {
      batch.push_back(raw_block(block, std::string_view(bytes).substr(block * kBlockBytes, kBlockBytes), 1));
      if (!options.one_by_one) continue;
      ASSERT_TRUE((*writer)->add(object, params, std::move(batch)));
      batch.clear();
    }
    ASSERT_TRUE((*writer)->add(object, params, std::move(batch)));
  }
  const NativeLayout layout{made.tree, std::vector<uint32_t>(made.tree->objects().size(), NativeLayout::kNoParent)};
  auto manifest = (*writer)->finish(draft_manifest(options.kind, made.content), made.tree->objects().size(),
                                    options.layout ? &layout : nullptr, options.kind != Kind::kFull);
  ASSERT_TRUE(manifest) << manifest.error().text();
  made.manifest = *manifest;
}

Made make_version(uint64_t seed, uint64_t of_ten) {
  std::mt19937_64 random(seed);
  Made made;
  made.content = made_content(random);
  made.tree = test::tree_of(made.content);
  made.touched = random_touched(*made.tree, random, of_ten);
  return made;
}

/// The table and the decoded blocks of one touched object equal what was written; gives its payload bytes.
uint64_t expect_blocks(const CodedPatch& patch, const Made& made, size_t object) {
  const std::vector<uint64_t>& blocks = made.touched.at(object);
  const std::string bytes = object_bytes(*made.tree, object, made.content);
  const auto table = patch.load_table(test::heads());
  EXPECT_TRUE(table) << table.error().text();
  EXPECT_EQ((*table)->blocks().size(), blocks.size());
  uint64_t payload = 0;
  for (uint64_t block = 0; block * kBlockBytes < bytes.size(); ++block) {
    const CodedBlock* const found = (*table)->find(block);
    EXPECT_EQ(found != nullptr, std::find(blocks.begin(), blocks.end(), block) != blocks.end()) << block;
    if (found == nullptr) continue;
    const std::string expected = bytes.substr(block * kBlockBytes, kBlockBytes);
    std::vector<std::byte> out(expected.size());
    const Status decoded = patch.decode(**table, *found, {}, out);
    EXPECT_TRUE(decoded) << decoded.error().text();
    EXPECT_EQ(as_text(out), expected);
    EXPECT_EQ(found->digest, test::xxh3_64_of(expected));
    EXPECT_EQ((*table)->params(*found).element_bytes(), made.tree->objects()[object].element_bytes);
    payload += expected.size();
  }
  EXPECT_EQ((*table)->find(bytes.size() / kBlockBytes + 1), nullptr);
  return payload;
}

/// All answers of a version about a tree equal what was written.
void expect_version(const NativeVersion& version, const Made& made) {
  std::vector<uint32_t> touched;
  for (const auto& [object, blocks] : made.touched) touched.push_back(static_cast<uint32_t>(object));
  const auto objects = version.touched_objects(*made.tree);
  ASSERT_TRUE(objects) << objects.error().text();
  ASSERT_EQ(*objects, touched);
  for (size_t object = 0; object < made.tree->objects().size(); ++object) {
    const auto patch = version.find(*made.tree, object, true, test::heads());
    ASSERT_TRUE(patch) << patch.error().text();
    ASSERT_EQ(*patch != nullptr, made.touched.contains(object));
    const auto change = version.change(*made.tree, object, test::heads());
    ASSERT_TRUE(change);
    const size_t count = *patch == nullptr ? 0 : made.touched.at(object).size();
    ASSERT_EQ(change->blocks, count);
    ASSERT_EQ(change->changed, count);
    ASSERT_EQ(change->payload_bytes, *patch == nullptr ? 0 : expect_blocks(**patch, made, object));
  }
}

TEST(NativeVersion, GivesBackWhatTheWriterGot) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const TempFolder root(test::memory_path());
    Made made = make_version(seed, seed % 11);
    write_version(root.path("v"), made);
    const auto version = NativeVersion::open(Files(), root.path("v"));
    ASSERT_TRUE(version) << version.error().text();
    EXPECT_EQ((*version)->folder(), root.path("v"));
    EXPECT_EQ((*version)->manifest().digest, made.manifest.digest);
    EXPECT_EQ((*version)->manifest().kind, Kind::kDelta);
    uint64_t stored = 0;
    for (const auto& entry : fs::directory_iterator(root.path("v"))) stored += entry.file_size();
    EXPECT_EQ((*version)->stored_bytes(), stored);
    EXPECT_GT((*version)->mtime_ns(), 0);
    const auto layout = (*version)->read_layout(made.tree.get());
    ASSERT_TRUE(layout);
    EXPECT_FALSE(*layout);
    expect_version(**version, made);
  }
}

TEST(NativeVersion, AFullVersionCarriesItsTree) {
  const TempFolder root;
  Made made = make_version(1, 10);
  write_version(root.path("v"), made, {.kind = Kind::kFull, .layout = true});
  const auto version = NativeVersion::open(Files(), root.path("v"));
  ASSERT_TRUE(version) << version.error().text();
  EXPECT_FALSE((*version)->manifest().changed);
  const auto layout = (*version)->read_layout(nullptr);
  ASSERT_TRUE(layout) << layout.error().text();
  ASSERT_TRUE(*layout);
  EXPECT_TRUE(*(*layout)->tree == *made.tree);
  expect_version(**version, made);
  for (size_t i = 0; i < made.tree->objects().size(); ++i)
    EXPECT_TRUE((*version)->find(*made.tree, i, false, test::heads()));
}

TEST(NativeVersion, SpreadsPayloadOverFilesThatAreSafetensors) {
  const TempFolder root;
  Made made = make_version(3, 10);
  write_version(root.path("v"), made, {.writer = {kBlockBytes, 100'000}, .layout = true});
  ASSERT_GT(made.manifest.payload.size(), 3u);
  for (const auto& entry : made.manifest.payload) {
    MemorySource file(entry.file, test::to_bytes(read_file(root.path("v/" + entry.file))));
    const auto header = SafetensorsHeader::read(file);
    ASSERT_TRUE(header) << header.error().text();
    EXPECT_EQ(file.size(), entry.bytes);
    ASSERT_NE(header->find("blocks"), nullptr);
    EXPECT_EQ(header->find("blocks")->bytes(), entry.blocks);
    EXPECT_EQ(header->data_start() + header->find("blocks")->begin, entry.at);
    const bool first = &entry == made.manifest.payload.data();
    EXPECT_EQ(header->tensors().size(), first ? 3u : 1u);
    if (!first) continue;
    EXPECT_EQ(header->data_start() + header->find("index")->begin, made.manifest.index.at);
    EXPECT_EQ(header->find("index")->bytes(), made.manifest.index.bytes);
    EXPECT_EQ(header->data_start() + header->find("layout")->begin, made.manifest.layout->at);
  }
  const auto version = NativeVersion::open(Files(), root.path("v"));
  ASSERT_TRUE(version) << version.error().text();
  expect_version(**version, made);
}

TEST(NativeVersion, ALargePayloadFileLeavesRoomForItsHeader) {
  const TempFolder root;
  Made made;
  made.content = {{"big", std::string(9u << 20, 'b')}};
  made.tree = test::tree_of(made.content);
  for (uint64_t block = 0; block < (9u << 20) / kBlockBytes; ++block) made.touched[0].push_back(block);
  write_version(root.path("v"), made);
  MemorySource file("payload", test::to_bytes(read_file(root.path("v/payload-00001.safetensors"))));
  ASSERT_TRUE(SafetensorsHeader::read(file));
  const auto version = NativeVersion::open(Files(), root.path("v"));
  ASSERT_TRUE(version) << version.error().text();
  expect_version(**version, made);
}

TEST(NativeVersion, ASmallDeltaHasAHeaderOfFewBytes) {
  const TempFolder root;
  Made made = make_version(5, 0);
  made.touched[0] = {0};
  write_version(root.path("v"), made);
  EXPECT_LT(made.manifest.payload[0].at, 160u);
}

std::map<std::string, std::string> files_of(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder)) files[entry.path().filename()] = read_file(entry.path());
  return files;
}

TEST(NativeVersion, TwoRunsOfTheWriterGiveEqualBytes) {
  const TempFolder root;
  Made made = make_version(6, 6);
  write_version(root.path("a"), made, {.writer = {kBlockBytes, 300'000}, .layout = true});
  write_version(root.path("b"), made, {.writer = {kBlockBytes, 300'000}, .layout = true, .one_by_one = true});
  EXPECT_EQ(files_of(root.path("a")), files_of(root.path("b")));
  EXPECT_EQ(files_of(root.path("a")).size(), made.manifest.payload.size() + 1);
}

// --- what is read -------------------------------------------------------------------------------

/// 70 000 tensors of 8 bytes, every other one touched.
Made many_tensors() {
  std::vector<test::MadeTensor> tensors;
  for (size_t i = 0; i < 70'000; ++i) tensors.push_back({"t" + std::to_string(i), "U8", {8}, "8 bytes."});
  Made made;
  made.content = {{"model.safetensors", test::safetensors_file(tensors)}};
  made.tree = test::tree_of(made.content);
  for (size_t i = 0; i < tensors.size(); i += 2) made.touched[i] = {0};
  return made;
}

TEST(NativeVersion, OpeningReadsTheManifestAndALookupAHeadAndAGroup) {
  constexpr uint64_t kGroup = 9u << 10;
  const TempFolder root;
  Made made = many_tensors();
  write_version(root.path("v"), made);
  EXPECT_GT(made.manifest.index.bytes, 400'000u);

  const Files files;
  const auto read = [&] { return files.counters().header_bytes + files.counters().tensor_bytes; };
  const auto version = NativeVersion::open(files, root.path("v"));
  ASSERT_TRUE(version) << version.error().text();
  EXPECT_EQ(files.counters().reads, 1u);
  EXPECT_EQ(read(), fs::file_size(root.path("v/manifest.json")));

  uint64_t before = read();
  ASSERT_NE((*version)->find(*made.tree, 35'000, true, test::heads()).value(), nullptr);
  EXPECT_EQ(files.counters().reads, 3u);
  EXPECT_LT(read() - before, made.manifest.index.head + kGroup);

  before = read();
  ASSERT_EQ((*version)->find(*made.tree, 1, true, test::heads()).value(), nullptr);
  const auto patch = (*version)->find(*made.tree, 69'998, true, test::heads());
  ASSERT_NE(patch.value(), nullptr);
  EXPECT_EQ(files.counters().reads, 5u);
  EXPECT_LT(read() - before, 2 * kGroup);

  const auto table = (*patch)->load_table(test::heads());
  ASSERT_TRUE(table);
  std::array<std::byte, 8> out{};
  ASSERT_TRUE((*patch)->decode(**table, *(*table)->find(0), {}, out));
  EXPECT_EQ(as_text(out), "8 bytes.");
  EXPECT_EQ(files.counters().reads, 6u);
}

TEST(NativeVersion, AnObjectOverManyGroupsIsFoundWhole) {
  Made made;
  made.content = {{"a", "first"}, {"big", std::string(5000 * kBlockBytes, '\0')}, {"c", "last"}};
  made.tree = test::tree_of(made.content);
  made.touched[0] = {0};
  for (uint64_t block = 0; block < 5000; ++block) {
    if (block % 7 != 3) made.touched[1].push_back(block);
  }
  made.touched[2] = {0};
  const TempFolder root(test::memory_path());
  fs::create_directories(root.path("v"));
  auto writer = NativeWriter::create(root.path("v"), {kBlockBytes, 4ull << 30});
  ASSERT_TRUE(writer);
  for (const auto& [object, blocks] : made.touched) {
    std::vector<NativeWriter::Block> batch;
    for (const uint64_t block : blocks) {
      batch.push_back(raw_block(block, "12345", 1));
      if (object == 1) batch.back().encoded.coding = codec::BlockCoding::kSparse;
    }
    if (object != 1) batch[0] = raw_block(0, made.content.at(object == 0 ? "a" : "c"), 1);
    ASSERT_TRUE((*writer)->add(object, codec::BlockParams(1), std::move(batch)));
  }
  ASSERT_TRUE((*writer)->finish(draft_manifest(Kind::kDelta, made.content), 3, nullptr, true));

  const auto version = NativeVersion::open(Files(), root.path("v"));
  ASSERT_TRUE(version) << version.error().text();
  EXPECT_EQ((*version)->touched_objects(*made.tree).value(), (std::vector<uint32_t>{0, 1, 2}));
  const auto table = (*version)->find(*made.tree, 1, true, test::heads()).value()->load_table(test::heads());
  ASSERT_TRUE(table) << table.error().text();
  ASSERT_EQ((*table)->blocks().size(), made.touched[1].size());
  for (uint64_t block = 0; block < 5000; ++block) ASSERT_EQ((*table)->find(block) == nullptr, block % 7 == 3) << block;
  EXPECT_GT((*table)->cost(), made.touched[1].size() * sizeof(CodedBlock));
  ASSERT_NE((*version)->find(*made.tree, 0, false, test::heads()).value(), nullptr);
  ASSERT_NE((*version)->find(*made.tree, 2, false, test::heads()).value(), nullptr);
}

// --- what is refused ----------------------------------------------------------------------------

TEST(NativeVersion, AnObjectWithoutAParentNeedsEveryBlock) {
  const TempFolder root;
  Made made = make_version(8, 10);
  const size_t c = made.tree->find_tensor(2, "c");
  made.touched[c] = {0, 2};
  made.touched.erase(0);
  write_version(root.path("v"), made);
  const auto version = NativeVersion::open(Files(), root.path("v"));
  ASSERT_TRUE(version);
  EXPECT_TRUE((*version)->find(*made.tree, c, true, test::heads()));
  EXPECT_TRUE((*version)->find(*made.tree, 0, true, test::heads()));
  for (const size_t object : {c, size_t{0}}) {
    const auto patch = (*version)->find(*made.tree, object, false, test::heads());
    ASSERT_FALSE(patch);
    EXPECT_EQ(patch.error().code, ErrorCode::kNativeIndex);
  }
  const size_t none = made.tree->find_tensor(2, "none");
  EXPECT_EQ((*version)->find(*made.tree, none, false, test::heads()).value(), nullptr);
  EXPECT_EQ((*version)->find(*made.tree, 1, false, test::heads()).value(), nullptr);  // an empty file
}

TEST(NativeVersion, ATreeOfAnotherVersionIsNoticed) {
  const TempFolder root;
  Made made = make_version(9, 8);
  write_version(root.path("v"), made);
  const auto version = NativeVersion::open(Files(), root.path("v"));
  ASSERT_TRUE(version);
  const auto other = test::tree_of({{"a", "one"}});
  const auto patch = (*version)->find(*other, 0, true, test::heads());
  ASSERT_FALSE(patch);
  EXPECT_EQ(patch.error().code, ErrorCode::kNativeIndex);
  EXPECT_EQ((*version)->find(*made.tree, 1000, true, test::heads()).error().code, ErrorCode::kInternal);
}

TEST(NativeVersion, AReferenceHasNoBlocks) {
  const TempFolder root;
  NativeManifest manifest = draft_manifest(Kind::kReference, {{"a", "one"}});
  manifest.name = "base";
  manifest.parent.reset();
  manifest.root.clear();
  manifest.path = "/models/base";
  ASSERT_TRUE(write_manifest(root.path(), manifest));
  const auto version = NativeVersion::open(Files(), root.path());
  ASSERT_TRUE(version) << version.error().text();
  EXPECT_EQ((*version)->manifest().path, "/models/base");
  const auto tree = test::tree_of({{"a", "one"}});
  EXPECT_TRUE((*version)->touched_objects(*tree).value().empty());
  EXPECT_EQ((*version)->find(*tree, 0, false, test::heads()).value(), nullptr);
  EXPECT_EQ((*version)->change(*tree, 0, test::heads())->blocks, 0u);
  EXPECT_FALSE((*version)->read_layout(nullptr).value());
}

TEST(NativeVersion, MissingAndCutAndGrownPayloadFilesAreRefused) {
  const TempFolder root;
  Made made = make_version(10, 8);
  write_version(root.path("v"), made);
  const std::string payload = root.path("v/payload-00001.safetensors");
  const std::string whole = read_file(payload);
  const auto code = [&] { return NativeVersion::open(Files(), root.path("v")).error().code; };
  root.write("v/payload-00001.safetensors", whole.substr(0, whole.size() - 1));
  EXPECT_EQ(code(), ErrorCode::kIoTruncated);
  root.write("v/payload-00001.safetensors", whole + "x");
  EXPECT_EQ(code(), ErrorCode::kNativeManifest);
  fs::remove(payload);
  EXPECT_EQ(code(), ErrorCode::kIoOpen);
  fs::remove(root.path("v/manifest.json"));
  EXPECT_EQ(code(), ErrorCode::kIoOpen);
}

TEST(NativeVersion, APayloadFileThatIsReplacedLaterIsReadAsItWasOpened) {
  const TempFolder root;
  Made made = make_version(11, 10);
  write_version(root.path("v"), made);
  const auto version = NativeVersion::open(Files(), root.path("v"));
  ASSERT_TRUE(version);
  const auto patch = (*version)->find(*made.tree, 0, true, test::heads()).value();
  const auto table = patch->load_table(test::heads()).value();
  const std::string payload = root.path("v/payload-00001.safetensors");
  const std::string whole = read_file(payload);
  fs::rename(payload, root.path("old"));
  root.write("v/payload-00001.safetensors", std::string(whole.size(), 'x'));
  EXPECT_TRUE(patch->load_table(test::heads()));
  fs::resize_file(root.path("old"), whole.size() / 2);
  std::vector<std::byte> out(made.tree->objects()[0].bytes);
  const Status decoded = patch->decode(*table, table->blocks()[0], {}, out);
  ASSERT_FALSE(decoded) << "what was opened is not what it was";
  EXPECT_EQ(decoded.error().code, ErrorCode::kIoChanged);
}

TEST(NativeVersion, APayloadAcrossTwoFilesIsRefused) {
  const TempFolder root;
  Made made = make_version(12, 10);
  write_version(root.path("v"), made, {.writer = {kBlockBytes, 100'000}});
  // The same bytes, but the manifest says that file 1 ends in the middle of a block.
  NativeManifest manifest = made.manifest;
  ASSERT_GT(manifest.payload.size(), 1u);
  manifest.payload[0].blocks -= 10;
  manifest.payload[1].at -= 10;
  manifest.payload[1].blocks += 10;
  ASSERT_TRUE(write_manifest(root.path("v"), manifest));
  const auto version = NativeVersion::open(Files(), root.path("v"));
  ASSERT_TRUE(version) << version.error().text();
  size_t refused = 0;
  for (const auto& [object, blocks] : made.touched) {
    const auto patch = (*version)->find(*made.tree, object, true, test::heads()).value();
    const auto table = patch->load_table(test::heads()).value();
    for (const CodedBlock& block : table->blocks()) {
      std::vector<std::byte> out(block.length);
      const Status decoded = patch->decode(*table, block, {}, out);
      if (decoded) continue;
      EXPECT_EQ(decoded.error().code, ErrorCode::kNativeIndex);
      ++refused;
    }
  }
  EXPECT_EQ(refused, 1u);
}

/// Everything that a version says about a tree, as one text; nothing when any of it is refused.
std::optional<std::string> answers(const std::string& folder, const TreeLayout& tree) {
  const auto version = NativeVersion::open(Files(), folder);
  if (!version) return std::nullopt;
  const auto layout = (*version)->read_layout(nullptr);
  const auto touched = (*version)->touched_objects(tree);
  if (!layout || !touched) return std::nullopt;
  NativeManifest manifest = (*version)->manifest();
  std::string text = manifest.serialise();
  text += *layout && *(*layout)->tree == tree ? "same tree" : "other tree";
  for (size_t object = 0; object < tree.objects().size(); ++object) {
    const auto patch = (*version)->find(tree, object, true, test::heads());
    if (!patch) return std::nullopt;
    if (*patch == nullptr) continue;
    const auto table = (*patch)->load_table(test::heads());
    if (!table) return std::nullopt;
    for (const CodedBlock& block : (*table)->blocks()) {
      std::vector<std::byte> out(std::min(kBlockBytes, tree.objects()[object].bytes - block.index * kBlockBytes));
      if (!(*patch)->decode(**table, block, {}, out) || xxh3_64(out) != block.digest) return std::nullopt;
      text += std::to_string(object) + ":" + std::to_string(block.index) + std::string(as_text(out));
    }
  }
  return text;
}

class NativeDamage : public ::testing::Test {
 protected:
  NativeDamage() : root_(test::memory_path()) {
    std::mt19937_64 random(3);
    made_.content = {{"config.json", "{}"},
                     {"m.safetensors", test::safetensors_file({{"a", "BF16", {20}, random_text(random, 40)},
                                                               {"b", "F32", {3}, random_text(random, 12)}})}};
    made_.tree = test::tree_of(made_.content);
    made_.touched = {{0, {0}}, {1, {0}}, {2, {0}}};
    write_version(root_.path("v"), made_, {.kind = Kind::kFull, .layout = true});
    good_ = answers(root_.path("v"), *made_.tree);
  }

  /// True when the version, with one file replaced, is refused; false when its answers are what they were.
  bool refused(const std::string& file, const std::string& bytes) const {
    root_.write("v/" + file, bytes);
    const auto found = answers(root_.path("v"), *made_.tree);
    EXPECT_EQ(found.value_or(*good_), *good_);
    return !found;
  }

  TempFolder root_;
  Made made_;
  std::optional<std::string> good_;
};

TEST_F(NativeDamage, EveryTruncationIsRefused) {
  ASSERT_TRUE(good_);
  for (const auto& [name, bytes] : files_of(root_.path("v"))) {
    for (size_t length = 0; length < bytes.size(); ++length) {
      ASSERT_TRUE(refused(name, bytes.substr(0, length))) << name << " " << length;
    }
    ASSERT_FALSE(refused(name, bytes));
  }
}

TEST_F(NativeDamage, EveryFlippedBitIsRefusedOrChangesNothing) {
  ASSERT_TRUE(good_);
  for (const auto& [name, bytes] : files_of(root_.path("v"))) {
    // The safetensors header in front is for other readers.
    const size_t unused = name == kManifestFileName ? 0 : made_.manifest.payload[0].at;
    for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
      std::string damaged = bytes;
      damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
      ASSERT_EQ(refused(name, damaged), bit / 8 >= unused) << name << " bit " << bit;
    }
    ASSERT_FALSE(refused(name, bytes));
  }
}

TEST_F(NativeDamage, HasCodesForIndexLayoutAndBlocks) {
  const std::string payload = files_of(root_.path("v")).at("payload-00001.safetensors");
  const auto with_flip = [&](uint64_t at) {
    std::string damaged = payload;
    damaged[at] = static_cast<char>(damaged[at] ^ 1);
    root_.write("v/payload-00001.safetensors", damaged);
    return NativeVersion::open(Files(), root_.path("v")).value();
  };
  const NativeManifest& manifest = made_.manifest;
  EXPECT_EQ(with_flip(manifest.index.at)->find(*made_.tree, 0, true, test::heads()).error().code,
            ErrorCode::kNativeIndex);
  EXPECT_EQ(with_flip(manifest.index.at + manifest.index.head)->find(*made_.tree, 0, true, test::heads()).error().code,
            ErrorCode::kNativeIndex);
  EXPECT_EQ(with_flip(manifest.layout->at + 20)->read_layout(nullptr).error().code, ErrorCode::kNativeLayout);
}

TEST_F(NativeDamage, ALayoutThatContradictsTheManifestIsRefused) {
  NativeManifest manifest = made_.manifest;
  manifest.files[0].bytes += 1;
  ASSERT_TRUE(write_manifest(root_.path("v"), manifest));
  EXPECT_EQ(NativeVersion::open(Files(), root_.path("v")).value()->read_layout(nullptr).error().code,
            ErrorCode::kNativeLayout);
}

TEST_F(NativeDamage, AnIndexThatContradictsTheManifestIsRefused) {
  NativeManifest manifest = made_.manifest;
  manifest.changed = 3;
  ASSERT_TRUE(write_manifest(root_.path("v"), manifest));
  const auto version = NativeVersion::open(Files(), root_.path("v")).value();
  EXPECT_EQ(version->find(*made_.tree, 0, true, test::heads()).error().code, ErrorCode::kNativeIndex);
  EXPECT_EQ(version->touched_objects(*made_.tree).error().code, ErrorCode::kNativeIndex);
}

// --- the writer's own rules ---------------------------------------------------------------------

class WriterRules : public ::testing::Test {
 protected:
  WriterRules() { writer_ = NativeWriter::create(root_.path(), {kBlockBytes, 4ull << 30}).value(); }

  ErrorCode add(size_t object, uint64_t block, size_t bytes = 5) {
    std::vector<NativeWriter::Block> blocks{raw_block(block, std::string(bytes, 'x'), 1)};
    const Status status = writer_->add(object, codec::BlockParams(1), std::move(blocks));
    return status ? kFine : status.error().code;
  }
  ErrorCode finish(NativeManifest manifest, uint64_t objects) {
    const auto done = writer_->finish(std::move(manifest), objects, nullptr, true);
    return done ? kFine : done.error().code;
  }

  TempFolder root_;
  std::unique_ptr<NativeWriter> writer_;
};

TEST_F(WriterRules, BlocksAscend) {
  EXPECT_EQ(add(1, 5), kFine);
  EXPECT_EQ(add(1, 5), ErrorCode::kInternal);
  EXPECT_EQ(add(1, 4), ErrorCode::kInternal);
  EXPECT_EQ(add(0, 9), ErrorCode::kInternal);
  EXPECT_EQ(add(1, 6), kFine);
  EXPECT_EQ(add(2, 0), kFine);
}

TEST_F(WriterRules, NumbersStayInRange) {
  EXPECT_EQ(add(UINT32_MAX, 0), ErrorCode::kInternal);
  EXPECT_EQ(add(0, uint64_t{1} << 32), ErrorCode::kInternal);
  EXPECT_EQ(add(0, 0, kBlockBytes + 1), ErrorCode::kInternal);
  EXPECT_EQ(add(3, 0), kFine);
  EXPECT_EQ(finish(draft_manifest(Kind::kDelta, {}), 3), ErrorCode::kInternal);
}

TEST_F(WriterRules, AManifestThatNobodyWouldReadIsNotWritten) {
  NativeManifest manifest = draft_manifest(Kind::kDelta, {});
  manifest.created = "yesterday";
  EXPECT_EQ(finish(manifest, 0), ErrorCode::kNativeManifest);
  EXPECT_FALSE(fs::exists(root_.path("manifest.json")));
}

TEST_F(WriterRules, AnEmptyDeltaHasAnIndexWithoutGroups) {
  EXPECT_EQ(finish(draft_manifest(Kind::kDelta, {{"a", "one"}}), 1), kFine);
  const auto version = NativeVersion::open(Files(), root_.path());
  ASSERT_TRUE(version) << version.error().text();
  EXPECT_EQ((*version)->manifest().index.bytes, 24u);
  EXPECT_EQ((*version)->manifest().changed, 0u);
  const auto tree = test::tree_of({{"a", "one"}});
  EXPECT_TRUE((*version)->touched_objects(*tree).value().empty());
  EXPECT_EQ((*version)->find(*tree, 0, true, test::heads()).value(), nullptr);
}

TEST_F(WriterRules, TheFolderMustBeEmptyAndTheBlockSizeKnown) {
  EXPECT_EQ(NativeWriter::create(root_.path(), {kBlockBytes, 1}).error().code, ErrorCode::kIoWrite);
  EXPECT_EQ(NativeWriter::create(root_.path("missing"), {kBlockBytes, 1}).error().code, ErrorCode::kIoWrite);
  for (const uint64_t bytes : {uint64_t{0}, kBlockBytes / 2, kBlockBytes * 2, uint64_t{2} << 20}) {
    EXPECT_EQ(NativeWriter::create(root_.path(), {bytes, 1}).error().code, ErrorCode::kInternal);
  }
}

}  // namespace
}  // namespace weightfs
