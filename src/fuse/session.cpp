// SPDX-License-Identifier: Apache-2.0
// One mount from mount(2) to unmount.  The session runs over libfuse's custom I/O: every request and every
// reply passes through io_read and io_writev below, which is how we see the answer to INIT leave.
// What must stay true: we never touch our own mount (it would wait for us), and an unmounted name is
// only ever the one that we mounted.
#include "fuse/session.h"

#include <linux/fuse.h>
#include <pthread.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <span>
#include <thread>

#include "attach/init_request.h"
#include "attach/kernel_mount.h"
#include "attach/mount_point.h"
#include "attach/read_ahead.h"
#include "common/log.h"
#include "common/text.h"
#include "fuse/attachment.h"
#include "fuse/ops.h"

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

struct Session::Impl : OpsContext {
  explicit Impl(std::shared_ptr<SupervisorLink> supervisor = nullptr)
      : OpsContext(supervisor), link(std::move(supervisor)) {}

  const std::shared_ptr<SupervisorLink> link;  // null: the mount is ours
  SessionOptions options;
  std::string mount_id;
  fuse_session* session = nullptr;
  std::unique_ptr<Attachment> attachment;  // where there is a link
  std::function<void()> on_ready;
  std::atomic<uint64_t> init_request{0};  // its id, between its arrival and our answer
  std::atomic<bool> passthrough_offered{false};

  std::mutex life;
  std::condition_variable finished;
  bool serving = false;
  bool served = false;
  pthread_t server{};

  ~Impl() {
    if (session == nullptr) return;
    if (!attachment) take_down();
    fuse_session_destroy(session);  // closes the device, which ends the connection if it is the last one
  }

  bool still_mounted() const {
    const auto mounts = read_mount_info();
    const auto* mount = mounts ? find_mount(*mounts, options.mount_point) : nullptr;
    return mount != nullptr && mount->fs_type == kFsType && mount->device == mount_id;
  }

  /// Unmounts; files that are open keep the connection alive.
  void take_down() const {
    if (link && link->unmount()) return;
    if (mount_id.empty() || !still_mounted()) return;
    auto status = kernel_unmount(options.mount_point, Unmount::kPlain);
    if (!status && status.error().code == ErrorCode::kMountBusy) {
      log::event(log::Level::kInfo, "mount.draining", "{}: files are open", quote(options.mount_point));
      status = kernel_unmount(options.mount_point, Unmount::kDetach);
    }
    if (!status) log::write(log::Level::kError, "mount.unmount_failed", status.error().text());
  }

  Status open_session(Descriptor device);
  void watch_streams();
  StreamAhead::Limits stream_limits() const;
  bool store(NodeId node, uint64_t offset, Bytes bytes);
  int loop();
  void got_init(std::span<const std::byte> message, uint64_t id);
  ssize_t read_request(int fd, std::span<std::byte> buffer);
  ssize_t send_init_reply(int fd, iovec* parts, int count);
  ssize_t send(int fd, std::span<const iovec> parts);
  bool agree_on_passthrough(std::span<std::byte> reply);
  void kernel_is_ready(int fd, bool use_passthrough);
  Passthrough::Kernel backing_of(int fd) const;
  ReadAhead ask_for_read_ahead() const;

  static Impl& of(void* userdata) { return *static_cast<Impl*>(static_cast<OpsContext*>(userdata)); }
  static ssize_t io_read(int fd, void* buffer, size_t length, void* userdata);
  static ssize_t io_writev(int fd, iovec* parts, int count, void* userdata);
};

// libfuse cancels its threads while they wait in here: nothing may be owned across the read.
ssize_t Session::Impl::io_read(int fd, void* buffer, size_t length, void* userdata) {
  Impl& self = of(userdata);
  const std::span room(static_cast<std::byte*>(buffer), length);
  const ssize_t got = self.read_request(fd, room);
  fuse_in_header header;
  if (got < static_cast<ssize_t>(sizeof header)) return got;
  std::memcpy(&header, buffer, sizeof header);
  if (header.opcode == FUSE_INIT) self.got_init(room.first(static_cast<size_t>(got)), header.unique);
  return got;
}

/// The next request that is to be served.
ssize_t Session::Impl::read_request(int fd, std::span<std::byte> buffer) {
  if (attachment) {
    attachment->guard().idle();
    if (const auto first = attachment->first_message(buffer)) return static_cast<ssize_t>(*first);
  }
  for (;;) {
    const ssize_t got = ::read(fd, buffer.data(), buffer.size());
    // The kernel says so to a thread that was just taking a request when the last user let go of the
    // mount: an end like ENODEV, which libfuse takes for one.
    if (got < 0 && errno == ECONNABORTED) errno = ENODEV;
    fuse_in_header header;
    if (!attachment || got < static_cast<ssize_t>(sizeof header)) return got;
    std::memcpy(&header, buffer.data(), sizeof header);
    if (attachment->guard().taken(header, buffer.first(static_cast<size_t>(got)))) return got;
    const fuse_out_header refusal{sizeof refusal, -EIO, header.unique};
    if (::write(fd, &refusal, sizeof refusal) < 0) continue;  // it was interrupted, or wants no answer
  }
}

