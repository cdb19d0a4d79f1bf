// SPDX-License-Identifier: Apache-2.0
#include "cli/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace weightfs::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

ParseResult parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "weightfs");
  return parse_options(static_cast<int>(arguments.size()), arguments.data());
}

const std::vector<const char*> kCommands = {"mount", "umount", "log", "show", "verify", "export", "diff", "status"};

TEST(Options, WithoutArgumentsHelpIsPrinted) {
  const auto result = parse({});
  EXPECT_FALSE(result.options);
  EXPECT_EQ(result.exit_status, 0);
  for (const char* command : kCommands) EXPECT_THAT(result.output, HasSubstr(command));
}

TEST(Options, EveryCommandExplainsItselfWithAnExample) {
  for (const char* command : kCommands) {
    for (const char* help : {"-h", "--help"}) {
      const auto result = parse({command, help});
      EXPECT_EQ(result.exit_status, 0) << command;
      EXPECT_FALSE(result.options) << command;
      EXPECT_THAT(result.output, HasSubstr("\nExample:\n  weightfs " + std::string(command) + " "));
      EXPECT_THAT(result.output, HasSubstr("Exit status: 0"));
      EXPECT_THAT(result.errors, IsEmpty());
    }
  }
}

TEST(Options, HelpFitsOneHundredColumns) {
  for (const char* command : kCommands) {
    std::istringstream lines(parse({command, "-h"}).output);
    for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 104u) << line;
  }
}

TEST(Options, TheVersionIsPrinted) {
  const auto result = parse({"--version"});
  EXPECT_EQ(result.output, std::string("weightfs ") + WEIGHTFS_VERSION + "\n");
  EXPECT_EQ(result.exit_status, 0);
}

TEST(Options, MountHasSensibleDefaults) {
  const auto result = parse({"mount", "src", "mnt"});
  ASSERT_TRUE(result.options) << result.errors;
  const MountOptions& mount = result.options->mount;
  EXPECT_EQ(result.options->command, Command::kMount);
  EXPECT_EQ(mount.source, "src");
  EXPECT_EQ(mount.mount_point, "mnt");
  EXPECT_EQ(mount.base, "");
  EXPECT_TRUE(mount.verify);
  EXPECT_FALSE(mount.foreground);
  EXPECT_FALSE(mount.allow_other);
  EXPECT_EQ(mount.memory_bytes, 0u);
  EXPECT_EQ(mount.threads, 0u);
  EXPECT_EQ(mount.read_ahead, 4u << 20);
  EXPECT_TRUE(mount.passthrough);
  EXPECT_EQ(mount.warm_on_open, "stream");
  EXPECT_EQ(mount.log_level, "info");
  EXPECT_EQ(mount.log_file, "");
  EXPECT_EQ(mount.cache, "");
  EXPECT_EQ(mount.cache_bytes, 16ull << 30);
}

TEST(Options, ACacheHasASize) {
  const auto result = parse({"mount", "src", "mnt", "--cache", "folds", "--cache-size=500M"});
  ASSERT_TRUE(result.options) << result.errors;
  EXPECT_EQ(result.options->mount.cache, "folds");
  EXPECT_EQ(result.options->mount.cache_bytes, 500u << 20);
  EXPECT_FALSE(parse({"mount", "src", "mnt", "--cache-size=much"}).options);
}

TEST(Options, MountTakesEveryOption) {
  const auto result = parse({"mount",
                             "src",
                             "mnt",
                             "--base",
                             "model",
                             "--foreground",
                             "--verify=off",
                             "--memory",
                             "256M",
                             "--threads",
                             "3",
                             "--allow-other",
                             "--log-level",
                             "debug",
                             "--log-file",
                             "x.log",
                             "--read-ahead",
                             "1M",
                             "--passthrough=off",
                             "--warm-on-open=memory"});
  ASSERT_TRUE(result.options) << result.errors;
  const MountOptions& mount = result.options->mount;
  EXPECT_EQ(mount.base, "model");
  EXPECT_TRUE(mount.foreground);
  EXPECT_FALSE(mount.verify);
  EXPECT_EQ(mount.memory_bytes, 256u << 20);
  EXPECT_EQ(mount.threads, 3u);
  EXPECT_TRUE(mount.allow_other);
  EXPECT_EQ(mount.log_level, "debug");
  EXPECT_EQ(mount.log_file, "x.log");
  EXPECT_EQ(mount.read_ahead, 1u << 20);
  EXPECT_FALSE(mount.passthrough);
  EXPECT_EQ(mount.warm_on_open, "memory");
}

