// SPDX-License-Identifier: Apache-2.0
#include "helper_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "option_rules.h"
#include "unit/helper/option_line.h"

namespace weightfs::helper::test {
namespace {

using namespace std::string_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Argv daemon_of(const std::string& options) {
  const auto result = parse_o(options);
  if (!result) return {"refused: " + result.error().message};
  return result->daemon_arguments;
}

TEST(HelperOptions, AreThoseOfMount) {
  const auto options = parse({"/runs/7", "/mnt/7", "-fv", "-s", "-n", "-w", "-t", "fuse.weightfs", "-o", "rw,follow"});
  ASSERT_TRUE(options);
  EXPECT_EQ(options->action, Action::kMount);
  EXPECT_EQ(options->source, "/runs/7");
  EXPECT_EQ(options->mount_point, "/mnt/7");
  EXPECT_TRUE(options->fake);
  EXPECT_TRUE(options->verbose);
  EXPECT_FALSE(options->foreground);
  EXPECT_THAT(options->daemon_arguments, ElementsAre("--follow"));
}

TEST(HelperOptions, HaveDefaults) {
  const auto options = parse({"a", "b"});
  ASSERT_TRUE(options);
  EXPECT_THAT(options->daemon_arguments, IsEmpty());
  EXPECT_FALSE(options->fake || options->verbose || options->foreground || options->allow_other);
  EXPECT_EQ(options->run_as, "");
  EXPECT_EQ(options->restarts, 5u);
  EXPECT_EQ(options->restart_window, 60u);
  EXPECT_EQ(options->hang_limit, 10);
}

TEST(HelperOptions, MayStandAnywhereOnTheLine) {
  for (const Argv& argv : {Argv{"-o", "follow", "a", "b"}, Argv{"a", "-ofollow", "b"}, Argv{"a", "b", "-vofollow"},
                           Argv{"-o", "follow", "--", "a", "b"}, Argv{"a", "b", "-o", "follow", "--"}}) {
    const auto options = parse(argv);
    ASSERT_TRUE(options) << options.error().message;
    EXPECT_EQ(options->source, "a");
    EXPECT_EQ(options->mount_point, "b");
    EXPECT_THAT(options->daemon_arguments, ElementsAre("--follow"));
  }
}

TEST(HelperOptions, ReachTheDaemonUnderTheirLongNames) {
  EXPECT_THAT(
      daemon_of("log-file=/l,metrics=:9567,log-level=warn,on-advance=echo hi,advance-limit=5,pin-grace=0.50,warm=none,"
                "keep=8,poll=2,follow,allow_other,warm-on-open=off,passthrough=off,read-ahead=1M,threads=3,"
                "memory=1G,verify=off,base=/b"),
      ElementsAre("--base=/b", "--verify=off", "--memory=1073741824", "--threads=3", "--read-ahead=1048576",
                  "--passthrough=off", "--warm-on-open=off", "--allow-other", "--follow", "--poll=2", "--keep=8",
                  "--warm=none", "--pin-grace=0.5", "--on-advance=echo hi", "--advance-limit=5", "--metrics=:9567",
                  "--log-level=warn", "--log-file=/l"));
}

TEST(HelperOptions, MayHaveUnderscoresForDashes) {
  EXPECT_THAT(daemon_of("cache=folds,cache_size=20G"), ElementsAre("--cache=folds", "--cache-size=21474836480"));
  EXPECT_THAT(daemon_of("read_ahead=0,warm_on_open=stream,log_level=info"),
              ElementsAre("--read-ahead=0", "--warm-on-open=stream", "--log-level=info"));
  EXPECT_THAT(daemon_of("allow-other"), ElementsAre("--allow-other"));
}

TEST(HelperOptions, OfTheHelperStayHere) {
  const auto options = parse_o("setuid=models:users,restarts=2/30,hang=2.5,allow_other,read-ahead=8M,passthrough=off");
  ASSERT_TRUE(options);
  EXPECT_THAT(options->daemon_arguments, ElementsAre("--read-ahead=8388608", "--passthrough=off", "--allow-other"));
  EXPECT_EQ(options->run_as, "models:users");
  EXPECT_EQ(options->restarts, 2u);
  EXPECT_EQ(options->restart_window, 30u);
  EXPECT_EQ(options->hang_limit, 2.5);
  EXPECT_TRUE(options->allow_other);
  EXPECT_EQ(parse_o("restarts=0")->restarts, 0u);
  EXPECT_EQ(parse_o("hang=0")->hang_limit, 0);
}

TEST(HelperOptions, OfTwoTheLastOneWins) {
  EXPECT_THAT(daemon_of("memory=1G,base=/a,memory=512M,base=/b"), ElementsAre("--base=/b", "--memory=536870912"));
  const auto options = parse({"a", "b", "-o", "read-ahead=0,read_ahead=2M", "-o", "read-ahead=1M"});
  ASSERT_TRUE(options);
  EXPECT_THAT(options->daemon_arguments, ElementsAre("--read-ahead=1048576"));
  EXPECT_THAT(daemon_of("memory=nonsense,memory=1G"), ElementsAre(HasSubstr("refused: option memory")));
}

TEST(HelperOptions, OfMountItselfAreSwallowed) {
  EXPECT_THAT(
      daemon_of("ro,rw,defaults,auto,noauto,nofail,_netdev,user,nouser,users,owner,group,user=joe,noatime,relatime,"
                "nodiratime,norelatime,strictatime,lazytime,atime,diratime,async,sync,dirsync,nosuid,nodev,noexec,"
                "silent,loud,mand,nomand,comment=any thing,x-systemd.automount,X-mount.mkdir=0755,x-foo=--base,"
                "default_permissions"),
      IsEmpty());
}

TEST(HelperOptions, ThatMountAddsToARemountAreNotBlamed) {
  expect_refused(parse({"a", "b", "-o", "rw,user_id=0,group_id=0", "-o", "default_permissions,remount"}),
                 "option 'remount': ");
}

TEST(HelperOptions, ThatWouldWeakenTheMountAreRefused) {
  for (const auto* option : {"suid",
                             "dev",
                             "exec",
                             "remount",
                             "bind",
                             "rbind",
                             "move",
                             "loop",
                             "loop=/dev/loop0",
                             "auto_unmount",
                             "auto-unmount",
                             "fd=3",
                             "rootmode=40000",
                             "user_id=0",
                             "group_id=0",
                             "user-id=0",
                             "fsname=x",
                             "subtype=x",
                             "blkdev",
                             "uid=0",
                             "gid=0",
                             "umask=0",
                             "context=system_u:object_r:tmp_t:s0",
                             "fscontext=x",
                             "defcontext=x",
                             "rootcontext=x",
                             "foreground"}) {
    const std::string name = std::string(option).substr(0, std::string(option).find('='));
    for (const char* sloppy : {"-s", "-v"}) {
      expect_refused(parse({"a", "b", sloppy, "-o", "ro,"s + option}), "option '" + name + "': ");
    }
  }
  expect_refused(parse_o("auto_unmount"), "after a crash it would show an empty folder");
  expect_refused(parse_o("suid"), "always mounted nosuid");
}

TEST(HelperOptions, ThatNobodyKnowsAreRefused) {
  expect_refused(parse_o("ro,folow"), "unknown option 'folow'; did you mean follow?");
  expect_refused(parse_o("nonempty"), "unknown option 'nonempty'; see mount.weightfs --help");
  expect_refused(parse_o("FOLLOW"), "unknown option 'FOLLOW'");
}

TEST(HelperOptions, ThatNobodyKnowsAreIgnoredWhenSloppy) {
  const auto options = parse({"a", "b", "-s", "-o", "folow,nonempty=3,memory=1G"});
  ASSERT_TRUE(options);
  EXPECT_THAT(options->daemon_arguments, ElementsAre("--memory=1073741824"));
  expect_refused(parse({"a", "b", "-o", "memory=lots", "-s"}), "option memory");
}

TEST(HelperOptions, NeedAValueOrTakeNone) {
  expect_refused(parse_o("base"), "option base needs a value: base=VALUE");
  expect_refused(parse_o("base="), "option base needs a value");
  expect_refused(parse_o("base=\"\""), "option base needs a value");
  expect_refused(parse_o("memory,ro"), "option memory needs a value");
  expect_refused(parse_o("follow=yes"), "option follow takes no value; leave '=yes' out");
  expect_refused(parse_o("allow_other="), "option allow-other takes no value");
}

TEST(HelperOptions, OfFollowingNeedFollow) {
  for (const auto* option : {"poll=1", "keep=3", "warm=none", "pin-grace=0", "on-advance=true", "advance-limit=9"}) {
    expect_refused(parse_o(option), "means nothing without follow");
    EXPECT_TRUE(parse_o("follow,"s + option)) << option;
    EXPECT_TRUE(parse_o(option + ",follow"s)) << option;
  }
}

TEST(HelperOptions, HaveOneSourceAndOneMountPoint) {
  expect_refused(parse({}), "SOURCE and MOUNTPOINT are needed");
  expect_refused(parse({"a"}), "SOURCE and MOUNTPOINT are needed");
  expect_refused(parse({"a", "b", "c"}), "'c' is one argument too many");
  expect_refused(parse({"", "b"}), "the SOURCE is empty");
  expect_refused(parse({"a", ""}), "the MOUNTPOINT is empty");
  expect_refused(parse({"a", "b", "--", "-o", "ro"}), "'-o' is one argument too many");
}

TEST(HelperOptions, OfOtherProgramsAreRefused) {
  expect_refused(parse({"a", "b", "-t", "ext4"}), "cannot mount type 'ext4'");
  expect_refused(parse({"a", "b", "-t", ""}), "cannot mount type ''");
  expect_refused(parse({"a", "b", "-tweightfs.x"}), "cannot mount type");
  expect_refused(parse({"a", "b", "-N", "/proc/1/ns/mnt"}), "-N is not supported; run mount(8) inside that namespace");
  expect_refused(parse({"a", "b", "-x"}), "unknown option '-x'");
  expect_refused(parse({"a", "b", "-\n"}), "unknown option '-\\x0a'");
  expect_refused(parse({"a", "b", "--base=/x"}), "unknown option '--base=/x'; options of the mount itself follow -o");
  expect_refused(parse({"a", "b", "--follow"}), "unknown option '--follow'");
  expect_refused(parse({"a", "b", "--foreground=1"}), "unknown option '--foreground=1'");
  expect_refused(parse({"a", "b", "--fore"}), "unknown option '--fore'");
}

TEST(HelperOptions, AtTheEndOfTheLineMissTheirValue) {
  for (const auto* option : {"-o", "-t", "-N", "-vo"}) expect_refused(parse({"a", "b", option}), "needs a value");
  EXPECT_TRUE(parse({"a", "b", "-o", ""}));
  expect_refused(parse({"a", "b", "-o", "-v"}), "unknown option '-v'");
  expect_refused(parse({"a", "b", "-o", "--"}), "unknown option '--'");
}

TEST(HelperOptions, GiveHelpAndVersion) {
  for (const Argv& argv : {Argv{"-h"}, Argv{"--help"}, Argv{"a", "-vh"}, Argv{"--help", "--nonsense"}}) {
    const auto options = parse(argv);
    ASSERT_TRUE(options);
    EXPECT_EQ(options->action, Action::kHelp);
    EXPECT_EQ(options->source, "");
  }
  for (const Argv& argv : {Argv{"-V"}, Argv{"--version"}}) EXPECT_EQ(parse(argv)->action, Action::kVersion);
  EXPECT_EQ(helper_version(), "mount.weightfs " WEIGHTFS_VERSION "\n");
  EXPECT_EQ(parse({"--", "-h", "-V"})->action, Action::kMount);
}

/// As recorded from the mount(8) of util-linux 2.38.1; in front stands what it was called with.
TEST(HelperOptions, AreUnderstoodAsMountPassesThem) {
  // -o 'follow,base="/a,b",ro,nosuid,user,x-foo=1,noatime'
  const auto sorted = parse({"/s", "/m", "-o", "ro,nosuid,noatime,noexec,nodev,follow,base=\"/a,b\",user"});
  ASSERT_TRUE(sorted) << sorted.error().message;
  EXPECT_THAT(sorted->daemon_arguments, ElementsAre("--base=/a,b", "--follow"));
  // -f -v -s -n -o 'allow_other,foo'
  const auto letters = parse({"/s", "/m", "-s", "-f", "-n", "-v", "-o", "rw,allow_other,foo"});
  ASSERT_TRUE(letters) << letters.error().message;
  EXPECT_TRUE(letters->fake && letters->verbose && letters->allow_other);
  // -o 'follow,on-advance="echo \"a b\", c"'
  const auto quoted = parse({"/s", "/m", "-o", "rw,follow,on-advance=\"echo \\\"a b\\\", c\""});
  ASSERT_TRUE(quoted) << quoted.error().message;
  EXPECT_THAT(quoted->daemon_arguments, ElementsAre("--follow", "--on-advance=echo \"a b\", c"));
  // -o 'base="/a\",suid"'; it takes \" for the end
  expect_refused(parse({"/s", "/m", "-o", "rw,base=\"/a\\\""}), "its double quote is never closed");
  // -N /proc/self/ns/mnt
  expect_refused(parse({"/s", "/m", "-o", "rw", "-N", "/proc/735/fd/4"}), "-N is not supported");
  // -o 'remount,follow' and -o 'users,exec,dev'
  expect_refused(parse({"/s", "/m", "-o", "rw,remount,follow"}), "unmount it and mount it again");
  expect_refused(parse({"/s", "/m", "-o", "rw,nosuid,users,exec,dev"}), "option 'exec': a weightfs is always mounted");
}

TEST(HelperOptions, DoNotHangOnOurOwnName) {
  for (const std::string& name : {""s, "umount"s, "-h"s, "--help"s, "umount.weightfs"s, "-o"s, "\n\x1B[2J"s, "-s"s}) {
    const Argv good = {name, "a", "b", "-o", "follow"};
    const auto options = parse_helper_options(good);
    ASSERT_TRUE(options) << name;
    EXPECT_EQ(options->source, "a");
    const Argv wrong = {name, "a", "b", "-o", "folow"};
    const Argv as_ever = {"mount.weightfs", "a", "b", "-o", "folow"};
    EXPECT_EQ(refusal(parse_helper_options(wrong)), refusal(parse_helper_options(as_ever)));
  }
  expect_refused(parse_helper_options({}), "SOURCE and MOUNTPOINT are needed");
  const Argv only_name = {""};
  expect_refused(parse_helper_options(only_name), "SOURCE and MOUNTPOINT are needed");
}

TEST(HelperHelp, NamesEveryOption) {
  const std::string help = helper_help();
  for (const OptionRule& rule : option_rules()) {
    const std::string with_value = rule.kind == ValueKind::kFlag ? "" : "=";
    const std::string name = rule.name == "allow-other" ? "allow_other" : std::string(rule.name);
    const std::string choices(rule.choices);
    EXPECT_THAT(help, HasSubstr(" " + name + with_value + choices));
  }
  EXPECT_THAT(
      help, HasSubstr("Exit status: 0 mounted, 1 wrong usage or not permitted, 2 system error, 32 the mount failed."));
}

TEST(HelperHelp, FitsATerminal) {
  const std::string help = helper_help();
  size_t start = 0;
  for (size_t end = help.find('\n'); end != std::string::npos; start = end + 1, end = help.find('\n', start)) {
    EXPECT_LE(end - start, 100u) << help.substr(start, end - start);
  }
  EXPECT_EQ(start, help.size()) << "the last line has no end";
}

}  // namespace
}  // namespace weightfs::helper::test
