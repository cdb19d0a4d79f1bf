// SPDX-License-Identifier: Apache-2.0
// `weightfs mount` and `weightfs umount` as a user runs them, on a real run of deltas.
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <random>

#include "mount/served_mount.h"
#include "support/made_run.h"

namespace weightfs::test {
namespace {

namespace fs = std::filesystem;
using std::chrono::steady_clock;

struct Outcome {
  int status = -1;  ///< exit status, or minus a signal
  std::string output;
  std::string errors;
};

/// A process of the program under test, its output in files.
class Program {
 public:
  Program(const TemporaryFolder& folder, std::vector<std::string> arguments, std::string work_folder = {}) {
    static int number = 0;
    stem_ = folder.sub("output-" + std::to_string(++number));
    arguments.insert(arguments.begin(), WEIGHTFS_BINARY);
    child_ = ::fork();
    if (child_ != 0) return;
    ::dup2(::open((stem_ + ".out").c_str(), O_WRONLY | O_CREAT, 0600), STDOUT_FILENO);
    ::dup2(::open((stem_ + ".err").c_str(), O_WRONLY | O_CREAT, 0600), STDERR_FILENO);
    if (!work_folder.empty() && ::chdir(work_folder.c_str()) != 0) ::_exit(99);
    std::vector<char*> argv;
    for (auto& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    ::execv(argv[0], argv.data());
    ::_exit(98);
  }
  pid_t pid() const { return child_; }
  std::string errors() const { return read_file(stem_ + ".err"); }
  Outcome wait() {
    int status = 0;
    ::waitpid(child_, &status, 0);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), read_file(stem_ + ".out"), errors()};
  }

 private:
  std::string stem_;
  pid_t child_ = -1;
};

class Command : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_FUSE();
    fs::create_directory(point_);
  }
  void TearDown() override {
    // Only daemons of this test: whatever its own mount says.
    const auto pid = daemon_pid();
    if (find_mount(*read_mount_info(), point_) != nullptr) ::umount2(point_.c_str(), MNT_DETACH);
    if (pid > 0) ::kill(pid, SIGTERM);
  }

  static std::vector<std::vector<MadeTensor>> tensors() {
    std::mt19937_64 random(7);
    return {{random_tensor(random, "a.weight", "BF16", {300, 500}), random_tensor(random, "a.bias", "F32", {17})},
            {random_tensor(random, "b.weight", "BF16", {1000, 700})}};
  }
  void publish(int versions) {
    std::mt19937_64 random(8);
    for (int i = 0; i < versions; ++i) run_.publish_weight_v(run_.random_changes(random, 0.01));
  }

  Outcome run(std::vector<std::string> arguments) { return Program(folder_, std::move(arguments)).wait(); }
  Outcome mount(std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {"mount", run_.folder(), point_, "--log-file", folder_.sub("log")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments);
  }
  nlohmann::json status() const {
    return nlohmann::json::parse(read_file(point_ + "/.weightfs/status.json"), nullptr, false);
  }
  pid_t daemon_pid() const {
    const auto document = status();
    return document.is_object() && document.contains("pid") ? document["pid"].get<pid_t>() : -1;
  }
  /// False for one that has ended but was not yet collected by its parent.
  static bool runs(pid_t pid) {
    const auto line = read_file(fmt::format("/proc/{}/stat", pid));
    const size_t name_end = line.rfind(')');
    return name_end != std::string::npos && line.compare(name_end, 3, ") Z") != 0;
  }
  bool is_mounted() const { return find_mount(*read_mount_info(), point_) != nullptr; }

  TemporaryFolder folder_;
  std::string point_ = folder_.sub("mount");
  MadeRun run_{folder_.sub("run"), tensors(), "{\"model_type\": \"made\"}"};
};

TEST_F(Command, MountsInTheBackgroundAndReturnsWhenItServes) {
  publish(4);
  const auto outcome = mount();
  ASSERT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_EQ(outcome.errors,
            fmt::format("mounted 5 versions of {} at {}; latest is {}\n", run_.folder(), point_, run_.names().back()));
  EXPECT_EQ(fs::read_symlink(point_ + "/latest"), run_.names().back());
  for (const auto& name : run_.names()) {
    for (size_t shard = 0; shard < run_.shard_count(); ++shard) {
      EXPECT_TRUE(read_file(point_ + "/" + name + "/" + run_.shard_name(shard)) == run_.expected_file(name, shard))
          << name;
    }
    EXPECT_EQ(read_file(point_ + "/" + name + "/config.json"), "{\"model_type\": \"made\"}");
  }
}

