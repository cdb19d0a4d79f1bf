// SPDX-License-Identifier: Apache-2.0
#include "attach/connection_control.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "common/descriptor.h"

namespace weightfs {
namespace {

Descriptor open_control(const std::string& id, const char* name, int flags) {
  const size_t colon = id.find(':');
  if (colon == std::string::npos) return {};
  const std::string path = fmt::format("/sys/fs/fuse/connections/{}/{}", id.substr(colon + 1), name);
  return Descriptor(::open(path.c_str(), flags | O_CLOEXEC));
}

}  // namespace

std::optional<bool> has_unanswered(const std::string& id) {
  const Descriptor file = open_control(id, "waiting", O_RDONLY);
  char digit = '0';
  if (!file || ::read(file.get(), &digit, 1) != 1) return std::nullopt;
  return digit != '0';
}

bool abort_connection(const std::string& id) {
  const Descriptor file = open_control(id, "abort", O_WRONLY);
  return file && ::write(file.get(), "1", 1) == 1;
}

}  // namespace weightfs
