// SPDX-License-Identifier: Apache-2.0
// A ByteSource over bytes in memory.  It keeps the promise that every source makes: the whole range
// or an error, never a short read.
#include "io/byte_source.h"

#include <fmt/core.h>

#include <algorithm>

#include "common/text.h"

namespace weightfs {

Status MemorySource::read_at(uint64_t offset, MutableBytes out) const {
  if (offset > bytes_.size() || out.size() > bytes_.size() - offset) {
    return Error{ErrorCode::kIoTruncated, fmt::format("{}: {} bytes at offset {} are beyond its end at {}",
                                                      quote(name_), out.size(), offset, bytes_.size())};
  }
  std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(offset), out.size(), out.begin());
  return {};
}

}  // namespace weightfs
