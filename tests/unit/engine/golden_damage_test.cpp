// SPDX-License-Identifier: Apache-2.0
// A small golden store, cut at every length and with every single bit flipped: what is shown is right, byte for
// byte, or there is an error.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "common/log.h"
#include "support/formats.h"
#include "support/made_run.h"
#include "support/open_run.h"
#include "unit/support/temp_folder.h"

namespace weightfs::test {
namespace {

namespace fs = std::filesystem;

constexpr const char* kGolden = WEIGHTFS_TESTS_DIR "/golden/native-v1/tiny";

/// "VERSION/PATH" -> XXH3-128 of its content, as the maker of the store wrote it down.
std::map<std::string, std::string> expected_digests() {
  std::map<std::string, std::string> found;
  std::ifstream file(std::string(kGolden) + ".xxh3");
  for (std::string digest, path; file >> digest >> path;) found[path] = digest;
  return found;
}

std::string path_of(const std::vector<ModelFolder::Entry>& entries, size_t entry) {
  std::string path = entries[entry].name;
  while ((entry = entries[entry].parent) != 0) path = entries[entry].name + "/" + path;
  return path;
}

/// What a store shows: how many files were right, and how many versions or files were an error.
struct Shown {
  size_t right = 0;
  size_t errors = 0;
  std::string wrong;  ///< the first file that was neither
};

/// Where the bytes begin of which each bit feeds a result or is checked: all of a manifest; of a payload file its
/// data, because readers go by the manifest and not by the header; nothing of store.json, whose id only names it.
size_t first_meaningful_byte(const std::string& file, const std::string& bytes) {
  if (file.ends_with("/store.json")) return bytes.size();
  if (!file.ends_with(".safetensors")) return 0;
  size_t header = 0;
  for (size_t i = 8; i-- > 0;) header = header << 8 | static_cast<uint8_t>(bytes[i]);
  return 8 + header;
}

class GoldenDamage : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { EXPECT_TRUE(log::configure(log::Level::kOff, log::Target::kStderr)); }
  static void TearDownTestSuite() { EXPECT_TRUE(log::configure(log::Level::kWarn, log::Target::kStderr)); }

  void SetUp() override {
    fs::copy(kGolden, folder_.path("store"), fs::copy_options::recursive);
    for (const auto& entry : fs::recursive_directory_iterator(folder_.path("store"))) {
      if (entry.is_regular_file() && entry.file_size() > 0) files_.push_back(entry.path().string());
    }
    ASSERT_GE(files_.size(), 5u);
    ASSERT_EQ(look().right, expected_.size());
  }

  /// Opens the store afresh and reads everything that it shows.
  Shown look() const {
    Shown shown;
    const Files files;
    const auto snapshot = open_source(files, {folder_.path("store"), {}, true});
    if (!snapshot) {
      shown.errors = 1;
      return shown;
    }
    Engine engine(*snapshot, {1u << 20, 1, true});
    for (const Version& version : (*snapshot)->versions()) shown.errors += version.admitted() ? 0 : 1;
    for (size_t ordinal = 0; ordinal < (*snapshot)->admitted_count(); ++ordinal) look_at(engine, ordinal, shown);
    return shown;
  }

  std::vector<std::string> files_;
  TempFolder folder_{memory_path()};

 private:
  void look_at(Engine& engine, size_t ordinal, Shown& shown) const {
    const std::string name = engine.snapshot().admitted(ordinal).name;
    const auto& entries = engine.snapshot().folder(ordinal).entries();
    size_t files = 0;
    for (size_t entry = 1; entry < entries.size(); ++entry) {
      if (entries[entry].kind == ModelFolder::EntryKind::kDirectory) continue;
      const std::string path = name + "/" + path_of(entries, entry);
      ++files;
      const auto content = read_file(engine, ordinal, entry);
      const auto wanted = expected_.find(path);
      if (!content) {
        ++shown.errors;
      } else if (wanted != expected_.end() && xxh3_128_hex(*content) == wanted->second) {
        ++shown.right;
      } else {
        shown.wrong = path;
      }
    }
    if (files != count(name)) shown.wrong = name + ", which has other files";
  }

  size_t count(const std::string& version) const {
    size_t found = 0;
    for (const auto& [path, digest] : expected_) found += path.starts_with(version + "/") ? 1 : 0;
    return found;
  }

  std::map<std::string, std::string> expected_ = expected_digests();
};

TEST_F(GoldenDamage, EveryTruncationIsRightOrAnError) {
  for (const std::string& file : files_) {
    const std::string whole = read_whole(file);
    for (size_t length = whole.size(); length-- > 0;) {
      fs::resize_file(file, length);
      const Shown shown = look();
      ASSERT_EQ(shown.wrong, "") << file << " cut to " << length;
      // Only the newline that ends store.json means nothing.
      ASSERT_TRUE(shown.errors > 0 || file.ends_with("/store.json")) << file << " cut to " << length;
    }
    write_file(file, whole);
  }
}

TEST_F(GoldenDamage, EveryFlippedBitIsRightOrAnError) {
  size_t harmless = 0;
  for (const std::string& file : files_) {
    std::string bytes = read_whole(file);
    const size_t meaningful = first_meaningful_byte(file, bytes);
    for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
      const auto flip = [&] { bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8)); };
      flip();
      write_file(file, bytes);
      const Shown shown = look();
      ASSERT_EQ(shown.wrong, "") << file << " bit " << bit;
      harmless += bit / 8 >= meaningful && shown.errors == 0 ? 1 : 0;
      flip();
    }
    write_file(file, bytes);
  }
  EXPECT_LE(harmless, 32u) << "a zstd frame has bits without a meaning, but few";
  EXPECT_EQ(look().errors, 0u) << "mended";
}

}  // namespace
}  // namespace weightfs::test
