// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "cli/json.h"
#include "cli/run.h"
#include "support/made_run.h"

namespace weightfs::cli::test {

using namespace weightfs::test;  // for whoever says test:: in weightfs::cli
using weightfs::test::MadeRun;
using weightfs::test::MadeTensor;
using weightfs::test::TrlKind;

struct CliResult {
  int status = 0;
  std::string out;
  std::string err;

  Json json() const { return Json::parse(out, nullptr, false); }
};

/// Runs the program in this process, as a shell would.
inline CliResult run_cli(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "weightfs");
  std::vector<char*> argv;
  for (auto& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  CliResult result;
  result.status = run(static_cast<int>(arguments.size()), argv.data());
  result.out = testing::internal::GetCapturedStdout();
  result.err = testing::internal::GetCapturedStderr();
  return result;
}

/// A base of two shards with tensors of BF16, F32 and U8, one of them empty.
inline std::vector<std::vector<MadeTensor>> small_model() {
  std::mt19937_64 random(11);
  using weightfs::test::random_tensor;
  return {{random_tensor(random, "embed.weight", "BF16", {64, 8}), random_tensor(random, "norm.weight", "F32", {8})},
          {random_tensor(random, "head.weight", "BF16", {8, 64}), random_tensor(random, "scale", "U8", {16}),
           random_tensor(random, "nothing", "F32", {0, 4})}};
}

/// Flips one bit of a file.
inline void flip_bit(const std::string& path, size_t from_end) {
  std::string bytes = weightfs::test::read_whole(path);
  bytes.at(bytes.size() - from_end) = static_cast<char>(bytes.at(bytes.size() - from_end) ^ 1);
  weightfs::test::write_file(path, bytes);
}

inline std::vector<std::string> keys(const Json& object) {
  std::vector<std::string> result;
  for (const auto& item : object.items()) result.push_back(item.key());
  return result;
}

inline const Json& named(const Json& array, const std::string& name) {
  static const Json none;
  for (const auto& object : array) {
    if (object["name"] == name) return object;
  }
  ADD_FAILURE() << "nothing is called " << name;
  return none;
}

}  // namespace weightfs::cli::test
