// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cli/checkpoint.h"
#include "codec/compare.h"

namespace weightfs::cli {

/// What became of one tensor.
struct TensorDiff {
  enum class Kind { kSame, kChanged, kReshaped, kAdded, kRemoved, kRenamed };
  static constexpr size_t npos = static_cast<size_t>(-1);

  Kind kind = Kind::kSame;
  size_t before = npos;  ///< index into the old checkpoint's tensors; npos for an added one
  size_t after = npos;   ///< the same in the new one; npos for a removed one
  bool moved = false;    ///< it is in another file now
  /// Where elements stand in pairs: the same dtype and as many of them.
  std::optional<codec::ElementChanges> changes;
};

/// A file that only one checkpoint has, or whose bytes differ; of safetensors files only the headers count,
/// since their tensors are compared by themselves.
struct FileDiff {
  enum class Kind { kAdded, kRemoved, kChanged };

  Kind kind = Kind::kChanged;
  std::string path;
  size_t before = TensorDiff::npos;  ///< index into the old checkpoint's files
  size_t after = TensorDiff::npos;
};

struct CheckpointDiff {
  std::vector<TensorDiff> tensors;  ///< in the order of the new checkpoint, removed ones last
  std::vector<FileDiff> files;      ///< by path

  /// The two checkpoints hold the same files with the same bytes.
  bool equal() const;
};

struct DiffHooks {
  std::function<void(uint64_t bytes)> compared;  ///< bytes of one side; called from several threads
  std::function<bool()> stopped;                 ///< true: give up
};

/// Compares two checkpoints, which must outlive it.  Tensors are the same when they have one name, first
/// within one file, then anywhere; what is left over is renamed when its dtype, shape and bytes agree.
///
/// Memory: 2 MiB a thread and what is found.  Failure: the first read that fails.
class CheckpointComparison {
 public:
  CheckpointComparison(const Checkpoint& before, const Checkpoint& after);

  /// What run() will report through DiffHooks::compared.
  uint64_t bytes_to_compare() const;
  /// Call once.
  Result<CheckpointDiff> run(unsigned threads, const DiffHooks& hooks);

 private:
  struct Piece {
    size_t diff;
    uint64_t offset;
    uint64_t size;
  };
  /// Left over on one side, with partners of the same dtype and shape on the other.
  struct Candidate {
    size_t tensor;
    bool in_after;
    std::string digest;
  };
  struct Buffers;

  void match_places();
  void match_names();
  void find_candidates();
  void compare_file_lists();
  bool comparable(const TensorDiff& diff) const;
  uint64_t shared_bytes(const FileDiff& diff) const;

  Status compare_tensors(unsigned threads, const DiffHooks& hooks);
  Status compare_piece(Buffers& buffers, const Piece& piece, const DiffHooks& hooks,
                       codec::ElementChanges& found) const;
  Status compare_files(unsigned threads, const DiffHooks& hooks);
  Result<bool> file_differs(Buffers& buffers, const FileDiff& diff, const DiffHooks& hooks) const;
  Status pair_renamed(unsigned threads, const DiffHooks& hooks);
  Status digest(Buffers& buffers, Candidate& candidate, const DiffHooks& hooks) const;
  void finish_kinds();

  const Checkpoint& before_;
  const Checkpoint& after_;
  std::vector<size_t> partner_before_;  // by old tensor: the new one, or npos
  std::vector<size_t> partner_after_;   // by new tensor: the old one, or npos
  std::vector<Candidate> candidates_;
  std::vector<FileDiff> suspects_;  // files on both sides that are yet to be compared
  CheckpointDiff result_;
};

/// How codec::compare_elements() must see a dtype.  Types below 8 bits are compared byte by byte.
codec::ElementFormat element_format(Dtype dtype);

}  // namespace weightfs::cli
