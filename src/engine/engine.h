// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "chain/snapshot.h"
#include "common/bytes.h"
#include "common/keeper.h"
#include "common/result.h"
#include "engine/folds.h"

namespace weightfs {

/// The unit of decoding, verification and caching: 256 KiB of one tensor, from its first byte.
inline constexpr uint64_t kBlockBytes = 256u << 10;

struct EngineOptions {
  uint64_t memory_bytes = 1u << 30;  ///< budget for decoded blocks, patches, indices, reads in flight and warm versions
  unsigned threads = 0;              ///< decoding threads; 0 = all processors
  bool verify = true;                ///< check published digests when a tensor is first touched
  uint64_t reply_bytes = 0;          ///< of memory_bytes: the caller's reply buffers; at most a quarter counts
  std::shared_ptr<Keeper> keeper = nullptr;  ///< is told of warm versions that another process may adopt; null: of none
  int tmpfs = -1;  ///< root folder of the tmpfs that they shall lie in; stays the caller's; -1: the engine makes one
};

/// A consistent-enough copy of the engine's counters.
struct EngineStatus {
  uint64_t reads = 0;  ///< read() calls
  uint64_t bytes_served = 0;
  uint64_t bytes_from_base = 0;  ///< served from the base file without decoding
  uint64_t bytes_from_warm = 0;  ///< served by a copy out of a warm version
  uint64_t blocks_decoded = 0;
  uint64_t block_hits = 0;
  uint64_t segments_decoded = 0;
  uint64_t segment_hits = 0;
  uint64_t tensors_verified = 0;
  uint64_t digest_failures = 0;
  uint64_t block_failures = 0;
  uint64_t read_errors = 0;
  /// Reads that were answered, and their bytes, by where these came from; together they are bytes_served.
  struct Way {
    uint64_t reads = 0;
    uint64_t bytes = 0;
  };
  Way plain;                 ///< copied from files as they lie there
  Way warm;                  ///< copied out of a warm version
  Way composed;              ///< decoded, or found in the cache of what was; reads: of which some bytes were
  uint64_t memory_used = 0;  ///< cached blocks, patches and indices, in bytes
  uint64_t memory_budget = 0;
  uint64_t memory_blocks = 0;  ///< part of memory_used
  uint64_t memory_patches = 0;
  uint64_t memory_indices = 0;    ///< of native deltas: what they touch, and heads of their indices
  uint64_t memory_in_flight = 0;  ///< beside memory_used: replies, and what is being decoded
  uint64_t memory_warm = 0;       ///< beside memory_used: versions that are decoded into memory
  uint64_t evictions = 0;
  std::string warm_pages;  ///< "huge" or "4K": what warmed versions lie in
  unsigned threads = 0;
};

/// How far a version is decoded into memory.
enum class WarmState : uint8_t { kCold, kQueued, kWaiting, kFilling, kWarm, kCancelled, kFailed };

/// "cold", "queued", ...
std::string_view warm_state_name(WarmState state);

struct WarmStatus {
  WarmState state = WarmState::kCold;  ///< kWaiting: for memory that others use
  uint64_t bytes = 0;                  ///< decoded already
  uint64_t total = 0;                  ///< of the version's files, those that lie on disk as they are left out
  double seconds = 0;                  ///< that the last run took, once it has ended
  std::optional<Error> error;          ///< of kFailed
};

/// Outcome of checking one changed tensor of one version.
struct TensorCheck {
  uint64_t bytes = 0;             ///< decoded
  uint64_t changed_elements = 0;  ///< that the delta itself names
  bool digest_checked = false;    ///< false: the format carries none, or checking is off
};

/// Turns (version, file, range) into bytes.  Thread-safe; one per snapshot.
///
/// Ownership: shares the snapshot.  Failure: an Error whose errno the reader gets; never fewer bytes.
class Engine {
 public:
  Engine(std::shared_ptr<const Snapshot> snapshot, const EngineOptions& options);
  /// For a later snapshot of the same source, in which versions have the same ordinals: shares memory, budget, threads,
  /// counters and warm versions with `other`.  Cheap.
  Engine(std::shared_ptr<const Snapshot> snapshot, const Engine& other);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const Snapshot& snapshot() const;

  /// Fills `out` with the bytes from `offset` on of file `entry` (index into the version's folder().entries()) in
  /// version `ordinal`.  The range lies inside the file.
  Status read(size_t ordinal, size_t entry, uint64_t offset, MutableBytes out);

  /// Decodes everything that version `ordinal` changes in `tensor` (which it does change), checks the
  /// delta's structure and the published digest.
  Result<TensorCheck> check_tensor(size_t ordinal, size_t tensor);

  /// Native versions: decodes every block of `object` that the delta `link` (index into the state's links)
  /// touches, whatever way reads would take, and checks its digest.  Zeros when it touches none.
  Result<TensorCheck> check_object(size_t ordinal, size_t link, size_t object);

  /// Decodes all that a version changes against the one it builds on and checks every digest that was published.
  /// `cancelled` is asked between pieces of work; what is returned then says nothing about the version.
  Status check_version(
      size_t ordinal, const std::function<bool()>& cancelled = [] { return false; });

  /// Decodes a version into memory; see Warmer.
  Status warm(size_t ordinal);
  /// Returns when the version is warm, or will not be, or the time is over.
  WarmStatus wait_until_warm(size_t ordinal, std::chrono::milliseconds limit);
  /// The same where a file is being read already: of its version what comes after it first, and only what there is
  /// memory for right now; false when nothing will come of it.
  bool warm_from(size_t ordinal, size_t entry);
  /// The same where it is about to be read: the file itself first, and returns when it is warm, or will not be, or
  /// `gone`, asked now and then, says that nobody waits for it any more.
  void warm_file(size_t ordinal, size_t entry, const std::function<bool()>& gone);
  void cancel_warming(size_t ordinal);
  void drop_warm(size_t ordinal);
  WarmStatus warm_status(size_t ordinal) const;
  /// The memory that holds all of a file of a version, as a file; null while there is none.  The bytes stay as they
  /// are while anybody holds this, or has that file open or mapped.
  LentFile lend_warm(size_t ordinal, size_t entry);
  /// True when lend_warm() would give something; asking for that does not count as a use of it.
  bool is_warm(size_t ordinal, size_t entry) const;

  /// Takes over what the keeper of an ended process was told of warm versions (take_kept() with "warm/"): what is of
  /// this snapshot, unchanged, and fits into the budget, is warm then as if it had been decoded here.  How many files.
  /// The others are forgotten through the keeper, and with that their memory is freed.
  size_t adopt_warm(std::vector<Kept> kept);

  /// Takes `bytes`, but an eighth of the budget at most, out of it for as long as the answer lives: for work beside
  /// reading.  Never waits.
  std::shared_ptr<void> reserve(uint64_t bytes);
  /// What shortens long chains, for all engines that share it.
  Folds& folds() const;

  EngineStatus status() const;

 private:
  struct Shared;
  class Impl;
  std::shared_ptr<Shared> shared_;  // outlives what uses it
  std::shared_ptr<Impl> impl_;
};

}  // namespace weightfs
