// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/bytes.h"
#include "common/result.h"
#include "delta/native_manifest.h"
#include "delta/native_version.h"

namespace weightfs {

inline constexpr uint32_t kLayoutMagic = 0x314C4657;  // "WFL1"
inline constexpr uint64_t kMaxLayoutBytes = 1u << 30;
inline constexpr uint64_t kMaxStoredLayoutBytes = kMaxLayoutBytes + (8u << 20);  // a frame may be a little larger

/// The stored form of a layout, a zstd frame.  docs/FORMAT.md, "Layout".  Fails (native.bad_layout) when it
/// would be larger than a reader accepts.
Result<std::vector<std::byte>> serialise_layout(const NativeLayout& layout);

/// Reads a stored layout.  `parent` is the tree that its parent objects are in; null when there is none, and
/// then no object may have a parent.  Whatever is wrong with the frame or in it is native.bad_layout.  Memory
/// grows with what the frame really holds, not with what it claims.
Result<NativeLayout> parse_layout(std::vector<std::byte> frame, const std::string& name, const TreeLayout* parent);

/// The files of a tree are exactly those of the manifest, in paths and sizes; else native.bad_layout.
Status check_result_files(const NativeManifest& manifest, const TreeLayout& tree);

}  // namespace weightfs
