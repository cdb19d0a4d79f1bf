// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "support/formats.h"
#include "support/made_run.h"
#include "unit/support/temp_folder.h"

namespace weightfs::test {

/// File contents by path: what a version must show.
using Contents = std::map<std::string, std::string>;

/// A checkpoint in memory, written with the writers of tests/support.
struct Checkpoint {
  std::map<std::string, std::vector<MadeTensor>> shards;  // by path
  std::map<std::string, std::string> files;               // everything else
  std::set<std::string> empty_folders;

  Contents contents() const {
    Contents all = files;
    for (const auto& [path, tensors] : shards) all[path] = safetensors_file(tensors);
    return all;
  }
  void write(const std::string& folder) const {
    std::filesystem::create_directories(folder);
    for (const auto& [path, bytes] : contents()) test::write_file(folder + "/" + path, bytes);
    for (const auto& path : empty_folders) std::filesystem::create_directories(folder + "/" + path);
  }
};

/// All files below a folder, symlinks followed.
inline Contents folder_contents(const std::string& folder) {
  namespace fs = std::filesystem;
  Contents found;
  for (const auto& entry : fs::recursive_directory_iterator(folder, fs::directory_options::follow_directory_symlink)) {
    if (entry.is_regular_file()) found[fs::relative(entry.path(), folder).string()] = read_whole(entry.path());
  }
  return found;
}

/// Random numbers that tests need all the time.
class Dice {
 public:
  explicit Dice(uint64_t seed) : random_(seed) {}

  uint64_t below(uint64_t limit) { return limit == 0 ? 0 : random_() % limit; }
  bool chance(double share) { return std::uniform_real_distribution<>(0, 1)(random_) < share; }
  std::string bytes(size_t count) { return random_bytes(random_, count); }
  std::mt19937_64& engine() { return random_; }

  template <class List>
  const auto& pick(const List& list) {
    return *std::next(std::begin(list), static_cast<std::ptrdiff_t>(below(std::size(list))));
  }

 private:
  std::mt19937_64 random_;
};

/// Numbers as weights have them: exponents near each other, mantissas random.
inline std::string weight_bytes(Dice& dice, std::string_view dtype, size_t count) {
  std::string bytes;
  std::normal_distribution<float> normal(0.0F, 0.02F);
  for (size_t i = 0; i < count; ++i) {
    const float value = normal(dice.engine());
    uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    if (dtype == "BF16") {
      put(bytes, static_cast<uint16_t>(bits >> 16));
    } else if (dtype == "F32") {
      put(bytes, bits);
    } else {
      bytes += dice.bytes(dtype_width(dtype));
    }
  }
  return bytes;
}

inline MadeTensor weight_tensor(Dice& dice, const std::string& name, const std::string& dtype, size_t count) {
  MadeTensor tensor{name, dtype, {count}, weight_bytes(dice, dtype, count)};
  if (count % 4 == 0 && dice.chance(0.5)) tensor.shape = {count / 4, 4};
  return tensor;
}

/// Small steps up and down in a share of the elements: what training does.
inline void train(Dice& dice, MadeTensor& tensor, double share) {
  const size_t width = dtype_width(tensor.dtype);
  for (size_t at = 0; at + width <= tensor.bytes.size(); at += width) {
    if (!dice.chance(share)) continue;
    const int step = dice.chance(0.9) ? 1 : static_cast<int>(dice.below(200)) + 1;
    const int sign = dice.chance(0.5) ? 1 : -1;
    uint64_t value = 0;
    std::memcpy(&value, tensor.bytes.data() + at, width);
    value = static_cast<uint64_t>(static_cast<int64_t>(value) + sign * step);
    std::memcpy(tensor.bytes.data() + at, &value, width);
  }
}

inline const std::vector<std::string>& some_dtypes() {
  static const std::vector<std::string> kDtypes = {"BF16", "BF16", "BF16", "F16", "F32", "F64",     "I8",
                                                   "U8",   "BOOL", "I64",  "I16", "U32", "F8_E4M3", "F8_E5M2"};
  return kDtypes;
}

inline size_t some_count(Dice& dice) {
  if (dice.chance(0.1)) return 0;
  if (dice.chance(0.5)) return dice.below(64) + 1;
  return dice.below(dice.chance(0.1) ? 300'000 : 9000) + 1;
}

inline Checkpoint random_checkpoint(Dice& dice) {
  Checkpoint made;
  const size_t shards = dice.below(3) + (dice.chance(0.9) ? 1 : 0);
  for (size_t shard = 0; shard < shards; ++shard) {
    const std::string path = (dice.chance(0.2) ? "sub/part-" : "model-") + std::to_string(shard) + ".safetensors";
    auto& tensors = made.shards[path];
    const size_t count = dice.below(6);
    for (size_t i = 0; i < count; ++i) {
      const std::string name = "layer." + std::to_string(shard) + "." + std::to_string(i);
      tensors.push_back(weight_tensor(dice, name, dice.pick(some_dtypes()), some_count(dice)));
      if (dice.chance(0.1)) tensors.back() = {name, "F32", {}, dice.bytes(4)};  // 0-d
    }
  }
  made.files["config.json"] = "{\"a\": " + std::to_string(dice.below(100)) + "}";
  if (dice.chance(0.3)) made.files["empty"] = "";
  if (dice.chance(0.3)) made.files["tokenizer/merges.txt"] = dice.bytes(dice.below(100'000));
  if (dice.chance(0.2)) made.files["broken.safetensors"] = dice.bytes(dice.below(40));
  if (dice.chance(0.2)) made.empty_folders.insert("nothing");
  return made;
}

/// What one training step, a careless script, or both may do to a checkpoint.
inline Checkpoint changed_checkpoint(Dice& dice, const Checkpoint& before) {
  Checkpoint after = before;
  const double share = dice.pick(std::vector<double>{0, 0.0005, 0.005, 0.03, 0.3, 1});
  for (auto& [path, tensors] : after.shards) {
    for (auto& tensor : tensors) {
      if (dice.chance(0.7)) train(dice, tensor, share);
      if (dice.chance(0.05)) tensor.name += ".renamed";
      if (dice.chance(0.05)) tensor.shape = {1, tensor.bytes.size() / dtype_width(tensor.dtype)};
      if (dice.chance(0.05)) tensor = weight_tensor(dice, tensor.name, "BF16", some_count(dice));
    }
    if (!tensors.empty() && dice.chance(0.1)) tensors.pop_back();
    if (dice.chance(0.1)) tensors.push_back(weight_tensor(dice, "new", "BF16", some_count(dice)));
    if (dice.chance(0.1)) std::reverse(tensors.begin(), tensors.end());
  }
  if (after.shards.size() > 1 && dice.chance(0.2)) {  // all into the first file
    auto& first = after.shards.begin()->second;
    for (auto at = std::next(after.shards.begin()); at != after.shards.end(); ++at) {
      for (auto& tensor : at->second) {
        tensor.name = at->first + tensor.name;
        first.push_back(tensor);
      }
    }
    after.shards.erase(std::next(after.shards.begin()), after.shards.end());
  }
  if (dice.chance(0.3)) after.files["config.json"] += " ";
  if (!after.files.empty() && dice.chance(0.2)) after.files.erase(after.files.begin());
  if (dice.chance(0.2)) after.files["notes/new.txt"] = dice.bytes(dice.below(300));
  if (dice.chance(0.1)) after.empty_folders = {"other/empty"};
  return after;
}

}  // namespace weightfs::test
