// SPDX-License-Identifier: Apache-2.0
// The command line of mount.weightfs.  It may come from an ordinary user while we run as root, so what must stay
// true: what reaches the daemon is made of our own option names and of checked values, each one argument; SPEC
// and DIR are never among them; and our own name, argv[0], which the caller chooses, decides nothing.
#include "helper_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string_view>

#include "common/text.h"
#include "option_rules.h"
#include "option_text.h"

namespace weightfs::helper {
namespace {

constexpr size_t kMostOptions = 256;
constexpr size_t kMostBytes = 64U << 10;
constexpr std::string_view kSeeHelp = "; see mount.weightfs --help";

Error usage(std::string_view what) { return {ErrorCode::kUsage, std::string(what)}; }

/// The words of a command line, sorted but not looked into.
struct Words {
  std::vector<std::string> operands;
  std::vector<std::string> option_texts;  ///< of -o
  bool sloppy = false;
};

/// Walks over argv once; the getopt of libc keeps its place in globals and prints argv[0].
class CommandLine {
 public:
  CommandLine(std::span<const std::string> arguments, HelperOptions& options)
      : arguments_(arguments), options_(options) {}

  /// Stops at --help and --version, as other programs do.
  Result<Words> read() {
    bool options_ended = false;
    while (next_ < arguments_.size() && options_.action == Action::kMount) {
      const std::string& word = arguments_[next_++];
      if (options_ended || word.size() < 2 || word.front() != '-') {
        words_.operands.push_back(word);
      } else if (word == "--") {
        options_ended = true;
      } else if (word.starts_with("--")) {
        TRY(take_long(word));
      } else {
        TRY(take_short(word));
      }
    }
    return std::move(words_);
  }

 private:
  Status take_long(const std::string& word) {
    if (word == "--help") {
      options_.action = Action::kHelp;
    } else if (word == "--version") {
      options_.action = Action::kVersion;
    } else if (word == "--foreground") {
      options_.foreground = true;
    } else {
      return usage(fmt::format("unknown option {}; options of the mount itself follow -o", quote(word)));
    }
    return {};
  }

  /// "-fv", "-ro", "-oro": letters up to the first that takes a value, which is the rest or the next word.
  Status take_short(const std::string& word) {
    for (size_t i = 1; i < word.size() && options_.action == Action::kMount; ++i) {
      const char letter = word[i];
      if (std::string_view("Not").find(letter) == std::string_view::npos) {
        TRY(take_letter(letter));
        continue;
      }
      if (i + 1 == word.size() && next_ == arguments_.size()) {
        return usage(fmt::format("option -{} needs a value{}", letter, kSeeHelp));
      }
      return take_value(letter, i + 1 < word.size() ? word.substr(i + 1) : arguments_[next_++]);
    }
    return {};
  }

  Status take_letter(char letter) {
    switch (letter) {
      case 'f':
        options_.fake = true;
        return {};
      case 'v':
        options_.verbose = true;
        return {};
      case 's':
        words_.sloppy = true;
        return {};
      case 'h':
        options_.action = Action::kHelp;
        return {};
      case 'V':
        options_.action = Action::kVersion;
        return {};
      case 'n':
      case 'r':
      case 'w':
        return {};  // no mtab to leave alone; always read-only
      default:
        return usage(fmt::format("unknown option {}{}", quote(std::string{'-', letter}), kSeeHelp));
    }
  }

  Status take_value(char letter, const std::string& value) {
    if (letter == 'N') {
      return usage(
          "-N is not supported; run mount(8) inside that namespace instead: nsenter --mount=NAMESPACE mount ...");
    }
    if (letter == 'o') words_.option_texts.push_back(value);
    if (letter == 't' && value != "weightfs" && value != "fuse.weightfs") {
      return usage(fmt::format("cannot mount type {}; mount.weightfs knows weightfs and fuse.weightfs", quote(value)));
    }
    return {};
  }

