// SPDX-License-Identifier: Apache-2.0
// How much memory a container leaves us.  Inside a container /proc/self/cgroup may name a path of the
// host that is not visible; the folder where the hierarchy is mounted then is the container's own group.
// So every folder from our path up to there is asked, and those that do not exist are left out.
#include "common/memory_limit.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string_view>

#include "common/text.h"

namespace weightfs {
namespace {

constexpr uint64_t kUnlimited = uint64_t{1} << 60;  // v1 writes "none" as a number just below 2^63

void lower(std::optional<uint64_t>& limit, const std::string& file) {
  std::ifstream in(file);
  std::string text;
  if (!std::getline(in, text)) return;
  const auto value = parse_decimal(text);  // v2 writes "max" for none
  if (value && *value < kUnlimited) limit = std::min(limit.value_or(*value), *value);
}

/// Asks `file` in mount/path and in every folder above it, down to the mount itself.
void lower_along(std::optional<uint64_t>& limit, const std::string& mount, std::string path, const std::string& file) {
  if (path.find("/..") != std::string::npos) path.clear();  // outside our namespace
  while (true) {
    lower(limit, mount + path + "/" + file);
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos) return;
    path.resize(slash);
  }
}

bool lists_memory(std::string_view controllers) {
  return ("," + std::string(controllers) + ",").find(",memory,") != std::string::npos;
}

}  // namespace

std::optional<uint64_t> cgroup_memory_limit(const std::string& root) {
  std::optional<uint64_t> limit;
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // "4:memory:/path", "0::/path"
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty()) {
      lower_along(limit, root + "/sys/fs/cgroup", path, "memory.max");
      lower_along(limit, root + "/sys/fs/cgroup/unified", path, "memory.max");
    } else if (lists_memory(controllers)) {
      lower_along(limit, root + "/sys/fs/cgroup/memory", path, "memory.limit_in_bytes");
    }
  }
  return limit;
}

std::optional<uint64_t> available_memory(const std::string& root) {
  constexpr std::string_view kLabel = "MemAvailable:";
  std::ifstream file(root + "/proc/meminfo");
  for (std::string line; std::getline(file, line);) {  // "MemAvailable:   23456789 kB"
    if (!line.starts_with(kLabel)) continue;
    std::istringstream rest(line.substr(kLabel.size()));
    uint64_t kibibytes = 0;
    return rest >> kibibytes ? std::optional(kibibytes * 1024) : std::nullopt;
  }
  return std::nullopt;
}

uint64_t resident_memory() {
  std::FILE* file = std::fopen("/proc/self/statm", "re");
  if (file == nullptr) return 0;
  unsigned long long total = 0;
  unsigned long long resident = 0;
  const int fields = std::fscanf(file, "%llu %llu", &total, &resident);
  std::fclose(file);
  return fields == 2 ? resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)) : 0;
}

uint64_t default_memory_budget(std::optional<uint64_t> limit) {
  constexpr uint64_t kDefault = uint64_t{1} << 30;
  return limit ? std::min(kDefault, *limit / 4) : kDefault;
}

}  // namespace weightfs
