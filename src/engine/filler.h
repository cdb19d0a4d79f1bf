// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "chain/snapshot.h"
#include "common/bytes.h"
#include "common/result.h"
#include "engine/composer.h"
#include "engine/counters.h"
#include "engine/digest_check.h"
#include "engine/native_composer.h"
#include "engine/native_trails.h"

namespace weightfs {

/// A file of a version.
struct VersionFile {
  size_t ordinal = 0;
  size_t entry = 0;  ///< index into folder(ordinal).entries()

  bool operator==(const VersionFile&) const = default;
};

/// A part of a file that one thread decodes in one go; it holds whole units of decoding.
struct FilePiece {
  static constexpr uint64_t kMaxBytes = 1u << 20;
  static constexpr size_t kPlain = static_cast<size_t>(-1);

  size_t object = kPlain;      ///< tensor of the base, or object of the native version; kPlain: a header
  uint64_t object_offset = 0;  ///< in it
  uint64_t offset = 0;         ///< in the file
  uint64_t size = 0;
};

/// Decodes whole files straight into memory, past the cache of blocks.  Thread-safe.
///
/// Memory that holds the same file of an earlier version takes less: only the deltas in between are applied to it.
class Filler {
 public:
  /// Reads bytes of a file in the ordinary way.
  using ReadPlain = std::function<Status(const VersionFile&, uint64_t offset, MutableBytes out)>;

  Filler(const Snapshot& snapshot, Composer& composer, NativeTrails& trails, NativeComposer& native, Counters& counters,
         bool verify, ReadPlain read_plain)
      : snapshot_(snapshot),
        composer_(composer),
        trails_(trails),
        native_(native),
        counters_(counters),
        verify_(verify),
        read_plain_(std::move(read_plain)) {}

  /// True when the file's bytes have to be decoded: others lie on disk as they are.
  bool decodes(const VersionFile& file) const;
  /// The files of a version that have to be decoded, and their bytes together.
  std::vector<VersionFile> files(size_t ordinal) const;
  uint64_t total_bytes(size_t ordinal) const;
  uint64_t size_of(const VersionFile& file) const;
  const std::string& name(size_t ordinal) const { return snapshot_.admitted(ordinal).name; }
  const Snapshot& snapshot() const { return snapshot_; }
  /// True when digests are compared, where there are any.
  bool verifies() const { return verify_; }
  /// False for versions that only an earlier or later snapshot of the source has: nothing is known about them here.
  bool knows(const VersionFile& file) const { return snapshot_.has(file.ordinal); }

  /// The file's pieces by rising offset, without holes; those of one object follow each other.
  std::vector<FilePiece> pieces(const VersionFile& file) const;
  /// True when both files are cut into the same pieces, so that memory which holds one can be made to hold the other;
  /// false for versions that are not known.
  bool alike(const VersionFile& a, const VersionFile& b) const;

  /// The frames that filling `object` takes when it holds `below` (nothing: the base).
  Result<std::vector<PatchFrame>> frames(const VersionFile& file, size_t object,
                                         const std::optional<VersionFile>& below) const;
  /// Decodes one of them (Composer::decode).
  Status decode(FrameFlow& flow, size_t frame, const Composer::Ready& ready) const {
    return composer_.decode(flow, frame, ready);
  }

  /// Makes `out` hold a piece of `file`.  `held`: the earlier version of an alike() file whose bytes are there now;
  /// `flow` (or null): of what is on the way to the object.  After a failure it holds nothing of use.
  Status fill(const VersionFile& file, const FilePiece& piece, const std::optional<VersionFile>& held,
              const FrameFlow* flow, MutableBytes out) const;
  /// Checks an object's published digest, when it has one that filling its pieces does not check.
  Result<std::optional<DigestCheck>> digest_check(const VersionFile& file, size_t object) const;
  /// After all bytes.
  Status finish(DigestCheck& check, const VersionFile& file, size_t object) const;
  /// True when digest_check() looks at the same digest of the same bytes for both versions.
  Result<bool> same_check(size_t a, size_t b, size_t object) const;

 private:
  Status fill_tensor(const VersionFile& file, const FilePiece& piece, const std::optional<VersionFile>& held,
                     const FrameFlow* flow, MutableBytes out) const;
  Status fill_object(const VersionFile& file, const FilePiece& piece, const std::optional<VersionFile>& held,
                     MutableBytes out) const;
  Status fill_by_trail(const VersionFile& file, const FilePiece& piece, const std::optional<VersionFile>& held,
                       MutableBytes out) const;
  Result<std::shared_ptr<const NativeTrail>> trail_from(const VersionFile& file, size_t object,
                                                        const VersionFile& held) const;
  const TreeFile* tree_file(const VersionFile& file) const;

  const Snapshot& snapshot_;
  Composer& composer_;
  NativeTrails& trails_;
  NativeComposer& native_;
  Counters& counters_;
  const bool verify_;
  const ReadPlain read_plain_;
};

}  // namespace weightfs
