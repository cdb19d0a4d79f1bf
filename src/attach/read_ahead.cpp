// SPDX-License-Identifier: Apache-2.0
// The kernel starts FUSE mounts with 128 KiB; INIT can only lower that, sysfs can raise it.
#include "attach/read_ahead.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "common/descriptor.h"
#include "common/text.h"

namespace weightfs {
namespace {

constexpr uint64_t kKiB = 1024;

uint64_t read_setting(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::array<char, 32> text{};
  const auto count = file ? ::read(file.get(), text.data(), text.size()) : -1;
  if (count <= 0) return 0;
  const std::string_view all(text.data(), static_cast<size_t>(count));
  return parse_decimal(all.substr(0, all.find('\n'))).value_or(0) * kKiB;
}

std::string write_setting(const std::string& path, uint64_t bytes) {
  const Descriptor file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  const std::string text = std::to_string(bytes / kKiB) + "\n";
  if (file && ::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size())) return {};
  return fmt::format("cannot write {}: {}", path, std::strerror(errno));
}

}  // namespace

ReadAhead set_read_ahead(const std::string& mount_id, uint64_t bytes, const std::string& sysfs) {
  const std::string path = sysfs + "/" + mount_id + "/read_ahead_kb";
  ReadAhead result;
  if (bytes != 0) result.problem = write_setting(path, bytes);
  result.bytes = read_setting(path);
  return result;
}

}  // namespace weightfs
