// SPDX-License-Identifier: Apache-2.0
// Replays tests/corpus/header and tests/corpus/index: every file's name carries its verdict.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "model/safetensors_header.h"
#include "model/shard_index.h"
#include "unit/support/temp_folder.h"

namespace weightfs {
namespace {

namespace fs = std::filesystem;

struct Case {
  fs::path file;
  std::string what;
  std::string verdict;  // "accept", or the code it must be refused with
};

std::vector<Case> cases(const std::string& folder, const std::string& suffix) {
  std::vector<Case> found;
  for (const auto& entry : fs::directory_iterator(fs::path(WEIGHTFS_TESTS_DIR) / "corpus" / folder)) {
    std::string name = entry.path().filename();
    if (!name.ends_with(suffix)) continue;
    name.resize(name.size() - suffix.size());
    const size_t first = name.find("__");
    const size_t second = name.find("__", first + 2);
    const std::string what = name.substr(first + 2, second == std::string::npos ? second : second - first - 2);
    found.push_back({entry.path(), what, name.starts_with("accept__") ? "accept" : name.substr(second + 2)});
  }
  std::sort(found.begin(), found.end(), [](const Case& a, const Case& b) { return a.file < b.file; });
  return found;
}

std::string test_name(const ::testing::TestParamInfo<Case>& info) {
  std::string name = info.param.what;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; }, '_');
  return name;
}

template <class T>
std::string verdict(const Result<T>& result) {
  return result ? "accept" : std::string(code_id(result.error().code));
}

class HeaderCorpus : public ::testing::TestWithParam<Case> {};

TEST_P(HeaderCorpus, GetsItsVerdict) {
  const std::string bytes = test::read_file(GetParam().file);
  const auto view = as_bytes(bytes);
  MemorySource source(GetParam().file.filename(), {view.begin(), view.end()});
  const auto header = SafetensorsHeader::read(source);
  EXPECT_EQ(verdict(header), GetParam().verdict) << (header ? "" : header.error().text());
}

INSTANTIATE_TEST_SUITE_P(All, HeaderCorpus, ::testing::ValuesIn(cases("header", ".safetensors")), test_name);

class IndexCorpus : public ::testing::TestWithParam<Case> {};

TEST_P(IndexCorpus, GetsItsVerdict) {
  const auto index = ShardIndex::parse(test::read_file(GetParam().file));
  EXPECT_EQ(verdict(index), GetParam().verdict) << (index ? "" : index.error().text());
}

INSTANTIATE_TEST_SUITE_P(All, IndexCorpus, ::testing::ValuesIn(cases("index", ".json")), test_name);

TEST(Corpus, IsAllThere) {
  EXPECT_GE(cases("header", ".safetensors").size(), 200U);
  EXPECT_GE(cases("index", ".json").size(), 30U);
}

}  // namespace
}  // namespace weightfs
