// SPDX-License-Identifier: Apache-2.0
#include "common/detached_tmpfs.h"

#include <linux/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace weightfs {
namespace {

int system_call(long number, auto... arguments) { return static_cast<int>(::syscall(number, arguments...)); }

}  // namespace

Descriptor detached_tmpfs() {
  Descriptor context(system_call(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC));
  if (!context) return {};
  const auto set = [&](const char* key, const char* value) {
    return system_call(SYS_fsconfig, context.get(), FSCONFIG_SET_STRING, key, value, 0) == 0;
  };
  // The budget is what bounds it, not half of the machine's memory.
  if (!set("huge", "advise") || !set("size", "100%")) return {};
  if (system_call(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) return {};
  return Descriptor(system_call(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, 0));
}

}  // namespace weightfs
