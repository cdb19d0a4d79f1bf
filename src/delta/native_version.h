// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "delta/coded_patch.h"
#include "delta/index_heads.h"
#include "delta/native_manifest.h"
#include "io/files.h"
#include "model/tree_layout.h"

namespace weightfs {

/// A tree and where its objects come from.
struct NativeLayout {
  std::shared_ptr<const TreeLayout> tree;
  /// By object: the parent's object of the same bytes before this delta, or kNoParent.
  std::vector<uint32_t> parents;
  static constexpr uint32_t kNoParent = UINT32_MAX;
};

/// One native version (or net) folder, opened.  Opening reads the manifest and looks at the payload files'
/// sizes, nothing else: the index is searched when something is looked up, and what is kept of it is kept by the
/// caller's IndexHeads.  Thread-safe.
///
/// Every answer about an object checks what it reads: a group of the index against its digest and against the
/// object's size, so that what comes out is in range.  Failures: native.* codes, io.*, source.changed.
class NativeVersion : public std::enable_shared_from_this<NativeVersion> {
 public:
  static Result<std::shared_ptr<const NativeVersion>> open(const Files& files, const std::string& folder);
  virtual ~NativeVersion() = default;

  /// Differs from that of every other opened version of this process.
  uint32_t serial() const { return serial_; }
  virtual const NativeManifest& manifest() const = 0;
  virtual const std::string& folder() const = 0;
  /// Sizes of its files, manifest included.
  virtual uint64_t stored_bytes() const = 0;
  virtual int64_t mtime_ns() const = 0;
  /// The layout that it carries itself; nothing when it has its parent's.  Checked against manifest().files.
  virtual Result<std::optional<NativeLayout>> read_layout(const TreeLayout* parent) const = 0;

  /// Objects that it touches, ascending.  Reads the whole index.
  virtual Result<std::vector<uint32_t>> touched_objects(const TreeLayout& tree) const = 0;
  /// What it does to one object of `tree` (the version's own); null when it does not touch it.  O(log n) in the
  /// size of the index.  `has_parent`: whether the object has one.  A patch keeps none of the version's files open:
  /// only who holds the version may use it.
  virtual Result<std::shared_ptr<const CodedPatch>> find(const TreeLayout& tree, size_t object, bool has_parent,
                                                         IndexHeads& heads) const = 0;
  /// Elements changed and payload bytes of one object; zeros when untouched.
  struct Change {
    uint64_t changed = 0;
    uint64_t payload_bytes = 0;
    uint64_t blocks = 0;
  };
  virtual Result<Change> change(const TreeLayout& tree, size_t object, IndexHeads& heads) const = 0;

 protected:
  NativeVersion();

 private:
  const uint32_t serial_;
};

}  // namespace weightfs
