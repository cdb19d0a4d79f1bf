// SPDX-License-Identifier: Apache-2.0
//
// A trainer that keeps every step of a model without ever writing a checkpoint:
//
//   cmake -S . -B build && cmake --build build && build/commit_from_memory /tmp/example
//
// makes a small base model and a store in the given (new) folder, commits three training steps straight from
// memory, and reads the last one back.
#include <weightfs/store.h>

#include <cstdint>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <span>
#include <string>
#include <vector>

namespace {

using Weights = std::vector<uint16_t>;  // bf16

constexpr size_t kRows = 256;
constexpr size_t kColumns = 512;

/// A model folder with one tensor, as a trainer would save its start.
void write_base(const std::filesystem::path& folder, const Weights& weights) {
  std::filesystem::create_directories(folder);
  std::string header = R"({"layer.weight":{"dtype":"BF16","shape":[256,512],"data_offsets":[0,262144]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const uint64_t length = header.size();
  std::ofstream file(folder / "model.safetensors", std::ios::binary);
  file.write(reinterpret_cast<const char*>(&length), sizeof length);
  file.write(header.data(), static_cast<std::streamsize>(header.size()));
  file.write(reinterpret_cast<const char*>(weights.data()), static_cast<std::streamsize>(weights.size() * 2));
  std::ofstream(folder / "config.json") << "{}\n";
}

/// Stands for an optimiser: one element in a hundred moves by one step of its precision.
void train(Weights& weights, size_t step) {
  for (size_t i = step; i < weights.size(); i += 100) ++weights[i];
}

bool reads_back(const weightfs::api::Store& store, const Weights& weights) {
  const auto newest = store.version("latest");
  const uint64_t size = newest.files.back().bytes;  // files stand by path: config.json, model.safetensors
  std::vector<std::byte> tail(weights.size() * sizeof(uint16_t));
  store.read("latest", "model.safetensors", size - tail.size(), tail);
  return std::memcmp(tail.data(), weights.data(), tail.size()) == 0;
}

void run(const std::filesystem::path& folder) {
  Weights weights(kRows * kColumns, 0x3c00);
  write_base(folder / "base", weights);
  auto store = weightfs::api::Store::create(folder / "store", folder / "base");
  for (size_t step = 1; step <= 3; ++step) {
    train(weights, step);
    weightfs::api::CommitOptions options;
    options.message = "step " + std::to_string(step);
    auto commit = store.begin(options);
    commit.put_tensor("layer.weight", std::as_bytes(std::span(weights)));
    const auto made = commit.finish();
    std::cout << made.name << ": " << made.changed.value_or(0) << " elements in " << made.stored_bytes << " bytes\n";
  }
  store.refresh();
  if (!reads_back(store, weights)) throw std::runtime_error("the last version does not read back");
  std::cout << store.versions().size() << " versions in " << store.path() << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: commit_from_memory FOLDER\n";
    return 2;
  }
  try {
    run(argv[1]);
  } catch (const weightfs::api::Error& error) {
    std::cerr << error.what() << " [" << error.code() << "]\n";
    return 1;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
