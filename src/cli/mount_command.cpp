// SPDX-License-Identifier: Apache-2.0
// `weightfs mount`: from options to a served mount.  Order matters: paths are made absolute before the
// daemon leaves its folder; signals are blocked and the allocator is set up before the first thread starts;
// everything that can be refused is refused before the mount appears.
#include "cli/mount_command.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <malloc.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <thread>

#include "attach/mount_point.h"
#include "chain/snapshot.h"
#include "attach/background.h"
#include "cli/following.h"
#include "cli/metrics_export.h"
#include "cli/metrics_text.h"
#include "cli/mount_report.h"
#include "cli/report.h"
#include "cli/terminal.h"
#include "common/log.h"
#include "common/memory_limit.h"
#include "common/text.h"
#include "engine/engine.h"
#include "fuse/session.h"
#include "vfs/vfs.h"

namespace weightfs::cli {
namespace {

constexpr int kCannotStatus = 3;
constexpr size_t kMaxRefusedLines = 10;
constexpr auto kPatience = std::chrono::seconds(10);  // for readers after SIGTERM

/// Stops a session when SIGTERM, SIGINT or SIGHUP arrives.  Create before any other thread, which then
/// inherit the blocked signals.
class StopOnSignal {
 public:
  StopOnSignal() {
    ::sigemptyset(&signals_);
    for (const int number : {SIGTERM, SIGINT, SIGHUP}) ::sigaddset(&signals_, number);
    ::pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
  }
  ~StopOnSignal() { end(); }
  StopOnSignal(const StopOnSignal&) = delete;
  StopOnSignal& operator=(const StopOnSignal&) = delete;

  /// `first` is called before the session is stopped.
  void watch(Session& session, std::function<void()> first) {
    thread_ = std::thread([this, &session, first = std::move(first)] {
      int number = 0;
      ::sigwait(&signals_, &number);
      if (ended_.load()) return;
      log::event(log::Level::kInfo, "mount.stopping", "signal {}", number);
      first();
      session.stop(kPatience);
    });
  }
  /// Call before the session goes away.
  void end() {
    if (!thread_.joinable()) return;
    ended_.store(true);
    ::pthread_kill(thread_.native_handle(), SIGTERM);
    thread_.join();
  }

