// SPDX-License-Identifier: Apache-2.0
#include "cli/metrics_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "common/text.h"

namespace weightfs::cli {
namespace {

constexpr mode_t kReadableByAll = 0644;

/// Beside `path`, hidden, and not ending in .prom: nobody takes it for metrics.
std::string sibling_of(const std::string& path) {
  const std::filesystem::path whole(path);
  return whole.parent_path() / fmt::format(".{}.{}.tmp", whole.filename().string(), ::getpid());
}

Error cannot(const std::string& path, const std::string& what) {
  return {ErrorCode::kIoWrite, fmt::format("metrics cannot be written to {}: {}", quote(path), what)};
}

/// Removes the name when it goes out of scope, unless it was given away.
class Temporary {
 public:
  explicit Temporary(std::string name)
      : name_(std::move(name)),
        descriptor_(::open(name_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, kReadableByAll)) {}
  ~Temporary() {
    if (descriptor_ < 0) return;
    ::close(descriptor_);
    if (!name_.empty()) ::unlink(name_.c_str());
  }
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;

  bool is_open() const { return descriptor_ >= 0; }
  /// False with an errno.
  bool write(std::string_view text) const {
    while (!text.empty()) {
      const ssize_t written = ::write(descriptor_, text.data(), text.size());
      if (written < 0 && errno != EINTR) return false;
      if (written > 0) text.remove_prefix(static_cast<size_t>(written));
    }
    return ::fchmod(descriptor_, kReadableByAll) == 0;  // whatever the umask is
  }
  bool rename_to(const std::string& path) {
    if (std::rename(name_.c_str(), path.c_str()) != 0) return false;
    name_.clear();
    return true;
  }

 private:
  std::string name_;
  const int descriptor_;
};

}  // namespace

Status replace_metrics_file(const std::string& path, std::string_view text) {
  Temporary file(sibling_of(path));
  if (!file.is_open() || !file.write(text) || !file.rename_to(path)) return cannot(path, std::strerror(errno));
  return {};
}

Status check_metrics_file(const std::string& path) {
  struct stat there {};
  if (::lstat(path.c_str(), &there) == 0 && !S_ISREG(there.st_mode)) return cannot(path, "it is not a regular file");
  const Temporary file(sibling_of(path));
  if (!file.is_open()) return cannot(path, fmt::format("its folder takes no files: {}", std::strerror(errno)));
  return {};
}

}  // namespace weightfs::cli
