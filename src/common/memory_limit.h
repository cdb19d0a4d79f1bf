// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace weightfs {

/// The smallest memory limit that a control group (v2 or v1, this one or an ancestor) puts on this
/// process; nothing when there is none.  `root` stands for "/" in tests.
std::optional<uint64_t> cgroup_memory_limit(const std::string& root = "");

/// What the system could give without swapping (MemAvailable); nothing where that cannot be found out.
std::optional<uint64_t> available_memory(const std::string& root = "");

/// Resident memory of this process, in bytes; 0 where that cannot be found out.
uint64_t resident_memory();

/// Budget for decoded data when the user names none: 1 GiB, or a quarter of `limit` if that is less.
uint64_t default_memory_budget(std::optional<uint64_t> limit);

}  // namespace weightfs
