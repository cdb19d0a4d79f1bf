// SPDX-License-Identifier: Apache-2.0
// Memory with a descriptor.  Its two uses ask for two things that plain memfds lack: huge pages without a
// global switch, which a tmpfs mounted by us has, and a proof that nobody reads it any more.
#include "io/memory_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "common/detached_tmpfs.h"

namespace weightfs {
namespace {

/// Opened anew, because the kernel does not count the opening that memfd_create() itself makes as one for
/// writing, and unused() rests on that count.
Descriptor countable_memfd() {
  Descriptor made(::memfd_create("weightfs", MFD_CLOEXEC));
  if (!made) return {};
  return Descriptor(::open(fmt::format("/proc/self/fd/{}", made.get()).c_str(), O_RDWR | O_CLOEXEC));
}

Error cannot_make(uint64_t size, int error) {
  return {ErrorCode::kIoOpen,
          fmt::format("cannot get {} bytes of memory that has a descriptor: {}", size, std::strerror(error))};
}

Result<std::unique_ptr<MemoryFile>> map(Descriptor fd, uint64_t size) {
  void* const at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (at == MAP_FAILED) return cannot_make(size, errno);
  ::madvise(at, size, MADV_HUGEPAGE);
  const auto close = [](const int* owned) {
    ::close(*owned);
    delete owned;
  };
  LentFile file(new int(fd.release()), close);
  return std::make_unique<MemoryFile>(std::move(file), MutableBytes(static_cast<std::byte*>(at), size));
}

}  // namespace

MemoryFile::~MemoryFile() { ::munmap(mapping_.data(), mapping_.size()); }

// The kernel grants a lease for writing exactly when nothing but our own descriptor has the file open; a
// mapping keeps what it maps open.
bool MemoryFile::unused() const {
  if (::fcntl(*file_, F_SETLEASE, F_WRLCK) != 0) return false;
  ::fcntl(*file_, F_SETLEASE, F_UNLCK);
  return true;
}

MemoryFiles::MemoryFiles(Descriptor tmpfs) : tmpfs_(tmpfs ? std::move(tmpfs) : detached_tmpfs()) {}

Descriptor MemoryFiles::open_unnamed() const {
  if (!tmpfs_) return countable_memfd();
  return Descriptor(::openat(tmpfs_.get(), ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
}

Result<std::unique_ptr<MemoryFile>> MemoryFiles::make(uint64_t size) const {
  Descriptor fd = open_unnamed();
  if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) return cannot_make(size, errno);
  return map(std::move(fd), size);
}

Result<std::unique_ptr<MemoryFile>> MemoryFiles::adopt(Descriptor file, uint64_t size) {
  struct stat status {};
  const int flags = file ? ::fcntl(file.get(), F_GETFL) : -1;
  if (flags < 0 || ::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode) || (flags & O_ACCMODE) != O_RDWR ||
      size == 0 || static_cast<uint64_t>(status.st_size) != size) {
    return Error{ErrorCode::kIoOpen, fmt::format("no file for reading and writing that has {} bytes was left", size)};
  }
  // Should its maker have ended inside of unused(): a lease lives as long as what was opened.
  ::fcntl(file.get(), F_SETLEASE, F_UNLCK);
  return map(std::move(file), size);
}

std::string MemoryFiles::pages() const {
  if (tmpfs_) return "huge";
  std::string setting;
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
  std::getline(file, setting);
  const auto is = [&](const char* value) { return setting.find(value) != std::string::npos; };
  return setting.empty() || is("[never]") || is("[deny]") ? "4K" : "huge";
}

}  // namespace weightfs
