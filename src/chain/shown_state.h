// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>

#include "common/result.h"

namespace weightfs {

/// What a process showed of a source, for the one that takes its place.  Versions by their identities, the base's
/// among them: those mean the same in all processes.
struct ShownState {
  std::set<uint64_t> accepted;  ///< what is not offered for checking again
  std::set<uint64_t> shown;
  std::set<uint64_t> verified;  ///< every digest was compared before it was shown
  std::set<uint64_t> served;    ///< shown earlier, not listed any more, and perhaps still open
  uint64_t latest = 0;
  uint64_t base = 0;  ///< base_stamp(): identities do not tell one base from another of the same architecture

  bool operator==(const ShownState&) const = default;

  /// A line for each identity, and a digest over all of it.
  std::string to_text() const;
  /// Fails unless `text` is whole and of a version that is known here.
  static Result<ShownState> parse(std::string_view text);
};

}  // namespace weightfs