 private:
  sigset_t signals_{};
  std::atomic<bool> ended_{false};
  std::thread thread_;
};

/// Before any thread starts: many threads would otherwise each keep an arena, and freed blocks of
/// the cache would stay in the process.
void set_up_allocator() {
  ::mallopt(M_ARENA_MAX, 4);
  ::mallopt(M_MMAP_THRESHOLD, 128 << 10);
}

/// Whoever was started without standard streams would get /dev/fuse as one of them.
void open_standard_streams() {
  int fd = 0;
  do {
    fd = ::open("/dev/null", O_RDWR);
  } while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd >= 0) ::close(fd);
}

Status set_up_log(const MountOptions& options) {
  const auto level = TRY(log::parse_level(options.log_level));
  if (!options.log_file.empty()) return log::configure(level, log::Target::kFile, options.log_file);
  return log::configure(level, options.foreground ? log::Target::kStderr : log::Target::kSyslog);
}

/// Absolute and free of links where it exists; as it is otherwise, so that whoever opens it says why not.
std::string real_or_same(const std::string& path) {
  std::error_code error;
  const auto real = path.empty() ? std::filesystem::path() : std::filesystem::canonical(path, error);
  return error || real.empty() ? path : real.string();
}

/// Every path that the mount must neither cover nor lie in.
std::vector<std::string> kept_apart(const std::string& source, const ModelFolder& base) {
  std::vector<std::string> paths = {source};
  if (!base.path().empty()) paths.push_back(real_or_same(base.path()));
  for (const auto& entry : base.entries()) {
    if (entry.source) paths.push_back(real_or_same(entry.source->name()));  // may lie elsewhere, behind a link
  }
  return paths;
}

void print_refused(const Snapshot& snapshot) {
  size_t refused = 0;
  for (const Version& version : snapshot.versions()) {
    if (version.admitted() || ++refused > kMaxRefusedLines) continue;
    fmt::print(stderr, "refused {}: {}\n", bare(version.name), version.error->text());
  }
  if (refused > kMaxRefusedLines) {
    fmt::print(stderr, "... and {} more; 'weightfs log' lists all {}\n", refused - kMaxRefusedLines, refused);
  }
}

MountFacts facts_of(const MountOptions& options, const Catalog& catalog, const std::string& mount_point,
                    const Negotiated& negotiated) {
  MountFacts facts;
  facts.pid = ::getpid();
  facts.source = options.source;
  facts.base = catalog.base().snapshot->base().path();
  facts.mount_point = mount_point;
  facts.started_at = utc_now();
  facts.allow_other = options.allow_other;
  facts.verify = options.verify;
  facts.protocol = fmt::format("{}.{}", negotiated.protocol_major, negotiated.protocol_minor);
  facts.capabilities = negotiated.capabilities;
  facts.max_read = negotiated.max_read;
  facts.max_background = negotiated.max_background;
  facts.max_readahead = negotiated.max_readahead;
  facts.read_ahead = negotiated.read_ahead;
  facts.warm_on_open = options.warm_on_open;
  facts.read_ahead_problem = negotiated.read_ahead_problem;
  return facts;
}

EngineOptions engine_options(const MountOptions& options) {
  const uint64_t memory =
      options.memory_bytes != 0 ? options.memory_bytes : default_memory_budget(cgroup_memory_limit());
  return {.memory_bytes = memory,
          .threads = options.threads,
          .verify = options.verify,
          .reply_bytes = Session::reply_bytes(Session::serving_threads())};
}

void announce(const Catalog& catalog, const MountFacts& facts) {
  const auto line = fmt::format("mounted {} versions of {} at {}; latest is {}", catalog.shown().size(),
                                bare(facts.source), bare(facts.mount_point), bare(catalog.latest().version().name));
  fmt::print(stderr, "{}\n", line);
  log::write(log::Level::kInfo, "mount.ready", line);
}

StreamPolicy stream_policy(std::string_view name) {
  if (name == "off") return StreamPolicy::kOff;
  return name == "memory" ? StreamPolicy::kMemory : StreamPolicy::kStore;
}

FollowOptions follow_options(const MountOptions& options) {
  FollowOptions follow;
  follow.source = {options.source, options.base, options.verify};
  if (options.follow.keep != 0) follow.keep = options.follow.keep;
  return follow;
}

std::chrono::milliseconds milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
}

/// What keeps the mount up with its source; null unless that is wanted.
std::unique_ptr<Following> follow(const MountOptions& options, const std::string& mount_point,
                                  std::unique_ptr<Follower> follower, MountReport& report, Vfs& vfs, Session& session,
                                  MetricsExport* metrics) {
  if (!follower) return nullptr;
  FollowingOptions following{milliseconds(options.follow.poll),          options.follow.warm, options.follow.on_advance,
                             milliseconds(options.follow.advance_limit), mount_point,         options.verify};
  Following::Actions actions;
  actions.show = [&](const std::shared_ptr<const Serving>& serving) {
    auto table = NodeTable::build(tree_contents(serving->catalog));
    if (!table) return log::write(log::Level::kError, "follow.not_shown", table.error().text());
    report.set_serving(serving);
    session.root_changed(vfs.show(*std::move(table), engine_reader(serving->versions)));
  };
  actions.pinned = [&] { return vfs.pinned(); };
  actions.pins = [&] { return vfs.pinned_trees(); };
  if (metrics != nullptr) actions.moved = [metrics] { metrics->poke(); };
  return std::make_unique<Following>(std::move(follower), follow_options(options).keep, report.serving(),
                                     std::move(following), std::move(actions));
}

SessionOptions session_options(const MountOptions& options, const std::string& mount_point) {
  return {.mount_point = mount_point,
          .source = options.source,
          .allow_other = options.allow_other,
          .threads = 0,
          .read_ahead = options.read_ahead,
          .passthrough = options.passthrough,
          .streams = stream_policy(options.warm_on_open)};
}

