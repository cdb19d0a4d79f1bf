// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>

#include "common/digest.h"
#include "io/files.h"

namespace weightfs {

/// Folds one number into an identity.
inline uint64_t mix_identity(uint64_t identity, uint64_t value) {
  const std::array<uint64_t, 2> pair{identity, value};
  return xxh3_64(std::as_bytes(std::span(pair)));
}

/// XXH3-64 of a file's path-independent identity: size, modification time and header length.  What
/// distinguishes one published file from another without reading its data.
inline uint64_t file_identity_hash(const FileSource& source, uint64_t data_start) {
  const FileIdentity& id = source.identity();
  return mix_identity(mix_identity(id.size, static_cast<uint64_t>(id.mtime_ns)), data_start);
}

}  // namespace weightfs
