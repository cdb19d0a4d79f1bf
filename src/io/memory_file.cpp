// SPDX-License-Identifier: Apache-2.0
// Memory with a descriptor.  Its two uses ask for two things that plain memfds lack: huge pages without a
// global switch, which a tmpfs mounted by us has, and a proof that nobody reads it any more.
#include "io/memory_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/mount.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "common/descriptor.h"

namespace weightfs {
namespace {

int system_call(long number, auto... arguments) { return static_cast<int>(::syscall(number, arguments...)); }

/// A tmpfs that is mounted nowhere; its root folder, or -1.
int detached_tmpfs() {
  Descriptor context(system_call(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC));
  if (!context) return -1;
  const auto set = [&](const char* key, const char* value) {
    return system_call(SYS_fsconfig, context.get(), FSCONFIG_SET_STRING, key, value, 0) == 0;
  };
  // The budget is what bounds it, not half of the machine's memory.
  if (!set("huge", "advise") || !set("size", "100%")) return -1;
  if (system_call(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) return -1;
  return system_call(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, 0);
}

/// Opened anew, because the kernel does not count the opening that memfd_create() itself makes as one for
/// writing, and unused() rests on that count.
int countable_memfd() {
  Descriptor made(::memfd_create("weightfs", MFD_CLOEXEC));
  if (!made) return -1;
  return ::open(fmt::format("/proc/self/fd/{}", made.get()).c_str(), O_RDWR | O_CLOEXEC);
}

Error cannot_make(uint64_t size, int error) {
  return {ErrorCode::kIoOpen,
          fmt::format("cannot get {} bytes of memory that has a descriptor: {}", size, std::strerror(error))};
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

MemoryFiles::MemoryFiles() : tmpfs_(detached_tmpfs()) {}

MemoryFiles::~MemoryFiles() {
  if (tmpfs_ >= 0) ::close(tmpfs_);
}

int MemoryFiles::open_unnamed() const {
  if (tmpfs_ < 0) return countable_memfd();
  return ::openat(tmpfs_, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
}

Result<std::unique_ptr<MemoryFile>> MemoryFiles::make(uint64_t size) const {
  Descriptor fd(open_unnamed());
  if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) return cannot_make(size, errno);
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

std::string MemoryFiles::pages() const {
  if (tmpfs_ >= 0) return "huge";
  std::string setting;
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
  std::getline(file, setting);
  const auto is = [&](const char* value) { return setting.find(value) != std::string::npos; };
  return setting.empty() || is("[never]") || is("[deny]") ? "4K" : "huge";
}

}  // namespace weightfs