/// Null unless metrics are wanted.
Result<std::unique_ptr<MetricsExport>> open_metrics(const MountOptions& options, const std::string& mount_point) {
  if (!options.metrics) return std::unique_ptr<MetricsExport>();
  const auto folder = std::filesystem::path(options.metrics->file).parent_path().string();
  if (options.metrics->is_file() && (real_or_same(folder) + "/").starts_with(mount_point + "/")) {
    return Error{ErrorCode::kUsage, "--metrics names a file in the mount itself, which is for reading only"};
  }
  return MetricsExport::open(*options.metrics);
}

/// Serves until unmounted.  Nothing here may hold on to what is served first: followed, a source moves on.
Status serve(const MountOptions& options, const std::string& mount_point, const Files& files,
             std::shared_ptr<const Snapshot> snapshot, ReadyNotice& notice) {
  StopOnSignal stop_on_signal;
  auto follower = options.follow.on ? Follower::make(files, follow_options(options), snapshot) : nullptr;
  Catalog catalog = follower ? follower->catalog({}) : Catalog(snapshot);
  auto serving = serve_all(std::move(catalog), std::make_shared<Engine>(std::move(snapshot), engine_options(options)));
  auto table = TRY(NodeTable::build(tree_contents(serving->catalog)));
  auto owned_report = std::make_unique<MountReport>(serving, files);
  MountReport& report = *owned_report;
  VfsOptions vfs_options{::getuid(), ::getgid()};
  if (options.follow.on) vfs_options.pin_grace = milliseconds(options.follow.pin_grace);
  auto vfs =
      std::make_shared<Vfs>(std::move(table), engine_reader(serving->versions), std::move(owned_report), vfs_options);
  serving.reset();
  const auto metrics = TRY(open_metrics(options, mount_point));  // longer than `following`, which tells it of moves
  const auto session = TRY(Session::mount(vfs, session_options(options, mount_point)));
  const auto following = follow(options, mount_point, std::move(follower), report, *vfs, *session, metrics.get());
  if (following) report.set_follow([&] { return following->state(); });
  stop_on_signal.watch(*session, [&] {
    if (following) following->stop();
  });
  auto served = session->serve([&] {
    const auto first = report.serving();
    const auto facts = facts_of(options, first->catalog, mount_point, session->negotiated());
    report.set_facts(facts, *session);
    announce(first->catalog, facts);
    if (metrics) metrics->start([&] { return metrics_text(report.metrics()); });
    if (following) following->start();
    if (!notice.send()) ::kill(::getpid(), SIGTERM);
  });
  stop_on_signal.end();
  if (metrics) metrics->stop();  // it asks the session and who follows
  report.set_follow(nullptr);
  log::event(log::Level::kInfo, "mount.ended", "{}", quote(mount_point));
  return served;
}

Status mount_and_serve(MountOptions options, ReadyNotice& notice) {
  TRY(set_up_log(options));
  set_up_allocator();
  options.source = real_or_same(options.source);
  options.base = real_or_same(options.base);
  TRY(check_mount_point(options.mount_point, {options.source}));  // before a long look at the source
  const Files files;
  auto snapshot = TRY(open_source(files, {options.source, options.base, options.verify}));
  const auto mount_point = TRY(check_mount_point(options.mount_point, kept_apart(options.source, snapshot->base())));
  print_refused(*snapshot);
  return serve(options, mount_point, files, std::move(snapshot), notice);
}

int exit_status(const MountOptions& options, ReadyNotice& notice) {
  const Status status = mount_and_serve(options, notice);
  if (status) return 0;
  fmt::print(stderr, "weightfs mount: {}\n", status.error().text());
  log::write(log::Level::kError, "mount.failed", status.error().text());
  return kCannotStatus;
}

}  // namespace

int run_mount(const MountOptions& options) {
  open_standard_streams();
  if (!options.foreground) {
    return run_in_background([&](ReadyNotice& notice) { return exit_status(options, notice); });
  }
  ReadyNotice nobody;
  return exit_status(options, nobody);
}

}  // namespace weightfs::cli
