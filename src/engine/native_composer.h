// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "chain/snapshot.h"
#include "common/bytes.h"
#include "common/result.h"
#include "engine/counters.h"
#include "engine/folded_units.h"
#include "engine/native_trails.h"

namespace weightfs {

/// Composes units of objects of native versions: the base's bytes, or blocks that need no parent, with every
/// later block decoded on top of them, oldest first.  Thread-safe.
class NativeComposer {
 public:
  NativeComposer(const Snapshot& snapshot, NativeTrails& trails, Counters& counters, bool verify)
      : snapshot_(snapshot), trails_(trails), folded_(trails), counters_(counters), verify_(verify) {}

  /// The newest step that touches a unit; null when none does.
  Result<const NativeTrail::Step*> newest(const NativeTrail& trail, uint64_t unit);

  /// Fills `out` (the unit's size) and checks the digest of every block of which something is seen in it.
  /// native.block_digest names the oldest block that is not what was committed.  After a failure the trail's folds are
  /// rejected.
  Status compose(const NativeTrail& trail, uint64_t unit, MutableBytes out);

  /// The same where `out` holds what lies below all of `trail`'s steps already.  After a failure it holds nothing
  /// of use.
  Status advance(const NativeTrail& trail, uint64_t unit, MutableBytes out);

  /// Bytes of an object of the base's files.
  Status read_base(size_t object, uint64_t offset, MutableBytes out);

 private:
  /// A block that takes part in a unit.
  struct Piece {
    const NativeTrail::Step* step;
    std::shared_ptr<const BlockTable> table;
    const CodedBlock* block;
    bool seen;  // no newer block covers all of it
  };
  struct Plan {
    std::vector<Piece> pieces;  // newest first
    uint32_t from_base = 0;     // bit i: the i-th smallest block of the unit starts from the base's bytes
  };

  Status compose_by_steps(const NativeTrail& trail, uint64_t unit, MutableBytes out);
  Status compose_on(const FoldedUnits::Found& folded, const NativeTrail& trail, uint64_t unit, MutableBytes out);
  Status compose_above(const NativeTrail& trail, uint64_t unit, MutableBytes out);
  Status keep_folded(const NativeTrail& trail, uint64_t unit, const Plan& plan, Bytes composed);
  Result<Plan> plan(const NativeTrail& trail, uint64_t unit);
  Status compose(const NativeTrail& trail, uint64_t unit, const Plan& plan, bool check_all, MutableBytes out);
  Status fill_from_base(const NativeTrail& trail, uint64_t unit, uint32_t blocks, MutableBytes out);
  Status apply(const NativeTrail& trail, uint64_t unit, const Piece& piece, bool check, MutableBytes out);
  std::string describe(const Piece& piece) const;

  const Snapshot& snapshot_;
  NativeTrails& trails_;
  FoldedUnits folded_;
  Counters& counters_;
  const bool verify_;
};

}  // namespace weightfs
