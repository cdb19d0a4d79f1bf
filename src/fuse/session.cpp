// SPDX-License-Identifier: Apache-2.0
// One mount from mount(2) to unmount; session_io.cpp has what is said in between.  What must stay true: we never touch
// our own mount (it would wait for us), and an unmounted name is only ever the one that we mounted.
#include "fuse/session.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <thread>

#include "attach/kernel_mount.h"
#include "attach/mount_point.h"
#include "common/log.h"
#include "common/text.h"
#include "fuse/session_impl.h"

namespace weightfs {

namespace {

/// Interrupts the serving thread's wait; ignored by default, so a late one does no harm.
constexpr int kWakeSignal = SIGURG;
constexpr unsigned kMaxStreamThreads = 8;  // the kernel's page cache is the limit soon

void log_from_libfuse(fuse_log_level level, const char* format, va_list arguments) {
  char line[512];
  std::vsnprintf(line, sizeof line, format, arguments);
  const size_t length = std::strcspn(line, "\n");
  log::write(level <= FUSE_LOG_ERR ? log::Level::kError : log::Level::kInfo, "fuse.library", {line, length});
}

}  // namespace

Session::Impl::~Impl() {
  if (session == nullptr) return;
  if (!attachment) take_down();
  fuse_session_destroy(session);  // closes the device, which ends the connection if it is the last one
}

bool Session::Impl::still_mounted() const {
  const auto mounts = read_mount_info();
  const auto* mount = mounts ? find_mount(*mounts, options.mount_point) : nullptr;
  return mount != nullptr && mount->fs_type == kFsType && mount->device == mount_id;
}

void Session::Impl::take_down() const {
  if (link && link->unmount()) return;
  if (mount_id.empty() || !still_mounted()) return;
  auto status = kernel_unmount(options.mount_point, Unmount::kPlain);
  if (!status && status.error().code == ErrorCode::kMountBusy) {
    log::event(log::Level::kInfo, "mount.draining", "{}: files are open", quote(options.mount_point));
    status = kernel_unmount(options.mount_point, Unmount::kDetach);
  }
  if (!status) log::write(log::Level::kError, "mount.unmount_failed", status.error().text());
}

Status Session::Impl::open_session(Descriptor device) {
  fuse_set_log_func(log_from_libfuse);
  std::string program = "weightfs";
  std::string max_read = "-omax_read=" + std::to_string(kMaxRead);
  char* argv[] = {program.data(), max_read.data(), nullptr};
  fuse_args arguments = FUSE_ARGS_INIT(2, argv);
  session = fuse_session_new(&arguments, &operations(), sizeof(fuse_lowlevel_ops), static_cast<OpsContext*>(this));
  fuse_opt_free_args(&arguments);
  if (session == nullptr) return Error{ErrorCode::kMountFailed, "libfuse cannot start a session"};
  fuse_custom_io io{};
  io.read = io_read;
  io.writev = io_writev;
  if (const int error = fuse_session_custom_io(session, &io, device.get()); error != 0) {
    return Error{ErrorCode::kMountFailed, "libfuse refuses our descriptor: " + std::string(std::strerror(-error))};
  }
  device.release();  // the session closes it
  return {};
}

void Session::Impl::watch_streams() {
  StreamAhead::Actions actions;
  actions.read = [this](NodeId node, uint64_t offset, MutableBytes out) {
    const auto count = vfs->read(node, 0, offset, out);
    return count ? count->value() : 0;
  };
  actions.store = [this](NodeId node, uint64_t offset, Bytes bytes) { return store(node, offset, bytes); };
  if (options.streams == StreamPolicy::kMemory) actions.found = [this](NodeId node) { return vfs->warm(node); };
  streams = std::make_unique<StreamAhead>(std::move(actions), stream_limits());
  if (options.streams == StreamPolicy::kWait) waiting_opens_allowed = request_threads() / 2;
}

/// Measured (docs/PERFORMANCE.md): with few processors, or several readers, the kernel's own read-ahead keeps all of
/// them busy, if it is far enough.
StreamAhead::Limits Session::Impl::stream_limits() const {
  if (options.streams == StreamPolicy::kOff) return {};
  const unsigned processors = std::max(1u, std::thread::hardware_concurrency());
  const bool read_ahead_is_short = options.read_ahead < (1u << 20) || ::geteuid() != 0;
  StreamAhead::Limits limits{std::min(processors, kMaxStreamThreads), processors / 8};
  if (options.stream_threads != 0) limits.workers = options.stream_threads;
  if (read_ahead_is_short || options.stream_threads != 0) limits.streams = std::max(1u, processors / 4);
  return limits;
}

bool Session::Impl::store(NodeId node, uint64_t offset, Bytes bytes) {
  fuse_bufvec buffer = FUSE_BUFVEC_INIT(bytes.size());
  buffer.buf[0].mem = const_cast<std::byte*>(bytes.data());  // NOLINT(cppcoreguidelines-pro-type-const-cast): only read
  return fuse_lowlevel_notify_store(session, node, static_cast<off_t>(offset), &buffer,
                                    static_cast<fuse_buf_copy_flags>(0)) == 0;
}

unsigned Session::Impl::request_threads() const { return options.threads != 0 ? options.threads : serving_threads(); }

int Session::Impl::loop() {
  fuse_loop_config* config = fuse_loop_cfg_create();
  const unsigned threads = request_threads();
  fuse_loop_cfg_set_max_threads(config, threads);
  fuse_loop_cfg_set_idle_threads(config, threads);
  const int result = fuse_session_loop_mt(session, config);
  fuse_loop_cfg_destroy(config);
  return result;
}

unsigned Session::serving_threads() { return std::max(16u, 2 * std::thread::hardware_concurrency()); }

uint64_t Session::reply_bytes(unsigned threads) { return uint64_t{threads} * kMaxRead; }

Session::Session(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Session::~Session() = default;

Result<std::unique_ptr<Session>> Session::mount(std::shared_ptr<Vfs> vfs, const SessionOptions& options) {
  auto impl = std::make_unique<Impl>();
  impl->vfs = std::move(vfs);
  impl->options = options;
  impl->watch_streams();
  auto mounted = TRY(kernel_mount({options.mount_point, options.source, options.allow_other}));
  impl->mount_id = mounted.id;
  impl->negotiated.mounted_by = mounted.via;
  const Status opened = impl->open_session(std::move(mounted.device));
  if (!opened) {
    impl->take_down();
    return opened.error();
  }
  return std::unique_ptr<Session>(new Session(std::move(impl)));
}

Result<std::unique_ptr<Session>> Session::attach(std::shared_ptr<Vfs> vfs, const SessionOptions& options,
                                                 std::shared_ptr<SupervisorLink> link, Orders& orders) {
  auto impl = std::make_unique<Impl>(link);
  impl->vfs = std::move(vfs);
  impl->options = options;
  impl->watch_streams();
  impl->mount_id = orders.mount_id;
  impl->negotiated.mounted_by = orders.mounted_by;
  const auto opens = take_kept(orders.kept, inherited::kOfConnection);
  const auto lend = [&](NodeId node) { return impl->vfs->lend(node); };
  if (!orders.init_reply.empty()) impl->passthrough.restore(opens, lend);
  impl->attachment = std::make_unique<Attachment>(*link, orders);
  RequestGuard::mark_crashes();
  TRY(impl->open_session(std::move(orders.device)));
  return std::unique_ptr<Session>(new Session(std::move(impl)));
}

Status Session::serve(const std::function<void()>& on_ready) {
  Impl& self = *impl_;
  std::atomic<bool> ready{false};
  struct sigaction wake {};
  struct sigaction before {};
  wake.sa_handler = [](int) {};
  ::sigaction(kWakeSignal, &wake, &before);  // without SA_RESTART: stop() must be able to end the wait
  {
    const std::lock_guard lock(self.life);
    self.on_ready = [&] {
      ready.store(true);
      if (on_ready) on_ready();
    };
    self.server = ::pthread_self();
    self.serving = true;
  }
  const int result = self.loop();
  self.streams->stop();
  {
    const std::lock_guard lock(self.life);
    self.serving = false;
    self.served = true;
    self.on_ready = nullptr;
  }
  self.finished.notify_all();
  ::sigaction(kWakeSignal, &before, nullptr);
  if (self.attachment && !self.attachment->problem().empty()) {
    return Error{ErrorCode::kMountFailed, self.attachment->problem()};
  }
  if (!ready.load()) return Error{ErrorCode::kMountFailed, "the mount ended before the kernel had accepted it"};
  if (result < 0) {
    return Error{ErrorCode::kMountFailed, "serving the mount failed: " + std::string(std::strerror(-result))};
  }
  return {};
}

void Session::stop(std::chrono::milliseconds patience) {
  Impl& self = *impl_;
  self.ending = true;
  // While requests are still answered: a worker may wait in the kernel for one that is.
  self.streams->stop();
  self.take_down();
  std::unique_lock lock(self.life);
  if (!self.serving) return;
  if (self.finished.wait_for(lock, patience, [&] { return self.served; })) return;
  log::event(log::Level::kWarn, "mount.readers_cut_off", "{}: files were still open", quote(self.options.mount_point));
  fuse_session_exit(self.session);
  // The serving thread may be just about to wait: repeat until it has noticed.
  do {
    ::pthread_kill(self.server, kWakeSignal);
  } while (!self.finished.wait_for(lock, std::chrono::milliseconds(20), [&] { return self.served; }));
}

void Session::names_left(const std::vector<LeftName>& names) {
  // What the kernel does not know it need not forget: failures mean nothing here.  It waits for lookups in the folder
  // that are under way; so an answer that is on its way does not bring the name back.
  for (const auto& [folder, name] : names) {
    fuse_lowlevel_notify_inval_entry(impl_->session, folder, name.c_str(), name.size());
  }
}

void Session::root_changed(const std::vector<LeftName>& names) {
  names_left(names);
  constexpr off_t kAttributesOnly = -1;
  for (const NodeId node : {NodeTable::kRootId, NodeTable::kControlVersionsId}) {
    fuse_lowlevel_notify_inval_inode(impl_->session, node, kAttributesOnly, 0);
  }
}

Negotiated Session::negotiated() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->negotiated;
}

PassthroughState Session::passthrough() const {
  const auto counts = impl_->passthrough.counts();
  return {impl_->passthrough.state(), counts.open_nodes, counts.refused};
}

StreamAhead::Counts Session::streams() const { return impl_->streams->counts(); }

TreesHeld Session::held() const { return impl_->vfs->held(); }

RequestCounts Session::requests() const {
  const RequestCounters& counters = impl_->requests;
  RequestCounts counts;
  std::copy(counters.operations.begin(), counters.operations.end(), counts.operations.begin());
  std::copy(counters.opens.begin(), counters.opens.end(), counts.opens.begin());
  counts.reads = counters.reads.counts();
  return counts;
}

uint64_t Session::internal_errors() const { return impl_->internal_errors.load(); }

}  // namespace weightfs
