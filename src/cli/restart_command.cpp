// SPDX-License-Identifier: Apache-2.0
// `weightfs restart`: asks the supervisor of a mount to let the program that is on disk now take over.  Talks to the
// supervisor and never to the mount, whose daemon may be stuck.
#include <fmt/format.h>
#include <sys/stat.h>

#include "attach/control_socket.h"
#include "attach/mount_point.h"
#include "cli/commands.h"
#include "cli/source_access.h"
#include "common/text.h"

namespace weightfs::cli {
namespace {

/// A large source on slow storage takes its time to open.
constexpr auto kLimit = std::chrono::minutes(10);
constexpr std::string_view kFailed = "failed: ";

}  // namespace

Result<int> run_restart(const Options& options) {
  const auto mount = TRY(mounted_at(options.mount_point));
  if (!mount || mount->fs_type != kFsType) return not_a_mount(options.mount_point);
  // Root's supervisor may serve a mount of somebody else (setuid=USER).
  auto answer = ask_supervisor(control_socket_path(mount->device, 0), "restart", kLimit);
  const auto owner = static_cast<uid_t>(mount->owner);
  if (!answer && owner != 0) answer = ask_supervisor(control_socket_path(mount->device, owner), "restart", kLimit);
  if (!answer) {
    return answer.error().in(
        fmt::format("{} cannot be restarted under its readers; only what mount.weightfs has mounted, and you or root "
                    "may restart, can",
                    quote(mount->mount_point)));
  }
  if (answer->starts_with(kFailed)) return Error{ErrorCode::kMountFailed, answer->substr(kFailed.size())};
  fmt::print("{}\n", *answer);
  return 0;
}

}  // namespace weightfs::cli
