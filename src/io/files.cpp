// SPDX-License-Identifier: Apache-2.0
// Regular files read with pread.  Sources are untrusted and may change under us, so two things must
// stay true: a read gives every byte of the file that was opened or an error, and a descriptor is
// never closed while a read uses it.  Lock order: Shared::mutex_, then FileSource::mutex_.
#include "io/files.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <list>
#include <unordered_map>
#include <utility>

#include "common/text.h"

namespace weightfs {

struct FileSource::Descriptor {
  explicit Descriptor(int number) : fd(number) {}
  ~Descriptor() { ::close(fd); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  const int fd;
};

/// The open descriptors of all sources in clock order, and the counters.  Thread-safe.
class Files::Shared {
 public:
  using Descriptor = FileSource::Descriptor;
  struct Opened {
    std::shared_ptr<const Descriptor> descriptor;
    FileIdentity identity;
  };

  explicit Shared(size_t limit) : limit_(std::max<size_t>(limit, 1)) {}

  Result<Opened> open(const std::string& path);
  /// The descriptor of a source, opened again if it was closed meanwhile.
  Result<std::shared_ptr<const Descriptor>> acquire(const FileSource& source);
  /// Gives a source its open descriptor, and closes others if there are too many.
  std::shared_ptr<const Descriptor> adopt(const FileSource& source, std::shared_ptr<const Descriptor> descriptor);
  void forget(const FileSource& source);

  IoCounters counters;

 private:
  Result<std::shared_ptr<const Descriptor>> reopen(const FileSource& source);
  void close_down_to(size_t count);

