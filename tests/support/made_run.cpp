// SPDX-License-Identifier: Apache-2.0
// Runs whose right answers are known: every version's tensors are kept whole, in memory.
#include "support/made_run.h"

#include <cstring>
#include <stdexcept>

namespace weightfs::test {

std::string random_bytes(std::mt19937_64& random, size_t count) {
  std::string out(count, '\0');
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const uint64_t word = random();
    std::memcpy(out.data() + i, &word, 8);
  }
  for (; i < count; ++i) out[i] = static_cast<char>(random());
  return out;
}

MadeTensor random_tensor(std::mt19937_64& random, std::string name, std::string dtype, std::vector<uint64_t> shape) {
  size_t count = dtype_width(dtype);
  for (const uint64_t extent : shape) count *= extent;
  return {std::move(name), std::move(dtype), std::move(shape), random_bytes(random, count)};
}

MadeRun::MadeRun(std::string folder, std::vector<std::vector<MadeTensor>> shards, std::string_view config)
    : folder_(std::move(folder)), shards_(std::move(shards)) {
  write_model(folder_ + "/base", shards_, config);
  for (const auto& shard : shards_) {
    for (const MadeTensor& tensor : shard) states_["base"][tensor.name] = tensor.bytes;
  }
}

std::string MadeRun::shard_name(size_t shard) const {
  if (shards_.size() == 1) return "model.safetensors";
  const auto five = [](size_t n) { return six_digits(n).substr(1); };
  return "model-" + five(shard + 1) + "-of-" + five(shards_.size()) + ".safetensors";
}

std::string MadeRun::expected_file(const std::string& name, size_t shard) const {
  std::vector<MadeTensor> tensors = shards_[shard];
  for (MadeTensor& tensor : tensors) tensor.bytes = expected_tensor(name, tensor.name);
  return safetensors_file(tensors, {{"format", "pt"}});
}

const std::string& MadeRun::expected_tensor(const std::string& name, const std::string& tensor) const {
  return states_.at(name).at(tensor);
}

const std::string& MadeRun::newest(const std::string& tensor) const { return expected_tensor(names_.back(), tensor); }

const MadeTensor& MadeRun::made(const std::string& tensor) const {
  for (const auto& shard : shards_) {
    for (const MadeTensor& candidate : shard) {
      if (candidate.name == tensor) return candidate;
    }
  }
  throw std::runtime_error("no tensor " + tensor);
}

void MadeRun::remember(const std::string& name, const NewBytes& changes) {
  auto state = states_.at(names_.back());
  for (const auto& [tensor, bytes] : changes) state.at(tensor) = bytes;
  states_[name] = std::move(state);
  names_.push_back(name);
}

void MadeRun::publish_weight_v(const NewBytes& changes, const std::string& encoding, const std::string& checksum,
                               size_t shards) {
  std::vector<ByteChange> list;
  for (const auto& [tensor, bytes] : changes) list.push_back({tensor, newest(tensor), bytes});
  ++number_;
  write_weight_v(folder_, {number_, number_ - 1, encoding, checksum, shards}, list);
  remember("weight_v" + six_digits(number_), changes);
}

void MadeRun::publish_full(const NewBytes& changes) {
  const std::string name = "weight_v" + six_digits(++number_);
  remember(name, changes);
  auto shards = shards_;
  for (auto& shard : shards) {
    for (MadeTensor& tensor : shard) tensor.bytes = newest(tensor.name);
  }
  write_model(folder_ + "/" + name, shards);
}

void MadeRun::publish_trl_delta(TrlKind kind, const NewBytes& changes) {
  std::vector<ElementChange> list;
  for (const auto& [tensor, bytes] : changes) {
    const MadeTensor& shape = made(tensor);
    const std::string& before = newest(tensor);
    const size_t width = dtype_width(shape.dtype);
    ElementChange change{tensor, shape.dtype, {}, {}};
    for (size_t i = 0; i < bytes.size() / width; ++i) {
      if (bytes.compare(i * width, width, before, i * width, width) == 0) continue;
      change.positions.push_back(i);
      change.values.append(bytes, i * width, width);
    }
    list.push_back(std::move(change));
  }
  ++number_;
  write_file(trl_path(folder_, false, number_), trl_delta(kind, number_, list));
  remember("step_" + six_digits(number_), changes);
}

void MadeRun::publish_trl_anchor(TrlKind kind, const NewBytes& tensors) {
  std::vector<MadeTensor> list;
  for (const auto& [name, bytes] : tensors) {
    MadeTensor tensor = made(name);
    tensor.bytes = bytes;
    list.push_back(std::move(tensor));
  }
  ++number_;
  write_file(trl_path(folder_, true, number_), trl_anchor(kind, number_, list));
  remember("step_" + six_digits(number_), tensors);
}

MadeRun::NewBytes MadeRun::random_changes(std::mt19937_64& random, double share, double tensor_share) const {
  NewBytes changes;
  std::uniform_real_distribution<double> chance(0, 1);
  for (const auto& shard : shards_) {
    for (const MadeTensor& tensor : shard) {
      if (tensor.bytes.empty() || chance(random) >= tensor_share) continue;
      std::string bytes = newest(tensor.name);
      const size_t width = dtype_width(tensor.dtype);
      const size_t elements = bytes.size() / width;
      const size_t changed = std::max<size_t>(1, static_cast<size_t>(share * static_cast<double>(elements)));
      for (size_t i = 0; i < changed; ++i) bytes[random() % elements * width] ^= static_cast<char>(1 + random() % 255);
      changes[tensor.name] = std::move(bytes);
    }
  }
  return changes;
}

}  // namespace weightfs::test
