// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "support/formats.h"

namespace weightfs::test {

/// A base and versions on disk together with the bytes that a reader must see, composed here in plain
/// loops over whole tensors.
class MadeRun {
 public:
  /// The tensors of the base, shard by shard; writes `folder`/base.
  MadeRun(std::string folder, std::vector<std::vector<MadeTensor>> shards, std::string_view config = "{}");

  const std::string& folder() const { return folder_; }
  /// Names of the versions with expected bytes; the first is "base".
  const std::vector<std::string>& names() const { return names_; }
  size_t shard_count() const { return shards_.size(); }
  std::string shard_name(size_t shard) const;
  /// The whole shard file as version `name` shows it.
  std::string expected_file(const std::string& name, size_t shard) const;
  const std::string& expected_tensor(const std::string& name, const std::string& tensor) const;
  const std::string& newest(const std::string& tensor) const;

  /// Publish a version; each takes new bytes of the tensors that change.
  using NewBytes = std::map<std::string, std::string>;
  void publish_weight_v(const NewBytes& changes, const std::string& encoding = "xor",
                        const std::string& checksum = "xxh3-128", size_t shards = 1);
  void publish_full(const NewBytes& changes);
  void publish_trl_delta(TrlKind kind, const NewBytes& changes);
  void publish_trl_anchor(TrlKind kind, const NewBytes& tensors);
  void skip_number() { ++number_; }

  /// New bytes for some tensors: in each about `share` of the elements differ.
  NewBytes random_changes(std::mt19937_64& random, double share, double tensor_share = 0.7) const;

 private:
  const MadeTensor& made(const std::string& tensor) const;
  void remember(const std::string& name, const NewBytes& changes);

  std::string folder_;
  std::vector<std::vector<MadeTensor>> shards_;
  std::vector<std::string> names_{"base"};
  std::map<std::string, std::map<std::string, std::string>> states_;  // version -> tensor -> bytes
  uint64_t number_ = 0;
};

std::string random_bytes(std::mt19937_64& random, size_t count);
MadeTensor random_tensor(std::mt19937_64& random, std::string name, std::string dtype, std::vector<uint64_t> shape);

}  // namespace weightfs::test
