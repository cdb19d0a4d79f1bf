// SPDX-License-Identifier: Apache-2.0
// mount.weightfs: what `mount -t weightfs` runs.  From options to a supervisor; see supervisor.h.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "attach/background.h"
#include "attach/marker.h"
#include "attach/mount_point.h"
#include "common/detached_tmpfs.h"
#include "common/log.h"
#include "common/text.h"
#include "helper_options.h"
#include "mount_target.h"
#include "supervisor.h"

namespace weightfs::helper {
namespace {

int fail(const Error& error, int exit_status) {
  fmt::print(stderr, "mount.weightfs: {}\n", error.text());
  return exit_status;
}

/// A helper that ends has its mount's last readers to wait for, another one that begins its source to open.
constexpr auto kLockPatience = std::chrono::seconds(15);

/// A daemon that is started again later finds no current folder of ours.
std::string absolute(const std::string& path) {
  std::error_code error;
  const auto full = std::filesystem::absolute(path, error);
  return error || path.empty() ? path : full.string();
}

/// As mount(8) writes it, which so finds out that a line of /etc/fstab is mounted; as it is where it does not exist, so
/// that whoever opens it says why not.
std::string shown_source(const std::string& source) {
  std::error_code error;
  const auto real = std::filesystem::canonical(source, error);
  return error ? absolute(source) : real.string();
}

void make_absolute(std::string& argument) {
  for (const std::string_view name : {"--base=", "--cache=", "--log-file="}) {
    if (argument.starts_with(name)) argument = std::string(name) + absolute(argument.substr(name.size()));
  }
  constexpr std::string_view kMetrics = "--metrics=";
  const bool is_file = argument.find('/') != std::string::npos || argument.ends_with(".prom");
  if (argument.starts_with(kMetrics) && is_file) {
    argument = std::string(kMetrics) + absolute(argument.substr(kMetrics.size()));
  }
}

std::vector<std::string> daemon_arguments(const HelperOptions& options, const std::string& mount_point) {
  std::vector<std::string> arguments = {"weightfs", "mount",
                                        fmt::format("--supervised={}", DaemonProcess::kChannelInDaemon)};
  if (options.foreground) arguments.emplace_back("--foreground");
  for (std::string argument : options.daemon_arguments) {
    make_absolute(argument);
    arguments.push_back(std::move(argument));
  }
  arguments.insert(arguments.end(), {"--", absolute(options.source), mount_point});
  return arguments;
}

/// Records come with descriptors: as many as the system lets us have.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

/// The kernel, short of memory, ends the big one first; it can be started again, we cannot.
void be_spared() {
  std::FILE* const file = std::fopen("/proc/self/oom_score_adj", "w");
  if (file == nullptr) return;
  std::fputs("-1000", file);
  std::fclose(file);
}

SupervisorOptions supervisor_options(const HelperOptions& options, const std::optional<RunAs>& run_as) {
  SupervisorOptions result;
  result.run_as = run_as;
  result.restarts = options.restarts;
  result.restart_window = std::chrono::seconds(options.restart_window);
  result.hang_limit = std::chrono::milliseconds(static_cast<int64_t>(options.hang_limit * 1000));
  result.owner = ::geteuid();
  return result;
}

/// What a daemon decodes into must be its own to write.
Descriptor tmpfs_for(const std::optional<RunAs>& run_as) {
  Descriptor tmpfs = detached_tmpfs();
  if (tmpfs && run_as) {
    static_cast<void>(::fchownat(tmpfs.get(), "", run_as->user, run_as->group, AT_EMPTY_PATH) != 0);
  }
  return tmpfs;
}

/// One mount, from the check of its folder to the end.
class Mounting {
 public:
  Mounting(const HelperOptions& options, ReadyNotice& notice)
      : options_(options), notice_(notice), source_(shown_source(options.source)) {}

  int run() {
    const Status prepared = prepare();
    if (!prepared) {
      return fail(prepared.error(), prepared.error().code == ErrorCode::kUsage ? kUsageStatus : kMountFailedStatus);
    }
    auto program = DaemonProgram::find();
    if (!program) return fail(program.error(), kSystemStatus);
    if (options_.fake) return kDoneStatus;
    SupervisorOptions supervisor = supervisor_options(options_, run_as_);
    supervisor.daemon_arguments = daemon_arguments(options_, target_ ? target_->path() : options_.mount_point);
    if (target_) supervisor.mount_point = target_->path();
    raise_descriptor_limit();
    be_spared();
    const int status = Supervisor(
                           std::move(supervisor), *std::move(program), tmpfs_for(run_as_), [&] { return connect(); },
                           [&](const std::string& line) { announce(line); })
                           .run();
    tidy_up();
    return status;
  }