  const size_t limit_;
  std::mutex mutex_;
  std::list<const FileSource*> clock_;  // sources with an open descriptor; the front is the next to be closed
  std::unordered_map<const FileSource*, std::list<const FileSource*>::iterator> places_;
};

namespace {

constexpr int kOpenFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;

std::string system_message(int error) { return std::strerror(error); }

Error changed(const std::string& path, const std::string& what) {
  return {
      ErrorCode::kIoChanged,
      fmt::format("{} {} after it was opened; published files must not be touched while mounted", quote(path), what)};
}

std::string difference(const FileIdentity& before, const FileIdentity& now) {
  if (now.device != before.device || now.inode != before.inode) return "was replaced by another file";
  if (now.size < before.size) return fmt::format("was truncated from {} to {} bytes", before.size, now.size);
  if (now.size > before.size) return fmt::format("grew from {} to {} bytes", before.size, now.size);
  return "was modified";
}

Status check_same(const std::string& path, const FileIdentity& before, const FileIdentity& now) {
  if (now == before) return {};
  return changed(path, difference(before, now));
}

Error read_failed(const std::string& path, uint64_t offset, int error) {
  return {ErrorCode::kIoRead,
          fmt::format("cannot read {} at offset {}: {}", quote(path), offset, system_message(error))};
}

std::atomic<int> reads_under_way{0};

class UnderWay {
 public:
  UnderWay() { reads_under_way.fetch_add(1, std::memory_order_relaxed); }
  ~UnderWay() { reads_under_way.fetch_sub(1, std::memory_order_relaxed); }
  UnderWay(const UnderWay&) = delete;
  UnderWay& operator=(const UnderWay&) = delete;
};

// Fills `out`, or stops early at the end of the file; the count says which.
Result<size_t> pread_fully(int fd, const std::string& path, uint64_t offset, MutableBytes out) {
  const UnderWay here;
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t count = ::pread(fd, out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return read_failed(path, offset + done, errno);
    if (count == 0) break;
    done += static_cast<size_t>(count);
  }
  return done;
}

void count_read(IoCounters& counters, uint64_t data_start, uint64_t offset, uint64_t length) {
  const uint64_t header = offset >= data_start ? 0 : std::min(length, data_start - offset);
  counters.reads.fetch_add(1, std::memory_order_relaxed);
  if (header != 0) counters.header_bytes.fetch_add(header, std::memory_order_relaxed);
  if (header != length) counters.tensor_bytes.fetch_add(length - header, std::memory_order_relaxed);
}

}  // namespace

bool waits_for_files() { return reads_under_way.load(std::memory_order_relaxed) > 0; }

FileIdentity identity_of(const struct stat& status) {
  return {static_cast<uint64_t>(status.st_dev), static_cast<uint64_t>(status.st_ino),
          static_cast<uint64_t>(status.st_size),
          int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + int64_t{status.st_mtim.tv_nsec}};
}

Result<Files::Shared::Opened> Files::Shared::open(const std::string& path) {
  int fd = ::open(path.c_str(), kOpenFlags);
  if (fd < 0 && (errno == EMFILE || errno == ENFILE)) {
    const std::scoped_lock lock(mutex_);
    close_down_to(clock_.size() / 2);  // others in this process use descriptors too
    fd = ::open(path.c_str(), kOpenFlags);
  }
  const Error not_a_file{ErrorCode::kIoNotAFile, fmt::format("{} is not a regular file", quote(path))};
  if (fd < 0 && errno == ENXIO) return not_a_file;  // a socket
  if (fd < 0) return Error{ErrorCode::kIoOpen, fmt::format("cannot open {}: {}", quote(path), system_message(errno))};
  auto descriptor = std::make_shared<const Descriptor>(fd);
  struct stat status {};
  if (::fstat(fd, &status) != 0) return read_failed(path, 0, errno);
  if (!S_ISREG(status.st_mode)) return not_a_file;
  return Opened{std::move(descriptor), identity_of(status)};
}

Result<std::shared_ptr<const FileSource::Descriptor>> Files::Shared::acquire(const FileSource& source) {
  {
    const std::scoped_lock lock(source.mutex_);
    if (source.descriptor_) {
      // Written only when it changes anything: many readers share the cache line.
      if (!source.used_lately_.load(std::memory_order_relaxed)) source.used_lately_.store(true);
      return source.descriptor_;
    }
  }
  return adopt(source, TRY(reopen(source)));
}

Result<std::shared_ptr<const FileSource::Descriptor>> Files::Shared::reopen(const FileSource& source) {
  auto opened = open(source.path_);
  if (!opened) {
    struct stat status {};
    const bool gone = ::stat(source.path_.c_str(), &status) != 0 && (errno == ENOENT || errno == ENOTDIR);
    if (gone) return changed(source.path_, "was removed");
    if (opened.error().code == ErrorCode::kIoNotAFile) return changed(source.path_, "was replaced by something else");
    return opened.error();
  }
  TRY(check_same(source.path_, source.identity_, opened->identity));
  return opened->descriptor;
}

std::shared_ptr<const FileSource::Descriptor> Files::Shared::adopt(const FileSource& source,
                                                                   std::shared_ptr<const Descriptor> descriptor) {
  const std::scoped_lock lock(mutex_);
  {
    const std::scoped_lock source_lock(source.mutex_);
    if (source.descriptor_) return source.descriptor_;  // another thread was faster
  }
  close_down_to(limit_ - 1);
  places_[&source] = clock_.insert(clock_.end(), &source);
  const std::scoped_lock source_lock(source.mutex_);
  source.descriptor_ = descriptor;
  return descriptor;
}

// Needs mutex_.  Ends: each turn closes one or takes away one second chance, and readers that give
// it back meanwhile are passed over at most once per call.
void Files::Shared::close_down_to(size_t count) {
  size_t chances = clock_.size();
  while (clock_.size() > count) {
    const FileSource* const source = clock_.front();
    if (source->used_lately_.exchange(false) && chances > 0) {
      --chances;
      clock_.splice(clock_.end(), clock_, clock_.begin());
      continue;
    }
    places_.erase(source);
    clock_.pop_front();
    const std::scoped_lock source_lock(source->mutex_);
    source->descriptor_.reset();
  }
}

void Files::Shared::forget(const FileSource& source) {
  const std::scoped_lock lock(mutex_);
  const auto place = places_.find(&source);
  if (place == places_.end()) return;
  clock_.erase(place->second);
  places_.erase(place);
}

Files::Files(size_t max_open_descriptors) : shared_(std::make_shared<Shared>(max_open_descriptors)) {}

Result<std::shared_ptr<FileSource>> Files::open(const std::string& path) const {
  // The kernel would stop at a NUL and open another file than the one named.
  if (path.find('\0') != std::string::npos) {
    return Error{ErrorCode::kIoOpen, fmt::format("cannot open {}: the name contains NUL", quote(path))};
  }
  const auto opened = TRY(shared_->open(path));
  auto source = std::make_shared<FileSource>(shared_, path, opened.identity);
  shared_->adopt(*source, opened.descriptor);
  return source;
}

Result<std::string> Files::read_all(const std::string& path, uint64_t limit) const {
  const auto source = TRY(open(path));
  if (source->size() > limit) {
    return Error{ErrorCode::kIoRead, fmt::format("{} has {} bytes; at most {} are read from such a file", quote(path),
                                                 source->size(), limit)};
  }
  std::string text(source->size(), '\0');
  TRY(source->read_at(0, std::as_writable_bytes(std::span(text))));
  return text;
}

const IoCounters& Files::counters() const { return shared_->counters; }

size_t Files::default_descriptor_limit() {
  constexpr size_t kAtLeast = 16;
  constexpr size_t kAtMost = 4096;
  struct rlimit limit {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return kAtLeast;
  if (limit.rlim_cur < limit.rlim_max) {
    const rlim_t soft = std::exchange(limit.rlim_cur, limit.rlim_max);
    if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) limit.rlim_cur = soft;
  }
  return std::clamp<size_t>(limit.rlim_cur / 2, kAtLeast, kAtMost);
}

FileSource::FileSource(std::shared_ptr<Files::Shared> shared, std::string path, FileIdentity identity)
    : shared_(std::move(shared)), path_(std::move(path)), identity_(identity) {}

FileSource::~FileSource() { shared_->forget(*this); }

Status FileSource::read_at(uint64_t offset, MutableBytes out) const {
  if (offset > size() || out.size() > size() - offset) {
    return Error{ErrorCode::kIoTruncated, fmt::format("{}: {} bytes at offset {} are beyond its end at {}",
                                                      quote(path_), out.size(), offset, size())};
  }
  if (out.empty()) return {};
  const auto descriptor = TRY(shared_->acquire(*this));
  const size_t count = TRY(pread_fully(descriptor->fd, path_, offset, out));
  // After the read: a change before or during it shows, one later cannot have touched these bytes.
  struct stat status {};
  if (::fstat(descriptor->fd, &status) != 0) return read_failed(path_, offset, errno);
  TRY(check_same(path_, identity_, identity_of(status)));
  if (count < out.size()) {
    return changed(path_,
                   fmt::format("ended early at byte {}, although its size is still {},", offset + count, size()));
  }
  count_read(shared_->counters, data_start_.load(std::memory_order_relaxed), offset, out.size());
  return {};
}

Result<LentFile> FileSource::lend() const {
  const auto descriptor = TRY(shared_->acquire(*this));
  struct stat status {};
  if (::fstat(descriptor->fd, &status) != 0) return read_failed(path_, 0, errno);
  TRY(check_same(path_, identity_, identity_of(status)));
  return LentFile(descriptor, &descriptor->fd);
}

Status FileSource::check_path() const {
  struct stat status {};
  if (::stat(path_.c_str(), &status) != 0) {
    if (errno == ENOENT || errno == ENOTDIR) return {};
    return Error{ErrorCode::kIoOpen, fmt::format("cannot look at {}: {}", quote(path_), system_message(errno))};
  }
  return check_same(path_, identity_, identity_of(status));
}

}  // namespace weightfs
