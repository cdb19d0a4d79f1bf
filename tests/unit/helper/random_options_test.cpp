// SPDX-License-Identifier: Apache-2.0
// Random command lines: whatever is accepted gives the daemon nothing but options of ours.
#include <gtest/gtest.h>

#include <random>

#include "option_rules.h"
#include "unit/helper/option_line.h"

namespace weightfs::helper::test {
namespace {

class RandomLine {
 public:
  explicit RandomLine(unsigned seed) : random_(seed) {}

  Argv argv() {
    Argv argv;
    if (!one_in(50)) argv.emplace_back("mount.weightfs");
    if (!one_in(20)) argv.insert(argv.end(), {"/runs/7", "/mnt/7"});
    while (!one_in(3)) argv.push_back(one_in(2) ? word() : "-o");
    argv.insert(argv.end(), {"-o", options()});
    return argv;
  }

 private:
  size_t below(size_t limit) { return std::uniform_int_distribution<size_t>(0, limit - 1)(random_); }
  bool one_in(size_t count) { return below(count) == 0; }

  std::string options() {
    std::string text;
    for (size_t left = below(8); left > 0; --left) text += option() + (one_in(10) ? "" : ",");
    for (size_t left = one_in(4) ? below(3) + 1 : 0; left > 0; --left) {
      text.insert(below(text.size() + 1), 1, static_cast<char>(below(256)));
    }
    return text;
  }
  std::string option() {
    if (one_in(12)) return word();
    const OptionRule& rule = option_rules()[below(option_rules().size())];
    std::string name(rule.name);
    if (rule.kind == ValueKind::kFlag) return name;
    return name + "=" + (one_in(3) ? word() : good_value(rule));
  }
  static std::string good_value(const OptionRule& rule) {
    if (rule.kind == ValueKind::kChoice) return std::string(rule.choices.substr(0, rule.choices.find('|')));
    return rule.kind == ValueKind::kSize ? "32M" : "3";
  }
  std::string word() {
    static const Argv kWords = {
        "follow", "suid",   "-s",    "-f",  "--",       "--base=/x", "\"",   "\\",   "\\,", "\"a,b\"", "x-foo",
        "1e999",  "-1",     "0",     "all", "tensor",   "=",         ",",    "\n",   "",    "-o",      "--help",
        "nobody", "1G,dev", "a\\\\", "ro",  "comment=", "\x7F",      "\xFF", "fd=3", " ",   "user=x",  "-vn"};
    if (!one_in(4)) return kWords[below(kWords.size())];
    std::string bytes(below(12), '\0');
    for (char& byte : bytes) byte = static_cast<char>(below(256));
    return bytes;
  }

  std::mt19937 random_;
};

/// "--NAME" or "--NAME=VALUE" of a rule that is for the daemon.
bool is_whitelisted(const std::string& argument) {
  if (!argument.starts_with("--")) return false;
  const size_t equals = argument.find('=');
  for (const OptionRule& rule : option_rules()) {
    const bool takes_value = rule.kind != ValueKind::kFlag;
    if (rule.for_daemon && argument.substr(2, equals == std::string::npos ? equals : equals - 2) == rule.name) {
      return takes_value ? equals != std::string::npos && equals + 1 < argument.size() : equals == std::string::npos;
    }
  }
  return false;
}

void expect_harmless(const HelperOptions& options) {
  for (const std::string& argument : options.daemon_arguments) {
    ASSERT_TRUE(is_whitelisted(argument)) << argument;
    ASSERT_FALSE(has_control_character(argument)) << argument;
  }
  ASSERT_LE(options.restarts, 1000u);
  ASSERT_TRUE(options.hang_limit >= 0 && options.hang_limit <= 86400);
}

TEST(RandomOptions, NeverGetPastTheList) {
  constexpr int kLines = 100'000;
  RandomLine line(20240607);
  int accepted = 0, with_arguments = 0;
  for (int i = 0; i < kLines; ++i) {
    const auto options = parse_helper_options(line.argv());
    if (!options) {
      ASSERT_EQ(options.error().code, ErrorCode::kUsage);
      ASSERT_FALSE(has_control_character(options.error().message)) << options.error().message;
      continue;
    }
    ++accepted;
    if (!options->daemon_arguments.empty()) ++with_arguments;
    ASSERT_NO_FATAL_FAILURE(expect_harmless(*options)) << "line " << i;
  }
  RecordProperty("accepted", accepted);
  RecordProperty("with_arguments", with_arguments);
  EXPECT_GT(accepted, kLines / 100) << "nearly all are refused: this tests nothing";
  EXPECT_GT(with_arguments, kLines / 200);
  EXPECT_LT(accepted, kLines / 2);
}

TEST(RandomOptions, OfPlainBytesNeverGetPastTheListEither) {
  std::mt19937 random(7);
  std::uniform_int_distribution<int> byte(0, 255), length(0, 40);
  for (int i = 0; i < 100'000; ++i) {
    std::string text(static_cast<size_t>(length(random)), '\0');
    for (char& c : text) c = static_cast<char>(byte(random));
    const auto options = parse_o(text);
    if (!options) continue;
    ASSERT_NO_FATAL_FAILURE(expect_harmless(*options)) << i;
  }
}

}  // namespace
}  // namespace weightfs::helper::test
