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

/// Versions that build on each other, to be written again as deltas: place 0 is where the chain starts (the
/// base, or --from), the last place is the version that was asked for.  All of them have the tensors of the
/// base.  Thread-safe.
class DeltaChain {
 public:
  /// The way to version `ordinal`.  `from` empty: from the base.  version.not_found when the way does not pass
  /// through `from`; delta.shape_mismatch, delta.missing_tensor or delta.unexpected_tensor when a version on
  /// it has other tensors than the first.
  static Result<DeltaChain> find(std::shared_ptr<Engine> engine, size_t ordinal, const std::string& from);

  size_t places() const { return ordinals_.size(); }
  const Version& version(size_t place) const { return engine_->snapshot().admitted(ordinals_[place]); }
  const ModelFolder& base() const { return engine_->snapshot().base(); }
  const TensorInfo& tensor(size_t tensor) const { return base().tensors()[tensor].info; }

  /// Tensors in which place (>= 1) may differ from the place before, ascending.
  std::vector<size_t> touched(size_t place) const;
  /// Bytes of those tensors in all places: what has to be composed.
  uint64_t touched_bytes() const;
  uint64_t tensor_bytes() const;
  /// Bytes of a tensor at a place.
  Status read(size_t place, size_t tensor, uint64_t offset, MutableBytes out) const;

  /// Calls body(offset, old bytes, new bytes) -> Status along a tensor at the place before and at `place`.  The
  /// bytes are the caller's to change until the next call.
  using PairBody = std::function<Status(uint64_t offset, MutableBytes before, MutableBytes after)>;
  struct PairBuffers {
    std::vector<std::byte> before;
    std::vector<std::byte> after;
  };
  Status read_pair(size_t place, size_t tensor, PairBuffers& buffers, const PairBody& body) const;

 private:
  explicit DeltaChain(std::shared_ptr<Engine> engine);

  std::shared_ptr<Engine> engine_;
  std::vector<size_t> ordinals_;
  std::vector<size_t> entry_of_shard_;
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