TEST(Options, WarmTakesAPlaceAndADrop) {
  const auto plain = parse({"warm", "m", "v1"});
  ASSERT_TRUE(plain.options) << plain.errors;
  EXPECT_EQ(plain.options->command, Command::kWarm);
  EXPECT_EQ(plain.options->mount_point, "m");
  EXPECT_THAT(plain.options->versions, testing::ElementsAre("v1"));
  EXPECT_EQ(plain.options->to, "memory");
  EXPECT_FALSE(plain.options->drop);
  const auto all = parse({"warm", "--to=page-cache", "--json", "--drop", "m", "latest"});
  ASSERT_TRUE(all.options) << all.errors;
  EXPECT_EQ(all.options->to, "page-cache");
  EXPECT_TRUE(all.options->json);
  EXPECT_TRUE(all.options->drop);
  for (const auto& bad : {"--to=disk", "--warm-on-open=yes"}) {
    EXPECT_EQ(parse({"warm", "m", "v1", bad}).exit_status, 2) << bad;
    EXPECT_EQ(parse({"mount", "m", "v1", bad}).exit_status, 2) << bad;
  }
  EXPECT_EQ(parse({"warm", "m"}).exit_status, 2);
}

TEST(Options, TheKernelsReadAheadCanBeLeftAlone) {
  const auto result = parse({"mount", "a", "b", "--read-ahead=0", "--passthrough=auto"});
  ASSERT_TRUE(result.options) << result.errors;
  EXPECT_EQ(result.options->mount.read_ahead, 0u);
  EXPECT_TRUE(result.options->mount.passthrough);
}

TEST(Options, BadKernelSettingsAreRefused) {
  for (const char* bad : {"--read-ahead=fast", "--read-ahead=-1", "--read-ahead=2G", "--passthrough=on"}) {
    const auto result = parse({"mount", "a", "b", bad});
    EXPECT_FALSE(result.options) << bad;
    EXPECT_EQ(result.exit_status, 2) << bad;
  }
}

TEST(Options, MemoryIsASizeInHumanUnits) {
  const std::pair<const char*, uint64_t> sizes[] = {
      {"16M", 16u << 20}, {"1G", 1u << 30}, {"1.5GiB", 3u << 29}, {"20000000", 20'000'000}};
  for (const auto& [text, bytes] : sizes) {
    const auto result = parse({"mount", "a", "b", "--memory", text});
    ASSERT_TRUE(result.options) << text << result.errors;
    EXPECT_EQ(result.options->mount.memory_bytes, bytes) << text;
  }
}

TEST(Options, OptionsMayStandBeforeOrAfterTheOtherArguments) {
  for (const auto& line : std::vector<std::vector<const char*>>{{"verify", "--json", "--base", "m", "s", "v1", "v2"},
                                                                {"verify", "s", "v1", "v2", "--base", "m", "--json"},
                                                                {"verify", "s", "--base=m", "v1", "--json", "v2"}}) {
    const auto result = parse(line);
    ASSERT_TRUE(result.options) << result.errors;
    EXPECT_EQ(result.options->command, Command::kVerify);
    EXPECT_EQ(result.options->source, "s");
    EXPECT_EQ(result.options->base, "m");
    EXPECT_TRUE(result.options->json);
    EXPECT_THAT(result.options->versions, ElementsAre("v1", "v2"));
  }
}

TEST(Options, VerifyWithoutNamesMeansAllVersions) {
  const auto result = parse({"verify", "s"});
  ASSERT_TRUE(result.options);
  EXPECT_THAT(result.options->versions, IsEmpty());
}

TEST(Options, ShowAndExportTakeOneVersion) {
  const auto show = parse({"show", "s", "latest", "-a", "--verify", "off"});
  ASSERT_TRUE(show.options) << show.errors;
  EXPECT_EQ(show.options->command, Command::kShow);
  EXPECT_THAT(show.options->versions, ElementsAre("latest"));
  EXPECT_TRUE(show.options->all);
  EXPECT_FALSE(show.options->verify);
  const auto write = parse({"export", "s", "v", "dir"});
  ASSERT_TRUE(write.options) << write.errors;
  EXPECT_EQ(write.options->command, Command::kExport);
  EXPECT_EQ(write.options->source, "s");
  EXPECT_THAT(write.options->versions, ElementsAre("v"));
  EXPECT_EQ(write.options->directory, "dir");
}