void Session::Impl::got_init(std::span<const std::byte> message, uint64_t id) {
  passthrough_offered.store(kernel_offers(message.subspan(sizeof(fuse_in_header))).passthrough);
  init_request.store(id);
}

ssize_t Session::Impl::io_writev(int fd, iovec* parts, int count, void* userdata) {
  Impl& self = of(userdata);
  const std::span reply(parts, static_cast<size_t>(count));
  const uint64_t init = self.init_request.load(std::memory_order_relaxed);
  if (init == 0 || count < 2 || parts[0].iov_len < sizeof(fuse_out_header)) return self.send(fd, reply);
  fuse_out_header header;
  std::memcpy(&header, parts[0].iov_base, sizeof header);
  if (header.unique != init || header.error != 0) return self.send(fd, reply);
  return self.send_init_reply(fd, parts, count);
}

ssize_t Session::Impl::send(int fd, std::span<const iovec> parts) {
  fuse_out_header header{};
  if (attachment && !parts.empty() && parts[0].iov_len >= sizeof header) {
    std::memcpy(&header, parts[0].iov_base, sizeof header);
  }
  const ssize_t sent = ::writev(fd, parts.data(), static_cast<int>(parts.size()));
  if (header.unique != 0) attachment->guard().answered(header.unique);
  return sent;
}

ssize_t Session::Impl::send_init_reply(int fd, iovec* parts, int count) {
  const std::span reply(static_cast<std::byte*>(parts[1].iov_base), parts[1].iov_len);
  const std::span all(parts, static_cast<size_t>(count));
  const bool use_passthrough = agree_on_passthrough(reply);
  ssize_t sent = 0;
  for (const iovec& part : all) sent += static_cast<ssize_t>(part.iov_len);
  if (!attachment) {
    sent = ::writev(fd, parts, count);
  } else if (!attachment->answer(fd, all)) {
    fuse_session_exit(session);
    return sent;
  }
  if (sent < 0 || reply.size() < 2 * sizeof(uint32_t)) return sent;
  init_request.store(0);
  uint32_t version[2];  // fuse_init_out begins with the protocol that both sides speak
  std::memcpy(version, reply.data(), sizeof version);
  {
    const std::lock_guard lock(mutex);
    negotiated.protocol_major = version[0];
    negotiated.protocol_minor = std::min(version[1], negotiated.protocol_minor);
  }
  kernel_is_ready(fd, use_passthrough);
  if (on_ready) on_ready();
  // Last: a successor's readers wait already, and must not find it half made.
  if (attachment) attachment->open(fd);
  return sent;
}

bool Session::Impl::agree_on_passthrough(std::span<std::byte> reply) {
  if (!options.passthrough) {
    passthrough.set_off("switched off (--passthrough=off)");
  } else if (!passthrough_offered.load()) {
    passthrough.set_off("this kernel does not offer it (Linux 6.9 and later do)");
  } else if (ask_for_passthrough(reply)) {
    return true;
  }
  return false;
}

/// The connection works, and nobody has been told yet that it does.
void Session::Impl::kernel_is_ready(int fd, bool use_passthrough) {
  if (use_passthrough) passthrough.start(backing_of(fd), vfs->lend_any());
  const ReadAhead ahead = ask_for_read_ahead();
  if (!ahead.problem.empty()) log::write(log::Level::kInfo, "mount.read_ahead", ahead.problem);
  {
    const std::lock_guard lock(mutex);
    negotiated.read_ahead = ahead.bytes;
    negotiated.read_ahead_problem = ahead.problem;
  }
}

/// What takes privileges, a supervisor does for us.
Passthrough::Kernel Session::Impl::backing_of(int fd) const {
  if (!link) return Passthrough::kernel_of(fd);
  return {[this](int file) { return link->open_backing(file); }, [this](int id) { link->close_backing(id); }};
}

ReadAhead Session::Impl::ask_for_read_ahead() const {
  if (!link) return set_read_ahead(mount_id, options.read_ahead);
  return link->set_read_ahead(options.read_ahead);
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

int Session::Impl::loop() {
  fuse_loop_config* config = fuse_loop_cfg_create();
  const unsigned threads = options.threads != 0 ? options.threads : serving_threads();
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

void Session::root_changed(const std::vector<std::string>& names) {
  fuse_session* const session = impl_->session;
  // What the kernel does not know it need not forget: failures mean nothing here.
  for (const std::string& name : names) {
    fuse_lowlevel_notify_inval_entry(session, FUSE_ROOT_ID, name.c_str(), name.size());
  }
  constexpr off_t kAttributesOnly = -1;
  for (const NodeId node : {NodeTable::kRootId, NodeTable::kControlVersionsId}) {
    fuse_lowlevel_notify_inval_inode(session, node, kAttributesOnly, 0);
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
