// SPDX-License-Identifier: Apache-2.0
// Which options of `-o` there are, and which of mount(8)'s own are let pass or refused.  What must stay true:
// this is a list of what is allowed.  A new option of `weightfs mount` does nothing here until it gets a rule.
#include "option_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>
#include <vector>

#include "common/text.h"

namespace weightfs::helper {
namespace {

using enum ValueKind;

constexpr uint64_t kSecond = 1'000'000;
constexpr uint64_t kMostSeconds = 1'000'000 * kSecond;  // as `weightfs mount` has it
constexpr uint64_t kDay = 86'400 * kSecond;
constexpr size_t kMostDistance = 2;
constexpr size_t kLongestName = 64;

constexpr std::array kRules = {
    OptionRule{.name = "base", .kind = kText},
    OptionRule{.name = "verify", .kind = kChoice, .choices = "tensor|off"},
    OptionRule{.name = "memory", .kind = kSize, .least = 16U << 20, .most = UINT64_MAX},
    OptionRule{.name = "cache", .kind = kText},
    OptionRule{.name = "cache-size", .kind = kSize, .most = UINT64_MAX},
    OptionRule{.name = "threads", .kind = kCount, .least = 1, .most = 4096},
    OptionRule{.name = "read-ahead", .kind = kSize, .most = 1U << 30},
    OptionRule{.name = "passthrough", .kind = kChoice, .choices = "auto|off"},
    OptionRule{.name = "warm-on-open", .kind = kChoice, .choices = "off|stream|memory|wait"},
    OptionRule{.name = "allow-other"},
    OptionRule{.name = "follow"},
    OptionRule{.name = "poll", .kind = kSeconds, .least = kSecond / 100, .most = kMostSeconds, .needs_follow = true},
    OptionRule{.name = "keep", .kind = kCountOrAll, .least = 1, .most = UINT64_MAX, .needs_follow = true},
    OptionRule{.name = "warm", .kind = kChoice, .choices = "latest|none", .needs_follow = true},
    OptionRule{.name = "pin-grace", .kind = kSeconds, .most = kMostSeconds, .needs_follow = true},
    OptionRule{.name = "on-advance", .kind = kText, .needs_follow = true},
    OptionRule{.name = "advance-limit", .kind = kSeconds, .least = kSecond, .most = kMostSeconds, .needs_follow = true},
    OptionRule{.name = "metrics", .kind = kText},
    OptionRule{.name = "log-level", .kind = kChoice, .choices = "trace|debug|info|warn|error|off"},
    OptionRule{.name = "log-file", .kind = kText},
    OptionRule{.name = "setuid", .kind = kUser, .for_daemon = false},
    OptionRule{.name = "restarts", .kind = kRestarts, .most = 1000, .for_daemon = false},
    OptionRule{.name = "hang", .kind = kSeconds, .least = kSecond, .most = kDay, .for_daemon = false, .zero_too = true},
};

constexpr std::array<std::string_view, 37> kIgnored = {
    "ro",
    "rw",
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "noatime",
    "relatime",
    "nodiratime",
    "norelatime",
    "strictatime",
    "lazytime",
    "atime",
    "diratime",
    "async",
    "sync",
    "dirsync",
    "nosuid",
    "nodev",
    "noexec",
    "silent",
    "loud",
    "mand",
    "nomand",
    "comment",
    "nolazytime",
    "nostrictatime",
    "noowner",
    "nogroup",
    "nousers",
    "default_permissions",
};

struct Refusal {
  std::string_view name;
  std::string_view why;
};

constexpr std::string_view kAlwaysLocked = "a weightfs is always mounted nosuid, nodev and noexec";
constexpr std::string_view kNoHelper = "mount(8) does this itself; leave out -t weightfs";
constexpr std::string_view kSetByUs = "the helper sets this itself";
constexpr std::string_view kNoOwners =
    "a weightfs chooses the owner and mode of what it shows; use allow_other to let others read it, and setuid=USER "
    "to choose who runs the daemon";
constexpr std::string_view kNoContext = "a weightfs takes no security context; leave labels to the policy";

constexpr std::array kRefusals = {
    Refusal{"suid", kAlwaysLocked},
    Refusal{"dev", kAlwaysLocked},
    Refusal{"exec", kAlwaysLocked},
    Refusal{"remount", "the options of a mounted weightfs stay as they are; unmount it and mount it again"},
    Refusal{"bind", kNoHelper},
    Refusal{"rbind", kNoHelper},
    Refusal{"move", kNoHelper},
    Refusal{"loop", "the source of a weightfs is a folder, not a disk image"},
    Refusal{"blkdev", "the source of a weightfs is a folder, not a block device"},
    Refusal{"auto-unmount",
            "after a crash it would show an empty folder in place of the model; the helper starts the "
            "daemon again instead"},
    Refusal{"fd", kSetByUs},
    Refusal{"rootmode", kSetByUs},
    Refusal{"user-id", kSetByUs},
    Refusal{"group-id", kSetByUs},
    Refusal{"fsname", kSetByUs},
    Refusal{"subtype", kSetByUs},
    Refusal{"uid", kNoOwners},
    Refusal{"gid", kNoOwners},
    Refusal{"umask", kNoOwners},
    Refusal{"context", kNoContext},
    Refusal{"fscontext", kNoContext},
    Refusal{"defcontext", kNoContext},
    Refusal{"rootcontext", kNoContext},
    Refusal{"seclabel", kNoContext},
    Refusal{"foreground", "write it as --foreground, without -o"},
};

std::string with_dashes(std::string_view name) {
  std::string out(name);
  std::replace(out.begin(), out.end(), '_', '-');
  return out;
}

Error wrong_value(const OptionRule& rule, const std::string& value, std::string_view expected) {
  return {ErrorCode::kUsage, fmt::format("option {}: {} is not {}", rule.name, quote(value), expected)};
}

std::string text_of_microseconds(uint64_t microseconds) {
  std::string text = fmt::format("{}.{:06}", microseconds / kSecond, microseconds % kSecond);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text;
}

/// Digits, with up to six more behind a point: no sign, exponent, space or hexadecimal form.
std::optional<uint64_t> parse_microseconds(std::string_view text) {
  constexpr size_t kDecimals = 6;
  const size_t point = text.find('.');
  const auto whole = parse_decimal(text.substr(0, point));
  if (!whole || *whole > kMostSeconds / kSecond) return std::nullopt;
  if (point == std::string_view::npos) return *whole * kSecond;
  std::string decimals(text.substr(point + 1));
  if (decimals.empty() || decimals.size() > kDecimals) return std::nullopt;
  decimals.resize(kDecimals, '0');
  const auto fraction = parse_decimal(decimals, true);
  return fraction ? std::optional(*whole * kSecond + *fraction) : std::nullopt;
}

bool is_in_range(const OptionRule& rule, std::optional<uint64_t> value) {
  return value && ((*value >= rule.least && *value <= rule.most) || (rule.zero_too && *value == 0));
}

Result<std::string> checked_choice(const OptionRule& rule, const std::string& value) {
  for (std::string_view rest = rule.choices; !rest.empty();) {
    const std::string_view word = rest.substr(0, rest.find('|'));
    if (value == word) return value;
    rest.remove_prefix(std::min(rest.size(), word.size() + 1));
  }
  return wrong_value(rule, value, fmt::format("one of {}", rule.choices));
}

Result<std::string> checked_size(const OptionRule& rule, const std::string& value) {
  const auto bytes = parse_size(value);
  if (is_in_range(rule, bytes)) return fmt::format("{}", *bytes);
  const std::string limits = rule.least > 0 ? fmt::format("at least {}", human_bytes(rule.least))
                                            : fmt::format("at most {}", human_bytes(rule.most));
  return wrong_value(rule, value, fmt::format("a size such as 64M or 1.5GiB, {}", limits));
}

Result<std::string> checked_count(const OptionRule& rule, const std::string& value) {
  if (rule.kind == kCountOrAll && value == "all") return value;
  const auto count = parse_decimal(value);
  if (is_in_range(rule, count)) return fmt::format("{}", *count);
  const std::string_view all = rule.kind == kCountOrAll ? ", or 'all'" : "";
  return rule.most == UINT64_MAX
             ? wrong_value(rule, value, fmt::format("a whole number from {} on{}", rule.least, all))
             : wrong_value(rule, value, fmt::format("a whole number from {} to {}{}", rule.least, rule.most, all));
}

Result<std::string> checked_seconds(const OptionRule& rule, const std::string& value) {
  const auto time = parse_microseconds(value);
  if (is_in_range(rule, time)) return text_of_microseconds(*time);
  return wrong_value(rule, value,
                     fmt::format("a number of seconds from {} to {}{}", text_of_microseconds(rule.least),
                                 text_of_microseconds(rule.most), rule.zero_too ? ", or 0 for never" : ""));
}

/// A number below (uid_t)-1, which set*uid(2) reads as "leave as it is"; or a name that cannot be taken for one.
bool is_user_or_group(std::string_view text) {
  if (text.empty() || text.size() > kLongestName) return false;
  if (text.front() >= '0' && text.front() <= '9') {
    const auto id = parse_decimal(text);
    return id && *id < UINT32_MAX;
  }
  const auto fits = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
           c == '.';
  };
  return text.front() != '-' && text.front() != '.' && std::all_of(text.begin(), text.end(), fits);
}

Result<std::string> checked_user(const OptionRule& rule, const std::string& value) {
  const size_t colon = value.find(':');
  const std::string_view user = std::string_view(value).substr(0, colon);
  const bool good_group = colon == std::string::npos || is_user_or_group(std::string_view(value).substr(colon + 1));
  if (is_user_or_group(user) && good_group) return value;
  return wrong_value(rule, value, "USER or USER:GROUP, each a name or a number");
}

Result<std::string> checked_restarts(const OptionRule& rule, const std::string& value) {
  constexpr std::string_view kDefaultWindow = "60";
  const size_t slash = value.find('/');
  const std::string_view whole = value;
  const auto count = parse_decimal(whole.substr(0, slash));
  const auto window = parse_decimal(slash == std::string::npos ? kDefaultWindow : whole.substr(slash + 1));
  if (is_in_range(rule, count) && window && *window >= 1 && *window <= kDay / kSecond) {
    return fmt::format("{}/{}", *count, *window);
  }
  return wrong_value(rule, value,
                     fmt::format("N/SECONDS, with N from 0 to {} and SECONDS from 1 to {}", rule.most, kDay / kSecond));
}

/// Levenshtein's distance.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i + 1);
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = std::exchange(row[j + 1], std::min({replaced, row[j] + 1, row[j + 1] + 1}));
    }
  }
  return row.back();
}

}  // namespace

