// SPDX-License-Identifier: Apache-2.0
// `weightfs mount`: from options to a mount that can be served (mount_process.h).  Order matters: paths are made
// absolute before the daemon leaves its folder; signals are blocked and the allocator is set up before the first thread
// starts; everything that can be refused is refused before the mount appears.
#include "cli/mount_command.h"

#include <fmt/format.h>
#include <malloc.h>

#include <cstdio>
#include <filesystem>

#include "attach/background.h"
#include "attach/mount_point.h"
#include "chain/snapshot.h"
#include "cli/mount_process.h"
#include "cli/supervision.h"
#include "cli/terminal.h"
#include "common/log.h"
#include "common/text.h"

namespace weightfs::cli {
namespace {

constexpr size_t kMaxRefusedLines = 10;

/// Before any thread starts: many threads would otherwise each keep an arena, and freed blocks of
/// the cache would stay in the process.
void set_up_allocator() {
  ::mallopt(M_ARENA_MAX, 4);
  ::mallopt(M_MMAP_THRESHOLD, 128 << 10);
}

Status set_up_log(const MountOptions& options) {
  const auto level = TRY(log::parse_level(options.log_level));
  if (!options.log_file.empty()) return log::configure(level, log::Target::kFile, options.log_file);
  return log::configure(level, options.foreground ? log::Target::kStderr : log::Target::kSyslog);
}

/// Every path that the mount must neither cover nor lie in.
std::vector<std::string> kept_apart(const std::string& source, const ModelFolder& base) {
  std::vector<std::string> paths = {source};
  if (!base.path().empty()) paths.push_back(real_or_same(base.path()));
  for (const auto& entry : base.entries()) {
    if (entry.source) paths.push_back(real_or_same(entry.source->name()));  // may lie elsewhere, behind a link
  }
  return paths;
}

void print_refused(const Snapshot& snapshot) {
  size_t refused = 0;
  for (const Version& version : snapshot.versions()) {
    if (version.admitted() || ++refused > kMaxRefusedLines) continue;
    fmt::print(stderr, "refused {}: {}\n", bare(version.name), version.error->text());
  }
  if (refused > kMaxRefusedLines) {
    fmt::print(stderr, "... and {} more; 'weightfs log' lists all {}\n", refused - kMaxRefusedLines, refused);
  }
}

/// A supervisor has checked the folder, and may have mounted there long ago: looking at it could mean to wait for us.
Result<std::string> checked_mount_point(const MountOptions& options, const std::vector<std::string>& kept_apart) {
  if (options.channel < 0) return check_mount_point(options.mount_point, kept_apart);
  TRY(check_apart(options.mount_point, kept_apart));
  return options.mount_point;
}

Status mount_and_serve(MountOptions options, Supervision* supervision, ReadyNotice& notice) {
  set_up_allocator();
  options.source = real_or_same(options.source);
  options.base = real_or_same(options.base);
  if (!options.cache.empty()) options.cache = std::filesystem::weakly_canonical(options.cache).string();
  TRY(checked_mount_point(options, {options.source}));  // before a long look at the source
  const Files files;
  auto snapshot = TRY(open_source(files, {options.source, options.base, options.verify}));
  const auto mount_point = TRY(checked_mount_point(options, kept_apart(options.source, snapshot->base())));
  print_refused(*snapshot);
  return serve({options, mount_point, files, supervision, notice}, std::move(snapshot));
}

int exit_status(const MountOptions& options, ReadyNotice& notice) {
  const auto supervision = options.channel < 0 ? nullptr : std::make_unique<Supervision>(options.channel);
  const Status logged = set_up_log(options);
  const Status status = logged ? mount_and_serve(options, supervision.get(), notice) : logged;
  if (status) return 0;
  if (supervision) supervision->link().failed(status.error().text());
  fmt::print(stderr, "weightfs mount: {}\n", status.error().text());
  // Without the log that was wanted this would be the same line once more.
  if (logged) log::write(log::Level::kError, "mount.failed", status.error().text());
  return kCannotStatus;
}

}  // namespace

int run_mount(const MountOptions& options) {
  open_standard_streams();
  if (!options.foreground && options.channel < 0) {
    return run_in_background("weightfs mount", kCannotStatus,
                             [&](ReadyNotice& notice) { return exit_status(options, notice); });
  }
  ReadyNotice nobody;
  return exit_status(options, nobody);
}

}  // namespace weightfs::cli
