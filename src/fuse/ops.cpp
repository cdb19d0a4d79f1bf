// SPDX-License-Identifier: Apache-2.0
// fuse_lowlevel_ops <-> vfs: each operation decodes its request, asks the tree, replies.  What must stay
// true: exactly one reply a request, as the last thing an operation does but for taking back an open; no
// exception reaches libfuse; a read is answered with all its bytes or with an errno.
//
// Left to libfuse's own answers on purpose: opendir and releasedir (nothing to do: handles hold no state); flush,
// access, lseek (ENOSYS once, then the kernel never asks again).
#include "fuse/ops.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "attach/kernel_mount.h"
#include "common/log.h"
#include "fuse/control.h"

namespace weightfs {
namespace {

constexpr double kForever = 1e9;  // seconds: nothing that carries it ever changes
constexpr size_t kMaxListing = 1u << 20;

constexpr struct {
  unsigned bit;
  const char* name;
} kWanted[] = {
    {FUSE_CAP_ASYNC_READ, "ASYNC_READ"},   {FUSE_CAP_PARALLEL_DIROPS, "PARALLEL_DIROPS"},
    {FUSE_CAP_READDIRPLUS, "READDIRPLUS"}, {FUSE_CAP_READDIRPLUS_AUTO, "READDIRPLUS_AUTO"},
    {FUSE_CAP_ASYNC_DIO, "ASYNC_DIO"},
};

OpsContext& context_of(fuse_req_t request) { return *static_cast<OpsContext*>(fuse_req_userdata(request)); }

std::string_view name_of(Operation operation) { return kOperationNames[static_cast<size_t>(operation)]; }

/// What `work` answers, an errno or 0; no exception leaves it.
template <class Work>
int contained(OpsContext& context, Operation what, Work&& work) {
  try {
    return work(*context.vfs);
  } catch (const std::bad_alloc&) {
    return ENOMEM;
  } catch (const std::exception& exception) {
    context.internal_errors.fetch_add(1);
    log::event(log::Level::kError, "fuse.internal_error", "{}: {}", name_of(what), exception.what());
  } catch (...) {
    context.internal_errors.fetch_add(1);
    log::event(log::Level::kError, "fuse.internal_error", "{}: unknown exception", name_of(what));
  }
  return EIO;
}

/// Runs an operation that replies itself and answers 0, or answers an errno to reply with.
template <class Work>
void guarded(fuse_req_t request, Operation what, Work&& work) {
  OpsContext& context = context_of(request);
  context.requests.count(what);
  const int error = contained(context, what, std::forward<Work>(work));
  if (error != 0) fuse_reply_err(request, error);
}

/// For when the request is answered already: nothing may lead to a second answer.
void take_back_open(OpsContext& context, NodeId id, uint64_t handle) {
  contained(context, Operation::kRelease, [&](Vfs&) {
    context.passthrough.release(id, handle);
    return 0;
  });
}

/// This thread's buffer of kMaxRead bytes: a read costs no allocation.
std::byte* read_buffer() {
  struct Free {
    void operator()(std::byte* buffer) const { std::free(buffer); }
  };
  thread_local std::unique_ptr<std::byte, Free> buffer;
  if (!buffer) buffer.reset(static_cast<std::byte*>(std::aligned_alloc(4096, kMaxRead)));
  if (!buffer) throw std::bad_alloc();
  return buffer.get();
}

double attribute_timeout(NodeId id) { return Vfs::is_volatile(id) ? 0 : kForever; }

fuse_entry_param entry_for(NodeId id, const struct stat& attributes) {
  fuse_entry_param entry{};
  entry.ino = id;
  entry.attr = attributes;
  entry.attr_timeout = attribute_timeout(id);
  entry.entry_timeout = kForever;
  return entry;
}

void on_init(void* userdata, fuse_conn_info* connection) {
  auto& context = *static_cast<OpsContext*>(userdata);
  const std::lock_guard lock(context.mutex);
  Negotiated& negotiated = context.negotiated;
  connection->max_read = negotiated.max_read = kMaxRead;  // must equal the mount option
  // Beyond the threshold the kernel stops reading ahead, in the middle of a window whose pages it has made already and
  // throws away: sixteen readers with 4 MiB each must stay below.
  connection->max_background = negotiated.max_background = 256;
  connection->congestion_threshold = negotiated.congestion_threshold = 192;
  negotiated.max_readahead = connection->max_readahead;
  negotiated.protocol_major = connection->proto_major;
  negotiated.protocol_minor = connection->proto_minor;
  // Assigned, not added: libfuse's defaults include AUTO_INVAL_DATA, and CACHE_SYMLINKS would freeze `latest`.
  connection->want = 0;
  for (const auto& capability : kWanted) {
    if ((connection->capable & capability.bit) == 0) continue;
    connection->want |= capability.bit;
    negotiated.capabilities.emplace_back(capability.name);
  }
}

void on_lookup(fuse_req_t request, fuse_ino_t parent, const char* name) {
  guarded(request, Operation::kLookup, [&](Vfs& vfs) {
    const auto id = vfs.lookup(parent, name);
    if (!id) return id.error();  // not cached: a version of that name may be published later
    const auto attributes = vfs.getattr(*id);
    if (!attributes) return attributes.error();
    const auto entry = entry_for(*id, *attributes);
    vfs.looked_up(*id);
    if (fuse_reply_entry(request, &entry) != 0) vfs.forget(*id, 1);  // the kernel does not know it
    return 0;
  });
}

void on_forget(fuse_req_t request, fuse_ino_t id, uint64_t times) {
  context_of(request).requests.count(Operation::kForget);
  context_of(request).vfs->forget(id, times);
  fuse_reply_none(request);
}

void on_forget_multi(fuse_req_t request, size_t count, fuse_forget_data* forgets) {
  context_of(request).requests.count(Operation::kForget);
  for (size_t i = 0; i < count; ++i) context_of(request).vfs->forget(forgets[i].ino, forgets[i].nlookup);
  fuse_reply_none(request);
}

void on_getattr(fuse_req_t request, fuse_ino_t id, fuse_file_info*) {
  guarded(request, Operation::kGetattr, [&](Vfs& vfs) {
    const auto attributes = vfs.getattr(id);
    if (!attributes) return attributes.error();
    fuse_reply_attr(request, &*attributes, attribute_timeout(id));
    return 0;
  });
}

void on_readlink(fuse_req_t request, fuse_ino_t id) {
  guarded(request, Operation::kReadlink, [&](Vfs& vfs) {
    const auto target = vfs.readlink(id, fuse_req_ctx(request)->pid);
    if (!target) return target.error();
    fuse_reply_readlink(request, target->c_str());
    return 0;
  });
}

/// Tells whoever watches for streams about an open whose reads come here.
void note_open(fuse_req_t request, const Vfs& vfs, fuse_ino_t id) {
  const auto attributes = vfs.getattr(id);
  if (attributes) context_of(request).streams->opened(id, static_cast<uint64_t>(attributes->st_size));
}

/// Has a file decoded into memory that is about to be opened, where that is wanted.  Only so many opens wait at a time
/// that threads are left for everybody else.
void prepare_open(fuse_req_t request, Vfs& vfs, fuse_ino_t id) {
  OpsContext& context = context_of(request);
  if (context.waiting_opens_allowed == 0 || context.passthrough.is_open(id)) return;
  struct Waiting {
    explicit Waiting(std::atomic<unsigned>& number) : all(number), before(number.fetch_add(1)) {}
    ~Waiting() { all.fetch_sub(1); }
    std::atomic<unsigned>& all;
    const unsigned before;
  } const waiting(context.waiting_opens);
  if (waiting.before >= context.waiting_opens_allowed) return;
  vfs.prepare(id, [request, &context] { return context.ending || fuse_req_interrupted(request) != 0; });
}

/// Opens a file of a version while passthrough is on; replies unless it answers an errno.
int open_by_kernel(fuse_req_t request, Vfs& vfs, fuse_ino_t id, fuse_file_info* file) {
  OpsContext& context = context_of(request);
  Passthrough& passthrough = context.passthrough;
  prepare_open(request, vfs, id);
  const auto opened = passthrough.open(id, vfs.lend(id));
  if (!opened) {
    log::event(log::Level::kError, "open.failed", "inode {}: {}", id, opened.error().text());
    return opened.error().posix();
  }
  file->fh = opened->handle;
  file->keep_cache = 1;
  context.requests.count(opened->backing_id == 0 ? OpenWay::kRequests : OpenWay::kPassthrough);
  if (opened->backing_id == 0) note_open(request, vfs, id);
  const auto reply = passthrough_reply(*opened);
  const int failed = opened->backing_id == 0
                         ? fuse_reply_open(request, file)
                         : fuse_reply_buf(request, reinterpret_cast<const char*>(&reply), sizeof reply);
  if (failed == 0) return 0;
  take_back_open(context, id, opened->handle);  // the kernel knows nothing of this open
  context.streams->closed(id);
  return 0;
}

void on_open(fuse_req_t request, fuse_ino_t id, fuse_file_info* file) {
  guarded(request, Operation::kOpen, [&](Vfs& vfs) {
    if ((file->flags & O_ACCMODE) != O_RDONLY || (file->flags & O_TRUNC) != 0) return EROFS;
    const auto opened = vfs.open(id, fuse_req_ctx(request)->pid);
    if (!opened) return opened.error();
    if (!opened->control && context_of(request).passthrough.on()) return open_by_kernel(request, vfs, id, file);
    context_of(request).requests.count(opened->control ? OpenWay::kControl : OpenWay::kRequests);
    if (!opened->control) note_open(request, vfs, id);
    file->fh = opened->handle;
    file->direct_io = opened->control ? 1 : 0;
    file->keep_cache = opened->control ? 0 : 1;
    fuse_reply_open(request, file);
    return 0;
  });
}

void on_read(fuse_req_t request, fuse_ino_t id, size_t size, off_t offset, fuse_file_info* file) {
  guarded(request, Operation::kRead, [&](Vfs& vfs) {
    // The mount option forbids larger ones; answering with less than asked is not an option.
    if (size > kMaxRead || offset < 0) return EINVAL;
    std::byte* buffer = read_buffer();
    const auto start = std::chrono::steady_clock::now();
    const auto count = vfs.read(id, file->fh, static_cast<uint64_t>(offset), {buffer, size});
    context_of(request).requests.reads.record(std::chrono::steady_clock::now() - start);
    if (!count) return count.error();
    // Who reads past the page cache gains nothing from what is put there.
    if ((file->flags & O_DIRECT) == 0) {
      context_of(request).streams->was_read(id, static_cast<uint64_t>(offset), count->value());
    }
    fuse_reply_buf(request, reinterpret_cast<const char*>(buffer), count->value());
    return 0;
  });
}

void on_release(fuse_req_t request, fuse_ino_t id, fuse_file_info* file) {
  OpsContext& context = context_of(request);  // the request is gone with its answer
  guarded(request, Operation::kRelease, [&](Vfs&) {
    context.streams->closed(id);
    fuse_reply_err(request, 0);
    return 0;
  });
  // Only now: a RELEASE without an answer comes again to the process that takes our place, which takes it off then.
  take_back_open(context, id, file->fh);
}

/// Commands to control files.  They work on a mount that is for reading only, and cost memory: so whoever mounted
/// it, or root, may give them.
void on_ioctl(fuse_req_t request, fuse_ino_t id, unsigned command, void*, fuse_file_info*, unsigned flags,
              const void* input, size_t input_size, size_t) {
  guarded(request, Operation::kIoctl, [&](Vfs& vfs) {
    WarmCommand wanted{};
    if ((flags & FUSE_IOCTL_DIR) != 0 || command != kWarmIoctl || input_size != sizeof wanted) return ENOTTY;
    const uid_t caller = fuse_req_ctx(request)->uid;
    if (caller != 0 && caller != ::geteuid()) return EPERM;
    std::memcpy(&wanted, input, sizeof wanted);
    if (const int error = vfs.control(id, wanted); error != 0) return error;
    fuse_reply_ioctl(request, 0, nullptr, 0);
    return 0;
  });
}

/// Answers a text: its size when nobody has room for it, ERANGE when there is too little.
int reply_text(fuse_req_t request, std::string_view text, size_t room) {
  if (room == 0) {
    fuse_reply_xattr(request, text.size());
    return 0;
  }
  if (text.size() > room) return ERANGE;
  fuse_reply_buf(request, text.data(), text.size());
  return 0;
}

void on_getxattr(fuse_req_t request, fuse_ino_t id, const char* name, size_t size) {
  guarded(request, Operation::kGetxattr, [&](Vfs& vfs) {
    const auto value = vfs.attribute(id, name);
    return value ? reply_text(request, *value, size) : value.error();
  });
}

void on_listxattr(fuse_req_t request, fuse_ino_t id, size_t size) {
  guarded(request, Operation::kListxattr, [&](Vfs& vfs) {
    const auto names = vfs.attribute_names(id);
    if (!names) return names.error();
    std::string list;
    for (const std::string& name : *names) list.append(name).push_back('\0');
    return reply_text(request, list, size);
  });
}

/// Adds one entry to `space` and answers the bytes that it takes; more than there are when it does not fit.
size_t add_plain(fuse_req_t request, Vfs&, const DirectoryEntry& entry, char* at, size_t space) {
  struct stat type {};
  type.st_ino = entry.id;
  type.st_mode = entry.type;
  return fuse_add_direntry(request, at, space, entry.name.data(), &type, static_cast<off_t>(entry.next_offset));
}

size_t add_plus(fuse_req_t request, Vfs& vfs, const DirectoryEntry& entry, char* at, size_t space) {
  const auto attributes = vfs.getattr(entry.id);
  if (!attributes) throw std::logic_error("a listed node has no attributes");
  auto param = entry_for(entry.id, *attributes);
  if (entry.name == "." || entry.name == "..") param.ino = 0;  // the kernel knows these already
  return fuse_add_direntry_plus(request, at, space, entry.name.data(), &param, static_cast<off_t>(entry.next_offset));
}

struct AddEntry {
  size_t (*add)(fuse_req_t, Vfs&, const DirectoryEntry&, char*, size_t);
  bool plus;  // the kernel knows the nodes from then on
};

void list(fuse_req_t request, Operation what, fuse_ino_t id, size_t size, off_t offset, AddEntry how) {
  guarded(request, what, [&](Vfs& vfs) {
    if (offset < 0) return EINVAL;
    std::string buffer(std::min(size, kMaxListing), '\0');
    size_t used = 0;
    std::vector<NodeId> known;
    const int error = vfs.readdir(id, static_cast<uint64_t>(offset), [&](const DirectoryEntry& entry) {
      const size_t space = buffer.size() - used;
      const size_t needed = how.add(request, vfs, entry, buffer.data() + used, space);
      if (needed > space) return false;
      used += needed;
      if (how.plus && entry.name != "." && entry.name != "..") known.push_back(entry.id);
      return true;
    });
    if (error != 0) return error;
    for (const NodeId node : known) vfs.looked_up(node);
    if (fuse_reply_buf(request, buffer.data(), used) == 0) return 0;
    for (const NodeId node : known) vfs.forget(node, 1);
    return 0;
  });
}

void on_readdir(fuse_req_t request, fuse_ino_t id, size_t size, off_t offset, fuse_file_info*) {
  list(request, Operation::kReaddir, id, size, offset, {add_plain, false});
}

void on_readdirplus(fuse_req_t request, fuse_ino_t id, size_t size, off_t offset, fuse_file_info*) {
  list(request, Operation::kReaddirplus, id, size, offset, {add_plus, true});
}

void on_statfs(fuse_req_t request, fuse_ino_t) {
  guarded(request, Operation::kStatfs, [&](Vfs& vfs) {
    const auto answer = vfs.statfs();
    fuse_reply_statfs(request, &answer);
    return 0;
  });
}

}  // namespace

const fuse_lowlevel_ops& operations() {
  static const fuse_lowlevel_ops table = [] {
    fuse_lowlevel_ops ops{};
    ops.init = on_init;
    ops.lookup = on_lookup;
    ops.forget = on_forget;
    ops.forget_multi = on_forget_multi;
    ops.getattr = on_getattr;
    ops.readlink = on_readlink;
    ops.open = on_open;
    ops.read = on_read;
    ops.release = on_release;
    ops.ioctl = on_ioctl;
    ops.getxattr = on_getxattr;
    ops.listxattr = on_listxattr;
    ops.readdir = on_readdir;
    ops.readdirplus = on_readdirplus;
    ops.statfs = on_statfs;
    return ops;
  }();
  return table;
}

}  // namespace weightfs