std::span<const OptionRule> option_rules() { return kRules; }

const OptionRule* find_rule(std::string_view name) {
  const std::string wanted = with_dashes(name);
  const auto* const found =
      std::find_if(kRules.begin(), kRules.end(), [&](const OptionRule& rule) { return rule.name == wanted; });
  return found == kRules.end() ? nullptr : found;
}

Result<std::string> checked_value(const OptionRule& rule, const MountOption& option) {
  if (rule.kind == kFlag) {
    if (!option.value) return std::string();
    return Error{ErrorCode::kUsage,
                 fmt::format("option {} takes no value; leave {} out", rule.name, quote("=" + *option.value))};
  }
  // `--base=` would make the daemon take its next argument for the value.
  if (!option.value || option.value->empty()) {
    return Error{ErrorCode::kUsage, fmt::format("option {0} needs a value: {0}=VALUE", rule.name)};
  }
  switch (rule.kind) {
    case kChoice:
      return checked_choice(rule, *option.value);
    case kSize:
      return checked_size(rule, *option.value);
    case kCount:
    case kCountOrAll:
      return checked_count(rule, *option.value);
    case kSeconds:
      return checked_seconds(rule, *option.value);
    case kUser:
      return checked_user(rule, *option.value);
    case kRestarts:
      return checked_restarts(rule, *option.value);
    case kText:
    case kFlag:
      break;
  }
  if (has_control_character(*option.value)) return wrong_value(rule, *option.value, "free of control characters");
  return *option.value;
}

