// SPDX-License-Identifier: Apache-2.0
// The process behind a mount.  What must stay true: what one process has shown, the next one shows, no less and no
// more; nothing here may hold on to what is served first: followed, a source moves on.
#include "cli/mount_process.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <set>
#include <thread>

#include "chain/resume.h"
#include "cli/folding.h"
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

constexpr auto kReadersPatience = std::chrono::seconds(10);  // for readers after SIGTERM

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
      session.stop(kReadersPatience);
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

MountFacts facts_of(const MountOptions& options, const Catalog& catalog, const std::string& mount_point,
                    const Negotiated& negotiated, Supervision* supervision) {
  MountFacts facts;
  facts.pid = ::getpid();
  facts.source = options.source;
  facts.base = catalog.base().snapshot->base().path();
  facts.mount_point = mount_point;
  facts.started_at = utc_now();
  if (supervision != nullptr) {
    facts.supervisor = ::getppid();
    facts.restarts = supervision->orders().restarts;
    facts.last_end = supervision->orders().last_end;
  }
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

EngineOptions engine_options(const MountOptions& options, Supervision* supervision) {
  const uint64_t memory =
      options.memory_bytes != 0 ? options.memory_bytes : default_memory_budget(cgroup_memory_limit());
  return {.memory_bytes = memory,
          .threads = options.threads,
          .verify = options.verify,
          .reply_bytes = Session::reply_bytes(Session::serving_threads()),
          .keeper = supervision != nullptr ? supervision->keeper() : nullptr,
          .tmpfs = supervision != nullptr ? supervision->orders().tmpfs.get() : -1};
}

std::string announce(const Catalog& catalog, const MountFacts& facts) {
  auto line = fmt::format("mounted {} versions of {} at {}; latest is {}", catalog.shown().size(), bare(facts.source),
                          bare(facts.mount_point), bare(catalog.latest().version().name));
  if (facts.supervisor == 0) fmt::print(stderr, "{}\n", line);  // mount(8) says nothing unless asked to
  log::write(log::Level::kInfo, "mount.ready", line);
  return line;
}

StreamPolicy stream_policy(std::string_view name) {
  if (name == "off") return StreamPolicy::kOff;
  if (name == "wait") return StreamPolicy::kWait;
  return name == "memory" ? StreamPolicy::kMemory : StreamPolicy::kStore;
}

SourceOptions source_options(const MountOptions& options) { return {options.source, options.base, options.verify}; }

FollowOptions follow_options(const MountOptions& options) {
  FollowOptions follow;
  follow.source = source_options(options);
  if (options.follow.keep != 0) follow.keep = options.follow.keep;
  return follow;
}

std::chrono::milliseconds in_milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
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

/// Nothing unless a cache is wanted.
Result<std::optional<store::FoldCache>> open_cache(const MountTask& task) {
  const MountOptions& options = task.options;
  if (options.cache.empty()) return std::optional<store::FoldCache>();
  if ((options.cache + "/").starts_with(task.mount_point + "/")) {
    return Error{ErrorCode::kUsage, "--cache names a folder in the mount itself, which is for reading only"};
  }
  return std::optional(TRY(store::FoldCache::open(task.files, options.cache, options.cache_bytes)));
}

std::vector<uint64_t> identities(const std::set<uint64_t>& set) { return {set.begin(), set.end()}; }

/// Everything that one mount consists of.  Members that use others come after them.
class MountProcess {
 public:
  explicit MountProcess(const MountTask& task) : task_(task), options_(task.options), supervision_(task.supervision) {}

  /// The supervisor sees that we are alive for as long as anything is waited for; what it is told comes from what goes
  /// away after that.
  ~MountProcess() {
    following_.reset();
    if (supervision_ != nullptr) supervision_->end_beat();
  }
  MountProcess(const MountProcess&) = delete;
  MountProcess& operator=(const MountProcess&) = delete;

  Status run(std::shared_ptr<const Snapshot> snapshot) {
    StopOnSignal stop_on_signal;
    if (supervision_ != nullptr) TRY(take_over(snapshot));
    TRY(make_tree(std::move(snapshot)));
    metrics_ = TRY(open_metrics(options_, task_.mount_point));
    TRY(open_folding());
    TRY(open_session());
    if (follower_) follow();
    stop_on_signal.watch(*session_, [&] {
      if (following_) following_->stop();
    });
    auto served = session_->serve([&] { on_ready(); });
    stop_on_signal.end();
    if (metrics_) metrics_->stop();  // it asks the session and who follows
    report_->set_follow(nullptr);
    report_->set_folding(nullptr);
    log::event(log::Level::kInfo, "mount.ended", "{}", quote(task_.mount_point));
    return served;
  }

 private:
  Status take_over(std::shared_ptr<const Snapshot>& snapshot) {
    TRY(supervision_->take_orders([] { ::kill(::getpid(), SIGTERM); }));
    former_ = supervision_->former_state();
    former_advance_ = supervision_->former_advance();
    left_hook_ = supervision_->left_hook();
    if (former_ && !is_of_base(*snapshot, *former_)) {
      log::event(log::Level::kError, "source.changed",
                 "the base is another one than before the restart; what was open of the mount cannot be read on");
      former_.reset();
    }
    if (former_) snapshot = restored(task_.files, source_options(options_), snapshot, *former_);
    return {};
  }

  Status make_tree(std::shared_ptr<const Snapshot> snapshot) {
    const auto engine = std::make_shared<Engine>(snapshot, engine_options(options_, supervision_));
    if (options_.follow.on) {
      follower_ = Follower::make(task_.files, follow_options(options_), snapshot, former_ ? &*former_ : nullptr);
    }
    auto serving = serve_all(first_catalog(snapshot), engine);
    adopt_warm(*engine);
    // A former process may have given the kernel nodes of versions that are not listed any more.
    const auto first = former_ ? serve_all(served(snapshot, *former_), engine) : serving;
    auto owned_report = std::make_unique<MountReport>(serving, task_.files);
    report_ = owned_report.get();
    VfsOptions vfs_options{::getuid(), ::getgid()};
    if (options_.follow.on) vfs_options.pin_grace = in_milliseconds(options_.follow.pin_grace);
    vfs_options.inherited = former_.has_value();
    if (supervision_ != nullptr) vfs_options.keeper = supervision_->keeper();
    vfs_ = std::make_shared<Vfs>(TRY(table_of(*first)), engine_reader(first->versions), std::move(owned_report),
                                 vfs_options);
    if (!former_) return {};
    left_ = vfs_->show(TRY(table_of(*serving)), engine_reader(serving->versions));
    vfs_->restore_pins(take_kept(supervision_->orders().kept, "pin/"));
    return {};
  }

  static Result<NodeTable> table_of(const Serving& serving) { return NodeTable::build(tree_contents(serving.catalog)); }

  Catalog first_catalog(const std::shared_ptr<const Snapshot>& snapshot) {
    // What is pinned stays as it is now; whoever follows looks again which pins are left.
    if (follower_) return follower_->catalog(former_ ? identities(former_->shown) : std::vector<uint64_t>());
    return former_ ? resumed(snapshot, *former_) : Catalog(snapshot);
  }

  void adopt_warm(Engine& engine) const {
    if (supervision_ == nullptr) return;
    engine.adopt_warm(take_kept(supervision_->orders().kept, "warm/"));
  }

  Status open_folding() {
    auto cache = TRY(open_cache(task_));
    if (!cache) return {};
    folding_ = std::make_unique<Folding>(*std::move(cache), [report = report_] { return report->serving(); });
    report_->set_folding([this] { return folding_->state(); });
    return {};
  }

  Status open_session() {
    const SessionOptions session = session_options(options_, task_.mount_point);
    session_ = supervision_ == nullptr
                   ? TRY(Session::mount(vfs_, session))
                   : TRY(Session::attach(vfs_, session, supervision_->shared_link(), supervision_->orders()));
    return {};
  }

  void follow() {
    FollowingOptions following{
        in_milliseconds(options_.follow.poll),          options_.follow.warm, options_.follow.on_advance,
        in_milliseconds(options_.follow.advance_limit), task_.mount_point,    options_.verify};
    if (former_) following.verified = former_->verified;
    following.advanced = former_advance_;
    following.left_hook = left_hook_;
    Following::Actions actions;
    actions.show = [this](const std::shared_ptr<const Serving>& serving, const ShownState& state) {
      show(serving, state);
    };
    actions.pinned = [this] { return vfs_->pinned(); };
    actions.tidy = [this] { session_->names_left(vfs_->tidy()); };
    actions.open = [this] { return vfs_->gone(); };
    actions.pins = [this] { return vfs_->pinned_trees(); };
    if (metrics_) actions.moved = [this] { metrics_->poke(); };
    if (supervision_ != nullptr) {
      actions.advanced = [this](uint64_t identity) { keep_advance(*supervision_->keeper(), identity); };
      actions.hook_started = [this](pid_t process, int handle) { keep_hook(*supervision_->keeper(), process, handle); };
    }
    following_ = std::make_unique<Following>(std::move(follower_), follow_options(options_).keep, report_->serving(),
                                             std::move(following), std::move(actions));
    report_->set_follow([this] { return following_->state(); });
  }

  void show(const std::shared_ptr<const Serving>& serving, const ShownState& state) {
    auto table = table_of(*serving);
    if (!table) return log::write(log::Level::kError, "follow.not_shown", table.error().text());
    keep(state);  // first: what somebody has seen, a successor must show
    report_->set_serving(serving);
    if (folding_) folding_->poke();
    session_->root_changed(vfs_->show(*std::move(table), engine_reader(serving->versions)));
  }

  /// What has left the list is served on while somebody may have it open.
  void keep(ShownState state) {
    if (supervision_ == nullptr) return;
    for (const uint64_t identity : vfs_->gone()) state.served.insert(identity);
    for (const auto& shown : report_->serving()->catalog.shown()) {  // some leave now
      if (!state.shown.contains(shown.version().identity)) state.served.insert(shown.version().identity);
    }
    keep_state(*supervision_->keeper(), state);
  }

  void on_ready() {
    const auto first = report_->serving();
    const auto facts = facts_of(options_, first->catalog, task_.mount_point, session_->negotiated(), supervision_);
    report_->set_facts(facts, *session_);
    if (supervision_ != nullptr) report_->set_supervisor([this] { return supervision_->link().is_alive(); });
    const std::string line = announce(first->catalog, facts);
    if (metrics_) metrics_->start([this] { return metrics_text(report_->metrics()); });
    if (supervision_ != nullptr) serve_supervised(first->catalog, line);
    if (following_) following_->start();
    if (folding_) folding_->start();
    if (!task_.notice.send()) ::kill(::getpid(), SIGTERM);
  }

  void serve_supervised(const Catalog& catalog, const std::string& line) {
    keep(following_ ? following_->shown_state() : state_of(catalog));
    // The process before us may not have come to telling the kernel; not on this thread, which serves.
    supervision_->beat([this] { session_->root_changed(left_); },
                       [this] { return work_done(report_->serving()->engine().status()); });
    supervision_->link().ready(line);
    if (!options_.foreground) close_standard_streams();
  }

  static uint64_t work_done(const EngineStatus& status) {
    return status.blocks_decoded + status.segments_decoded + status.tensors_verified + status.bytes_served;
  }

  const MountTask& task_;
  const MountOptions& options_;
  Supervision* const supervision_;
  std::optional<ShownState> former_;
  std::optional<uint64_t> former_advance_;
  std::shared_ptr<const LeftHook> left_hook_;
  std::vector<LeftName> left_;          // names that the kernel may know and that are not listed any more
  std::unique_ptr<Follower> follower_;  // until following_ has it
  MountReport* report_ = nullptr;       // vfs_ owns it
  std::shared_ptr<Vfs> vfs_;
  std::unique_ptr<MetricsExport> metrics_;  // longer than `following_`, which tells it of moves
  std::unique_ptr<Folding> folding_;
  std::unique_ptr<Session> session_;
  std::unique_ptr<Following> following_;
};

}  // namespace

/// Absolute and free of links where it exists; as it is otherwise, so that whoever opens it says why not.
std::string real_or_same(const std::string& path) {
  std::error_code error;
  const auto real = path.empty() ? std::filesystem::path() : std::filesystem::canonical(path, error);
  return error || real.empty() ? path : real.string();
}

Status serve(const MountTask& task, std::shared_ptr<const Snapshot> snapshot) {
  return MountProcess(task).run(std::move(snapshot));
}

}  // namespace weightfs::cli
