// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "chain/snapshot.h"
#include "support/made_run.h"
#include "support/made_store.h"
#include "unit/support/error_codes.h"
#include "unit/support/temp_folder.h"

namespace weightfs::test {

inline FakeObjects small_objects() {
  std::mt19937_64 random(1);
  return {{"config.json", "", "{\"layers\": 1}"},
          {"model.safetensors", "a", random_bytes(random, 2000), NativeLayout::kNoParent, "BF16"},
          {"model.safetensors", "b", random_bytes(random, 300)},
          {"tokenizer/words.txt", "", "some words"}};
}

class NativeStoreTest : public ::testing::Test {
 protected:
  explicit NativeStoreTest(bool by_reference = true) : store_(folder_.path(), small_objects(), by_reference) {}

  /// A version in which one byte differs from its parent.
  void step(const std::string& name, const std::string& parent, size_t byte = 0) {
    FakeObjects objects = store_.next(parent);
    objects[1].bytes[byte] ^= 1;
    store_.add(name, parent, std::move(objects));
  }
  std::shared_ptr<const Snapshot> open(const std::string& base = {}) {
    auto opened = open_source(files_, {store_.path(), base, true});
    if (opened) return *opened;
    ADD_FAILURE() << opened.error().text();
    return nullptr;
  }
  ErrorCode open_code(const std::string& base = {}) {
    const auto opened = open_source(files_, {store_.path(), base, true});
    return opened ? kFine : opened.error().code;
  }
  static std::vector<std::string> admitted(const Snapshot& snapshot) {
    std::vector<std::string> names;
    for (size_t i = 0; i < snapshot.admitted_count(); ++i) names.push_back(snapshot.admitted(i).name);
    return names;
  }
  static ErrorCode code_of(const Snapshot& snapshot, const std::string& name) {
    const Version* version = snapshot.find(name);
    if (version == nullptr) return ErrorCode::kVersionNotFound;
    return version->error ? version->error->code : kFine;
  }
  static void flip(const std::string& path, size_t at) {
    std::string bytes = read_whole(path);
    bytes.at(at) ^= 1;
    write_file(path, bytes);
  }

  TempFolder folder_;
  Files files_;
  MadeStore store_;
};

}  // namespace weightfs::test
