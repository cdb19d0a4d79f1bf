// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "common/result.h"
#include "option_text.h"

namespace weightfs::helper {

/// What an option takes.
enum class ValueKind {
  kFlag,        ///< nothing
  kText,        ///< any text, not empty
  kChoice,      ///< one of some words
  kSize,        ///< bytes, as 256M or 1.5GiB
  kCount,       ///< a whole number
  kCountOrAll,  ///< a whole number, or "all"
  kSeconds,     ///< seconds, with up to six decimals
  kUser,        ///< USER or USER:GROUP, by name or number
  kRestarts,    ///< N or N/SECONDS
};

/// An option that we take.
struct OptionRule {
  std::string_view name;  ///< with dashes
  ValueKind kind = ValueKind::kFlag;
  uint64_t least = 0;  ///< of numbers; of kSeconds in microseconds
  uint64_t most = 0;
  std::string_view choices{};  ///< "a|b" of kChoice
  bool for_daemon = true;      ///< becomes --NAME or --NAME=VALUE of `weightfs mount`
  bool needs_follow = false;
  bool zero_too = false;  ///< 0 is right although it is below `least`
};

/// All of them, in the order of the help.
std::span<const OptionRule> option_rules();
/// The rule of an option, its underscores read as dashes; null for others.
const OptionRule* find_rule(std::string_view name);

/// The value as it is to be passed on: numbers are written anew.  Fails with usage.
Result<std::string> checked_value(const OptionRule& rule, const MountOption& option);

/// True for options of mount(8) that say nothing to us, or what is true of every weightfs.
bool is_ignored(std::string_view name);
/// Why an option is refused even where unknown ones are ignored; empty for others.
std::string_view refusal_of(std::string_view name);
/// The error for a name that nobody knows; names the nearest that there is.
Error unknown_option(std::string_view name);

/// A number as checked_value() wrote it.
uint64_t count_of(std::string_view canonical);
double seconds_of(std::string_view canonical);

}  // namespace weightfs::helper