bool is_ignored(std::string_view name) {
  if (name.starts_with("x-") || name.starts_with("X-")) return true;
  return std::find(kIgnored.begin(), kIgnored.end(), name) != kIgnored.end();
}

std::string_view refusal_of(std::string_view name) {
  const std::string wanted = with_dashes(name);
  const auto* const found =
      std::find_if(kRefusals.begin(), kRefusals.end(), [&](const Refusal& refusal) { return refusal.name == wanted; });
  return found == kRefusals.end() ? std::string_view() : found->why;
}

Error unknown_option(std::string_view name) {
  std::string_view nearest;
  size_t least = kMostDistance + 1;
  const std::string wanted = name.size() > kLongestName ? std::string() : with_dashes(name);
  for (const OptionRule& rule : kRules) {
    const size_t distance = edit_distance(wanted, rule.name);
    if (distance >= least) continue;
    least = distance;
    nearest = rule.name;
  }
  const std::string advice =
      nearest.empty() ? "; see mount.weightfs --help" : fmt::format("; did you mean {}?", nearest);
  return {ErrorCode::kUsage, fmt::format("unknown option {}{}", quote(name), advice)};
}

uint64_t count_of(std::string_view canonical) { return parse_decimal(canonical).value_or(0); }

double seconds_of(std::string_view canonical) {
  return static_cast<double>(parse_microseconds(canonical).value_or(0)) / static_cast<double>(kSecond);
}

}  // namespace weightfs::helper
