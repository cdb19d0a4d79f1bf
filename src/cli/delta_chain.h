// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cli/workers.h"
#include "engine/engine.h"

namespace weightfs::cli {

/// The same tensors at the same places in the same shards; else an error about the first that differs:
/// delta.missing_tensor, delta.unexpected_tensor, delta.dtype_mismatch or delta.shape_mismatch.
Status same_tensors(const ModelFolder& first, const ModelFolder& other);

/// Versions that build on each other, to be written again as deltas: place 0 is where the chain starts (the
/// base, or --from), the last place is the version that was asked for.  All have the tensors of the first.
/// Thread-safe.
class DeltaChain {
 public:
  /// The way to version `ordinal`.  `from` empty: from the base.  version.not_found when the way does not pass
  /// through `from`; the errors of same_tensors() when a version on it has other tensors than the first.
  static Result<DeltaChain> find(std::shared_ptr<Engine> engine, size_t ordinal, const std::string& from);

  size_t places() const { return ordinals_.size(); }
  const Version& version(size_t place) const { return snapshot().admitted(ordinals_[place]); }
  /// Files and tensors of the first place.
  const ModelFolder& model() const { return snapshot().folder(ordinals_.front()); }
  const TensorInfo& tensor(size_t tensor) const { return model().tensors()[tensor].info; }

  /// Tensors in which place (>= 1) may differ from the place before, ascending.
  std::vector<size_t> touched(size_t place) const;
  /// Bytes of those tensors in all places: what has to be composed.
  uint64_t touched_bytes() const;
  uint64_t tensor_bytes() const;
  /// Bytes of a tensor at a place.
  Status read(size_t place, size_t tensor, uint64_t offset, MutableBytes out) const;

  /// What differs along the chain beside tensors, which deltas in `format` do not hold: one text a version.
  Result<std::vector<std::string>> other_differences(std::string_view format) const;

  /// Calls body(offset, old bytes, new bytes) -> Status along a tensor at the place before and at `place`.  The
  /// bytes are the caller's to change until the next call.
  using PairBody = std::function<Status(uint64_t offset, MutableBytes before, MutableBytes after)>;
  struct PairBuffers {
    std::vector<std::byte> before;
    std::vector<std::byte> after;
  };
  Status read_pair(size_t place, size_t tensor, PairBuffers& buffers, const PairBody& body) const;

 private:
  explicit DeltaChain(std::shared_ptr<Engine> engine) : engine_(std::move(engine)) {}

  const Snapshot& snapshot() const { return engine_->snapshot(); }
  Status check_tensors();
  Result<bool> same_bytes(size_t place, size_t entry_before, size_t entry_after, uint64_t size) const;
  Result<std::vector<std::string>> differing_files(size_t place) const;

  std::shared_ptr<Engine> engine_;
  std::vector<size_t> ordinals_;
  std::vector<std::vector<size_t>> shard_entries_;  // by place and shard: the file's entry
};

struct ChainHooks {
  std::function<void(uint64_t bytes)> composed;  ///< bytes of new tensors; called from several threads
  std::function<bool()> stopped;                 ///< true: give up and clean up
};

/// Writes the deltas of a chain as the new folder `directory`: complete and on disk, or not there at all.
/// weight_v: weight_v000001 ... (xor, zstd, xxh3-128), one a place after the first.
Status export_weight_v(const DeltaChain& chain, const std::string& directory, const ChainHooks& hooks);
/// TRL, generation T2, gap_delta: the whole first place as anchors/step_000001, then deltas/step_000002 ...; a
/// place that changes nothing has no file and leaves its number out.
Status export_trl(const DeltaChain& chain, const std::string& directory, const ChainHooks& hooks);

/// produce(item, i) on several threads, then consume(item, i) for one i after the other, in order.  At most
/// `threads` items exist; each is reused.  The first failure ends it.
template <class Item, class Produce, class Consume>
Status run_ordered(uint64_t count, unsigned threads, const Produce& produce, const Consume& consume) {
  std::mutex mutex;
  std::condition_variable turned;
  uint64_t turn = 0;
  bool failed = false;
  return run_workers<Item>(count, threads, [&](Item& item, uint64_t i) {
    Status status = produce(item, i);
    std::unique_lock lock(mutex);
    if (status) turned.wait(lock, [&] { return turn == i || failed; });
    if (status && !failed) status = consume(item, i);
    failed = failed || !status;
    turn = std::max(turn, i + 1);
    turned.notify_all();
    return status;
  });
}

}  // namespace weightfs::cli