TEST_F(Command, LeavesItsTerminalAndFolderAlone) {
  ASSERT_EQ(mount().status, 0);
  const auto process = fmt::format("/proc/{}/", daemon_pid());
  EXPECT_EQ(fs::read_symlink(process + "cwd"), "/");
  for (const auto* fd : {"fd/0", "fd/1", "fd/2"}) EXPECT_EQ(fs::read_symlink(process + fd), "/dev/null");
}

TEST_F(Command, TellsTheStateOfItsMount) {
  publish(2);
  ASSERT_EQ(mount().status, 0);
  const auto document = status();
  EXPECT_EQ(document["source"], run_.folder());
  EXPECT_EQ(document["mount_point"], point_);
  EXPECT_EQ(document["versions"].size(), 3u);
  EXPECT_EQ(document["kernel"]["max_read"], 1 << 20);
  EXPECT_EQ(document["kernel"]["max_background"], 256);
  EXPECT_TRUE(document["kernel"]["protocol"].get<std::string>().starts_with("7."));
  const auto info = read_file(point_ + "/.weightfs/versions/" + run_.names()[1] + "/info.json");
  EXPECT_EQ(nlohmann::json::parse(info)["name"], run_.names()[1]);
}

TEST_F(Command, ReadsNoTensorToMount) {
  publish(2);
  ASSERT_EQ(mount().status, 0);
  EXPECT_EQ(status()["counters"]["tensor_bytes_read"], 0);
}

TEST_F(Command, UnmountsAndWaitsForTheProcess) {
  ASSERT_EQ(mount().status, 0);
  const auto pid = daemon_pid();
  ASSERT_GT(pid, 0);
  const auto outcome = run({"umount", point_});
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_FALSE(is_mounted());
  EXPECT_FALSE(runs(pid));
}

TEST_F(Command, MountsAgainRightAfterUnmounting) {
  for (int i = 0; i < 5; ++i) {
    ASSERT_EQ(mount().status, 0);
    ASSERT_EQ(run({"umount", point_}).status, 0);
  }
}

TEST_F(Command, DoesNotUnmountWhatIsInUse) {
  ASSERT_EQ(mount().status, 0);
  Descriptor file(::open((point_ + "/base/config.json").c_str(), O_RDONLY | O_CLOEXEC));
  const auto outcome = run({"umount", point_});
  EXPECT_EQ(outcome.status, 3);
  EXPECT_NE(outcome.errors.find("[mount.busy]"), std::string::npos) << outcome.errors;
  EXPECT_TRUE(is_mounted());
  file.reset();
  EXPECT_EQ(run({"umount", point_}).status, 0);
}

TEST_F(Command, UnmountsNothingButItsOwn) {
  for (const auto& path : {point_, std::string("/proc"), folder_.sub("missing")}) {
    const auto outcome = run({"umount", path});
    EXPECT_EQ(outcome.status, 3) << path;
  }
  EXPECT_NE(run({"umount", point_}).errors.find("[mount.not_weightfs]"), std::string::npos);
  EXPECT_TRUE(fs::exists("/proc/self"));
}