 private:
  Status prepare() {
    if (!options_.run_as.empty()) run_as_ = TRY(find_user(options_.run_as));
    if (run_as_ && ::geteuid() != 0 && run_as_->user != ::geteuid()) {
      return Error{
          ErrorCode::kUsage,
          fmt::format("option setuid={}: only root may choose who runs the daemon; leave it out", options_.run_as)};
    }
    if (const auto number = descriptor_number(options_.mount_point)) {
      device_ = Descriptor(*number);
      ::fcntl(device_.get(), F_SETFD, FD_CLOEXEC);  // a daemon gets it when it is its turn
      return {};
    }
    target_ = TRY(MountTarget::open(options_.mount_point, ::getuid(), kLockPatience));
    return check_apart(target_->path(), {source_});
  }

  Result<Connection> connect() {
    if (!target_) return take_connection(Descriptor(::dup(device_.get())));
    if (!marker_) marker_ = Marker::place(target_->folder(), source_, target_->path());
    if (!marker_->placed()) log::event(log::Level::kInfo, "mount.no_marker", "{}", marker_->note());
    auto connection = TRY(make_connection(*target_, {source_, options_.allow_other, run_as_}));
    // Later mounts, where the kernel cannot resend requests, take what mounting takes, and that is kept.
    if (const Status done = keep_only_needed(); !done) return done.error();
    if (can_resend(connection.init_request)) target_->let_in();
    return connection;
  }

  void announce(const std::string& line) {
    if (options_.verbose) fmt::print(stderr, "{}\n", line);
    if (!notice_.send()) ::kill(::getpid(), SIGTERM);  // whoever wanted it has given up
  }

  /// A dead mount keeps its marker; a folder on which nothing is mounted any more needs none.  Where another helper is
  /// about to mount, the marker is its own already.
  void tidy_up() {
    if (!target_ || !marker_ || !target_->keep_out()) return;
    const auto mounts = read_mount_info();
    if (!mounts || find_mount(*mounts, target_->path()) != nullptr) return;
    if (const Status removed = marker_->remove(); !removed) {
      log::write(log::Level::kWarn, "mount.marker_left", removed.error().text());
    }
  }

  const HelperOptions& options_;
  ReadyNotice& notice_;
  const std::string source_;
  std::optional<RunAs> run_as_;
  Descriptor device_;  // of somebody else's mount
  std::optional<MountTarget> target_;
  std::optional<Marker> marker_;
};

/// The daemon would read the files of strangers with rights that its caller does not have.
Error borrowed_rights() {
  return {ErrorCode::kUsage,
          "this program must not be setuid or setgid; take that away (chmod ug-s), users mount through fusermount3"};
}

int run(const std::vector<std::string>& arguments) {
  open_standard_streams();
  ::prctl(PR_SET_NAME, "mount.weightfs");  // whatever the link is called through which we were started
  if (::getuid() != ::geteuid() || ::getgid() != ::getegid()) return fail(borrowed_rights(), kUsageStatus);
  const auto options = parse_helper_options(arguments);
  if (!options) return fail(options.error(), kUsageStatus);
  if (options->action != Action::kMount) {
    fmt::print("{}", options->action == Action::kHelp ? helper_help() : helper_version());
    return kDoneStatus;
  }
  const auto target = options->foreground ? log::Target::kStderr : log::Target::kSyslog;
  if (const Status logged = log::configure(log::Level::kInfo, target); !logged)
    return fail(logged.error(), kSystemStatus);
  if (!options->foreground && !options->fake) {
    return run_in_background("mount.weightfs", kSystemStatus,
                             [&](ReadyNotice& notice) { return Mounting(*options, notice).run(); });
  }
  ReadyNotice nobody;
  return Mounting(*options, nobody).run();
}

}  // namespace
}  // namespace weightfs::helper

int main(int argc, char** argv) { return weightfs::helper::run({argv, argv + argc}); }