TEST(Options, ExportTakesAFormatAndAStart) {
  EXPECT_EQ(parse({"export", "s", "v", "dir"}).options->as, "safetensors");
  const auto chain = parse({"export", "s", "v", "dir", "--as", "trl", "--from", "step_000003"});
  ASSERT_TRUE(chain.options) << chain.errors;
  EXPECT_EQ(chain.options->as, "trl");
  EXPECT_EQ(chain.options->from, "step_000003");
  EXPECT_EQ(parse({"export", "s", "v", "dir", "--as", "weight_v"}).options->as, "weight_v");
  EXPECT_EQ(parse({"export", "s", "v", "dir", "--as", "tar"}).exit_status, 2);
  const auto no_chain = parse({"export", "s", "v", "dir", "--from", "v0"});
  EXPECT_EQ(no_chain.exit_status, 2);
  EXPECT_THAT(no_chain.errors, HasSubstr("--as"));
}

TEST(Options, DiffTakesTwoCheckpoints) {
  const auto result = parse({"diff", "a", "runs@latest", "--json", "--base", "model", "--verify=off"});
  ASSERT_TRUE(result.options) << result.errors;
  EXPECT_EQ(result.options->command, Command::kDiff);
  EXPECT_EQ(result.options->old_checkpoint, "a");
  EXPECT_EQ(result.options->new_checkpoint, "runs@latest");
  EXPECT_EQ(result.options->base, "model");
  EXPECT_TRUE(result.options->json);
  EXPECT_FALSE(result.options->verify);
  EXPECT_EQ(parse({"diff", "a"}).exit_status, 2);
}

TEST(Options, TheOtherCommandsAreRecognised) {
  EXPECT_EQ(parse({"umount", "m"}).options->command, Command::kUmount);
  EXPECT_EQ(parse({"umount", "m"}).options->mount_point, "m");
  EXPECT_FALSE(parse({"umount", "m"}).options->force);
  EXPECT_TRUE(parse({"umount", "--force", "m"}).options->force);
  EXPECT_EQ(parse({"status", "m", "--json"}).options->command, Command::kStatus);
  EXPECT_TRUE(parse({"status", "m", "--json"}).options->json);
  EXPECT_EQ(parse({"log", "s"}).options->command, Command::kLog);
}

TEST(Options, NamesThatLookLikeOptionsComeAfterTwoDashes) {
  const auto result = parse({"log", "--", "--json"});
  ASSERT_TRUE(result.options) << result.errors;
  EXPECT_EQ(result.options->source, "--json");
  EXPECT_FALSE(result.options->json);
}

TEST(Options, WrongUsageEndsWithStatusTwoAndAPointerToHelp) {
  const std::vector<std::vector<const char*>> lines = {
      {"frobnicate"},
      {"log"},
      {"log", "a", "b"},
      {"log", "a", "--bogus"},
      {"log", "a", "--base"},
      {"log", "a", "--base", "x", "--base", "y"},
      {"show", "a"},
      {"export", "a", "b"},
      {"verify"},
      {"umount"},
      {"status"},
      {"mount", "a"},
      {"mount", "a", "b", "c"},
      {"mount", "a", "b", "--memory", "3X"},
      {"mount", "a", "b", "--memory", "-1"},
      {"mount", "a", "b", "--memory", "1K"},
      {"mount", "a", "b", "--threads", "0"},
      {"mount", "a", "b", "--threads", "many"},
      {"mount", "a", "b", "--verify", "maybe"},
      {"mount", "a", "b", "--log-level", "loud"},
      {"log", "a", "log", "b"},
  };
  for (const auto& line : lines) {
    const auto result = parse(line);
    EXPECT_FALSE(result.options) << testing::PrintToString(line);
    EXPECT_EQ(result.exit_status, 2) << testing::PrintToString(line);
    EXPECT_THAT(result.errors, StartsWith("weightfs"));
    EXPECT_THAT(result.errors, HasSubstr("-h'.\n"));
    EXPECT_THAT(result.output, IsEmpty());
  }
}

TEST(Options, AnUnknownCommandIsQuoted) { EXPECT_THAT(parse({"\x1b[2Jfoo"}).errors, HasSubstr("'\\x1b[2Jfoo'")); }

}  // namespace
}  // namespace weightfs::cli
