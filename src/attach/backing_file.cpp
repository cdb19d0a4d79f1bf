// SPDX-License-Identifier: Apache-2.0
#include "attach/backing_file.h"

#include <sys/ioctl.h>

#include <cerrno>
#include <cstdint>

namespace weightfs {
namespace {

// From Linux 6.9's <linux/fuse.h>; older ones lack them.
struct BackingMap {
  int32_t fd;
  uint32_t flags;
  uint64_t padding;
};
constexpr auto kBackingOpen = _IOW(229, 1, BackingMap);
constexpr auto kBackingClose = _IOW(229, 2, uint32_t);

}  // namespace

int open_backing_file(int device, int file) {
  BackingMap map{file, 0, 0};
  const int id = ::ioctl(device, kBackingOpen, &map);
  if (id > 0) return id;
  return id < 0 ? -errno : -EINVAL;
}

void close_backing_file(int device, int id) {
  auto number = static_cast<uint32_t>(id);
  ::ioctl(device, kBackingClose, &number);
}

}  // namespace weightfs