TEST_F(Command, CleansUpAfterADaemonThatDied) {
  ASSERT_EQ(mount().status, 0);
  const auto pid = daemon_pid();
  ASSERT_GT(pid, 0);
  ::kill(pid, SIGKILL);
  std::error_code error;
  for (int i = 0; i < 500 && error.value() != ENOTCONN; ++i) {
    ::usleep(10'000);
    error.clear();
    fs::directory_iterator(point_ + "/base", error);
  }
  ASSERT_EQ(error.value(), ENOTCONN);
  const auto again = mount();
  EXPECT_EQ(again.status, 3);
  EXPECT_NE(again.errors.find("[mount.busy]"), std::string::npos) << again.errors;
  EXPECT_EQ(run({"umount", point_}).status, 0);
  EXPECT_FALSE(is_mounted());
  EXPECT_EQ(mount().status, 0);
}

TEST_F(Command, RefusesBadMountPointsWithAMessageAndStatusThree) {
  fs::create_directory(run_.folder() + "/inside");
  std::ofstream(folder_.sub("file")) << "x";
  for (const auto& path :
       {run_.folder() + "/inside", run_.folder(), folder_.path(), folder_.sub("file"), folder_.sub("missing")}) {
    const auto outcome = run({"mount", run_.folder(), path});
    EXPECT_EQ(outcome.status, 3) << path;
    EXPECT_NE(outcome.errors.find("[mount.bad_mount_point]"), std::string::npos) << outcome.errors;
  }
  EXPECT_EQ(run({"mount", run_.folder(), "/proc"}).status, 3);
}

TEST_F(Command, RefusesASecondMountOnOnePoint) {
  ASSERT_EQ(mount().status, 0);
  const auto outcome = mount();
  EXPECT_EQ(outcome.status, 3);
  EXPECT_NE(outcome.errors.find("[mount.busy]"), std::string::npos) << outcome.errors;
}

TEST_F(Command, LetsOnlyOneOfManyMountOnOnePoint) {
  std::vector<Program> programs;
  for (int i = 0; i < 6; ++i) programs.emplace_back(folder_, std::vector<std::string>{"mount", run_.folder(), point_});
  int mounted = 0;
  for (auto& program : programs) mounted += program.wait().status == 0 ? 1 : 0;
  EXPECT_EQ(mounted, 1);
  EXPECT_EQ(run({"umount", point_}).status, 0);
  EXPECT_FALSE(is_mounted()) << "nothing was stacked";
}

TEST_F(Command, FailsForASourceThatIsNotThere) {
  const auto outcome = run({"mount", folder_.sub("missing"), point_});
  EXPECT_EQ(outcome.status, 3);
  EXPECT_NE(outcome.errors.find("[source.not_found]"), std::string::npos) << outcome.errors;
  EXPECT_FALSE(is_mounted());
}

TEST_F(Command, SaysWhichVersionsItRefused) {
  publish(2);
  run_.skip_number();
  publish(13);
  const auto outcome = mount();
  ASSERT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_NE(outcome.errors.find("refused weight_v000004: "), std::string::npos) << outcome.errors;
  EXPECT_NE(outcome.errors.find("... and 3 more; 'weightfs log' lists all 13"), std::string::npos) << outcome.errors;
  EXPECT_NE(outcome.errors.find("mounted 3 versions"), std::string::npos) << outcome.errors;
  EXPECT_TRUE(fs::exists(point_ + "/.weightfs/versions/weight_v000004/info.json"));
  EXPECT_FALSE(fs::exists(point_ + "/weight_v000004"));
}

TEST_F(Command, TakesRelativePaths) {
  publish(1);
  auto outcome = Program(folder_, {"mount", "run", "mount", "--base", "run/base"}, folder_.path()).wait();
  ASSERT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_TRUE(read_file(point_ + "/latest/" + run_.shard_name(0)) == run_.expected_file(run_.names()[1], 0));
  EXPECT_EQ(Program(folder_, {"umount", "mount/"}, folder_.path()).wait().status, 0);
}

TEST_F(Command, StaysInTheForegroundUntilSigterm) {
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) {
    Program program(folder_, {"mount", "--foreground", run_.folder(), point_});
    const auto deadline = steady_clock::now() + std::chrono::seconds(20);
    while (program.errors().find("mounted 1 versions") == std::string::npos && steady_clock::now() < deadline)
      ::usleep(5'000);
    EXPECT_TRUE(fs::exists(point_ + "/base/config.json"));
    EXPECT_EQ(daemon_pid(), program.pid());
    ::kill(program.pid(), number);
    EXPECT_EQ(program.wait().status, 0);
    EXPECT_FALSE(is_mounted());
  }
}

TEST_F(Command, LivesOnWhenASourceIsTruncated) {
  publish(1);
  ASSERT_EQ(mount().status, 0);
  const auto shard = run_.folder() + "/base/" + run_.shard_name(1);
  ASSERT_EQ(::truncate(shard.c_str(), 5000), 0);
  const Descriptor file(::open((point_ + "/latest/" + run_.shard_name(1)).c_str(), O_RDONLY | O_CLOEXEC));
  char buffer[4096];
  EXPECT_EQ(::pread(file.get(), buffer, sizeof buffer, 1'000'000), -1);
  EXPECT_EQ(errno, EIO);
  EXPECT_TRUE(read_file(point_ + "/latest/" + run_.shard_name(0)) == run_.expected_file(run_.names()[1], 0));
  EXPECT_GT(status()["counters"]["read_errors"].get<int>(), 0);
}

}  // namespace
}  // namespace weightfs::test