  std::span<const std::string> arguments_;
  HelperOptions& options_;
  Words words_;
  size_t next_ = 0;
};

/// The checked values by the names of their rules; of two, the last one wins.
using Values = std::map<std::string_view, std::string>;

Status check_size(std::span<const std::string> argv) {
  size_t bytes = 0;
  for (const std::string& word : argv) {
    bytes += word.size() + 1;
    if (bytes > kMostBytes) {
      return usage(fmt::format("the command line is longer than {}; shorten its options", human_bytes(kMostBytes)));
    }
    if (word.find('\0') != std::string::npos) return usage(fmt::format("{} holds a NUL", quote(word)));
  }
  return {};
}

Status take_operands(const std::vector<std::string>& operands, HelperOptions& options) {
  if (operands.size() < 2) return usage(fmt::format("SOURCE and MOUNTPOINT are needed{}", kSeeHelp));
  if (operands.size() > 2) {
    return usage(
        fmt::format("{} is one argument too many: SOURCE and MOUNTPOINT only{}", quote(operands[2]), kSeeHelp));
  }
  if (operands[0].empty()) return usage("the SOURCE is empty; name the folder of published deltas");
  if (operands[1].empty()) return usage("the MOUNTPOINT is empty; name an empty folder");
  options.source = operands[0];
  options.mount_point = operands[1];
  return {};
}

Status take_option(const MountOption& option, bool sloppy, Values& values) {
  if (is_ignored(option.name)) return {};
  const std::string_view refusal = refusal_of(option.name);
  if (!refusal.empty()) return usage(fmt::format("option {}: {}", quote(option.name), refusal));
  const OptionRule* rule = find_rule(option.name);
  if (rule == nullptr) return sloppy ? Status() : Status(unknown_option(option.name));
  values[rule->name] = TRY(checked_value(*rule, option));
  return {};
}

Result<Values> take_options(const Words& words) {
  std::vector<MountOption> all;
  for (const std::string& text : words.option_texts) {
    for (MountOption& option : TRY(split_mount_options(text))) all.push_back(std::move(option));
    if (all.size() > kMostOptions) return usage(fmt::format("more than {} options; leave some out", kMostOptions));
  }
  // With this one, mount(8) may give those that the mount has already, which are none of the user's.
  std::stable_partition(all.begin(), all.end(), [](const MountOption& option) { return option.name == "remount"; });
  Values values;
  for (const MountOption& option : all) TRY(take_option(option, words.sloppy, values));
  return values;
}

Status set_daemon_arguments(const Values& values, HelperOptions& options) {
  for (const OptionRule& rule : option_rules()) {
    const auto value = values.find(rule.name);
    if (value == values.end()) continue;
    if (rule.needs_follow && !values.contains("follow")) {
      return usage(fmt::format("option {} means nothing without follow; add follow, or leave it out", rule.name));
    }
    if (!rule.for_daemon) continue;
    const std::string_view separator = rule.kind == ValueKind::kFlag ? "" : "=";
    options.daemon_arguments.push_back(fmt::format("--{}{}{}", rule.name, separator, value->second));
  }
  return {};
}

void set_own_options(const Values& values, HelperOptions& options) {
  options.allow_other = values.contains("allow-other");
  if (const auto user = values.find("setuid"); user != values.end()) options.run_as = user->second;
  if (const auto limit = values.find("hang"); limit != values.end()) options.hang_limit = seconds_of(limit->second);
  if (const auto limit = values.find("restarts"); limit != values.end()) {
    const std::string_view text = limit->second;
    options.restarts = static_cast<unsigned>(count_of(text.substr(0, text.find('/'))));
    options.restart_window = static_cast<unsigned>(count_of(text.substr(text.find('/') + 1)));
  }
}

}  // namespace

Result<HelperOptions> parse_helper_options(std::span<const std::string> argv) {
  TRY(check_size(argv));
  HelperOptions options;
  const auto words = TRY(CommandLine(argv.empty() ? argv : argv.subspan(1), options).read());
  if (options.action != Action::kMount) return options;
  TRY(take_operands(words.operands, options));
  const auto values = TRY(take_options(words));
  TRY(set_daemon_arguments(values, options));
  set_own_options(values, options);
  return options;
}

}  // namespace weightfs::helper
