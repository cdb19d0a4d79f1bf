// SPDX-License-Identifier: Apache-2.0
// Replays the saved delta sources: opens each, reads every byte of every version, and looks for the
// code that the case's name gives.  Whatever must be readable is compared with recorded digests.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "support/formats.h"
#include "support/open_run.h"
#include "unit/support/temp_folder.h"

namespace weightfs {
namespace {

namespace fs = std::filesystem;
using test::TempFolder;

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(WEIGHTFS_TESTS_DIR "/corpus/delta")) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

/// What came of a case.
struct Outcome {
  std::set<std::string> refused;     // code ids of the source or of versions
  std::set<std::string> unreadable;  // code ids of failed reads
  std::set<std::string> digests;     // "version/file digest" of what was read
};

Outcome replay(const std::string& source) {
  Outcome outcome;
  const Files files;
  const auto snapshot = open_source(files, {source, {}, true});
  if (!snapshot) {
    outcome.refused.emplace(code_id(snapshot.error().code));
    return outcome;
  }
  for (const Version& version : (*snapshot)->versions()) {
    if (version.error) outcome.refused.emplace(code_id(version.error->code));
  }
  Engine engine(*snapshot, {1u << 20, 2, true});
  for (size_t ordinal = 0; ordinal < (*snapshot)->admitted_count(); ++ordinal) {
    const auto& entries = (*snapshot)->base().entries();
    for (size_t entry = 1; entry < entries.size(); ++entry) {
      if (entries[entry].kind == ModelFolder::EntryKind::kDirectory) continue;
      const auto bytes = test::read_file(engine, ordinal, entry);
      if (!bytes) {
        outcome.unreadable.emplace(code_id(bytes.error().code));
      } else if (entries[entry].kind == ModelFolder::EntryKind::kShard) {
        outcome.digests.insert((*snapshot)->admitted(ordinal).name + "/" + entries[entry].name + " " +
                               test::xxh3_128_hex(*bytes));
      }
    }
  }
  return outcome;
}

class DeltaCorpus : public ::testing::TestWithParam<std::string> {};

TEST_P(DeltaCorpus, IsReadOrRefusedAsItsNameSays) {
  const std::string& name = GetParam();
  const TempFolder folder(test::memory_path());
  fs::copy(WEIGHTFS_TESTS_DIR "/corpus/delta/" + name, folder.path("case"), fs::copy_options::recursive);
  std::istringstream expected(test::read_whole(folder.path("case/expected.txt")));
  fs::remove(folder.path("case/expected.txt"));
  for (const auto& file : fs::recursive_directory_iterator(folder.path("case"))) {
    test::set_mtime(file.path().string(), 1'700'000'000);  // TRL rules look at times
  }
  const Outcome outcome = replay(folder.path("case"));
  const std::string code = name.substr(name.rfind("__") + 2);
  const bool source_is_refused = outcome.digests.empty() && outcome.unreadable.empty();
  if (name.starts_with("reject__")) {
    EXPECT_TRUE(outcome.refused.contains(code)) << ::testing::PrintToString(outcome.refused);
    EXPECT_EQ(outcome.unreadable, std::set<std::string>{});
  } else {
    EXPECT_EQ(outcome.refused, std::set<std::string>{});
    EXPECT_EQ(outcome.unreadable, name.starts_with("eio__") ? std::set<std::string>{code} : std::set<std::string>{});
  }
  if (source_is_refused) return;
  std::set<std::string> lines;
  for (std::string line; std::getline(expected, line);) lines.insert(line);
  EXPECT_EQ(outcome.digests, lines);
}

INSTANTIATE_TEST_SUITE_P(Cases, DeltaCorpus, ::testing::ValuesIn(case_names()), [](const auto& chosen) {
  std::string name = chosen.param;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; }, '_');
  return name;
});

TEST(DeltaCorpusSize, IsNoSmallerThanPromised) {
  const auto names = case_names();
  const auto count = [&](std::string_view prefix) {
    return std::count_if(names.begin(), names.end(), [&](const std::string& n) { return n.starts_with(prefix); });
  };
  EXPECT_GE(names.size(), 60u);
  EXPECT_GE(count("accept__"), 20);
  EXPECT_GE(count("reject__"), 60);
  EXPECT_GE(count("eio__"), 20);
}

}  // namespace
}  // namespace weightfs
