// SPDX-License-Identifier: Apache-2.0
//
// `weightfs warm`: makes a mounted version ready to be read.  Into memory: the mount's own process does the
// work; this one asks for it, watches, and takes it back when it is interrupted.  Into the page cache: reading
// the files through the mount is all it takes.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>

#include "cli/commands.h"
#include "cli/json.h"
#include "cli/json_access.h"
#include "cli/progress.h"
#include "cli/report.h"
#include "cli/signals.h"
#include "cli/source_access.h"
#include "cli/terminal.h"
#include "cli/workers.h"
#include "common/descriptor.h"
#include "common/text.h"
#include "fuse/control.h"
#include "vfs/vfs.h"

namespace weightfs::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kPollInterval = std::chrono::milliseconds(20);
constexpr unsigned kMaxWarmReaders = 16;
constexpr uint64_t kStretchBytes = 4u << 20;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// A version of a mount, and how its process is told what to do with it.
class WarmTarget {
 public:
  static Result<WarmTarget> find(const std::string& mount_point, std::string name) {
    const auto status = TRY(read_mount_status(mount_point));
    if (!status) return not_a_mount(mount_point);
    if (name == kLatestName) name = text_of(*status, "latest");
    for (const auto& version : array_of(*status, "versions")) {
      if (text_of(version, "name") != name) continue;
      if (const auto error = error_text(version)) {
        return Error{ErrorCode::kVersionNotFound, fmt::format("version {} was refused: {}", quote(name), *error)};
      }
      return WarmTarget(mount_point, std::move(name));
    }
    return version_not_found(name);
  }

  const std::string& name() const { return name_; }
  std::string folder() const { return mount_point_ + "/" + name_; }
  Result<Json> state() const { return read_json_file(control_file()); }

  Status tell(WarmCommand command) const {
    const Descriptor file(::open(control_file().c_str(), O_RDONLY | O_CLOEXEC));
    if (file && ::ioctl(file.get(), kWarmIoctl, &command) == 0) return {};
    const int number = errno;
    const auto state = this->state();  // says more than a number
    if (state && error_text(*state)) return failure_in(*state);
    return failure(number == ENOTTY ? "the process that serves this mount does not know how to"
                                    : std::strerror(number));
  }

  /// What a warm.json says went wrong.
  Error failure_in(const Json& state) const {
    const Json& error = object_of(state, "error");
    Error failed = failure(bare(text_of(error, "message")));
    if (text_of(error, "code") == code_id(ErrorCode::kNoRoomToWarm)) failed.code = ErrorCode::kNoRoomToWarm;
    return failed;
  }
  Error failure(const std::string& why) const {
    return {ErrorCode::kWarmFailed, fmt::format("{}: {}", quote(folder()), why)};
  }

 private:
  WarmTarget(std::string mount_point, std::string name)
      : mount_point_(std::move(mount_point)), name_(std::move(name)) {}
  std::string control_file() const { return mount_point_ + "/.weightfs/versions/" + name_ + "/warm.json"; }

  std::string mount_point_;
  std::string name_;
};

/// What was done, for the last line and for --json.
struct WarmOutcome {
  uint64_t decoded = 0;  ///< bytes that lie in memory now
  std::optional<double> decode_seconds;
  uint64_t read = 0;  ///< bytes that were read through the mount
  double seconds = 0;
};

/// Asks the mount's process and waits for it.  Empty when `signals` says so; it has been told to stop then.
Result<std::optional<uint64_t>> warm_to_memory(const WarmTarget& target, const StopSignals& signals) {
  TRY(target.tell(WarmCommand::kStart));
  Json state = TRY(target.state());
  Progress progress(stderr, number_of(state, "total_bytes").value_or(0));
  uint64_t shown = 0;
  for (;; std::this_thread::sleep_for(kPollInterval), state = TRY(target.state())) {
    const std::string name = text_of(state, "state");
    const uint64_t done = number_of(state, "warm_bytes").value_or(0);
    progress.label(target.name() + (name == "waiting" ? ": waits for memory that others use" : ""));
    progress.add(done > shown ? done - shown : 0);
    shown = std::max(shown, done);
    if (name == "warm") return std::optional(done);
    if (name == "failed") return target.failure_in(state);
    if (name == "cancelled") return target.failure("somebody else stopped it");
    if (name == "cold") return target.failure("its memory was taken for another version at once");
    if (!signals.raised()) continue;
    TRY(target.tell(WarmCommand::kCancel));
    return std::optional<uint64_t>();
  }
}

/// A stretch of a file that one thread reads.
struct Stretch {
  std::shared_ptr<const Descriptor> file;
  std::string name;
  uint64_t offset = 0;
};

Result<std::vector<Stretch>> stretches_of(const std::vector<std::string>& files) {
  std::vector<Stretch> stretches;
  for (const std::string& name : files) {
    auto file = std::make_shared<const Descriptor>(::open(name.c_str(), O_RDONLY | O_CLOEXEC));
    std::error_code error;
    const uint64_t size = std::filesystem::file_size(name, error);
    if (!*file || error) return Error{ErrorCode::kIoRead, fmt::format("cannot open {}", quote(name))};
    for (uint64_t at = 0; at < size; at += kStretchBytes) stretches.push_back({file, name, at});
  }
  return stretches;
}

/// Reads files through the mount, so that the kernel keeps their pages.  The bytes read; fewer when `signals` says so.
Result<uint64_t> read_through(const WarmTarget& target, const std::vector<std::string>& files,
                              const StopSignals& signals) {
  const auto stretches = TRY(stretches_of(files));
  std::atomic<uint64_t> read{0};
  Progress progress(stderr, stretches.size() * kStretchBytes);
  progress.label(target.name());
  const auto body = [&](std::vector<char>& buffer, uint64_t i) -> Status {
    if (signals.raised()) return {};
    buffer.resize(kStretchBytes);
    const auto got =
        ::pread(stretches[i].file->get(), buffer.data(), buffer.size(), static_cast<off_t>(stretches[i].offset));
    if (got < 0)
      return Error{ErrorCode::kIoRead, fmt::format("{}: {}", quote(stretches[i].name), std::strerror(errno))};
    read += static_cast<uint64_t>(got);
    progress.add(kStretchBytes);
    return {};
  };
  TRY(run_workers<std::vector<char>>(stretches.size(), worker_count(kMaxWarmReaders), body));
  return read.load();
}

/// The version's files that `state` lists; with `on_disk` only those that no memory can hold: they lie on disk as they
/// are.
std::vector<std::string> files_of(const WarmTarget& target, const Json& state, bool on_disk) {
  std::vector<std::string> files;
  for (const auto& file : array_of(state, "files")) {
    if (on_disk && text_of(file, "served_by") != "base" && text_of(file, "served_by") != "passthrough") continue;
    files.push_back(target.folder() + "/" + text_of(file, "path"));
  }
  return files;
}

Result<std::optional<WarmOutcome>> warm(const WarmTarget& target, bool to_memory, const StopSignals& signals) {
  const auto start = Clock::now();
  WarmOutcome outcome;
  if (to_memory) {
    const auto decoded = TRY(warm_to_memory(target, signals));
    if (!decoded) return std::optional<WarmOutcome>();
    outcome.decoded = *decoded;
  }
  const Json state = TRY(target.state());
  if (to_memory) outcome.decode_seconds = real_of(state, "seconds");
  outcome.read = TRY(read_through(target, files_of(target, state, to_memory), signals));
  if (signals.raised()) return std::optional<WarmOutcome>();
  outcome.seconds = seconds_since(start);
  return std::optional(outcome);
}

void print_outcome(const Options& options, const WarmTarget& target, const WarmOutcome& outcome) {
  if (options.json) {
    fmt::print("{}",
               json_text({{"version", target.name()},
                          {"to", options.to},
                          {"memory_bytes", outcome.decoded},
                          {"page_cache_bytes", outcome.read},
                          {"seconds", outcome.seconds},
                          {"decode_seconds", outcome.decode_seconds ? Json(*outcome.decode_seconds) : Json(nullptr)}}));
    return;
  }
  std::string what;
  if (outcome.decoded > 0) what = human_bytes(outcome.decoded) + " decoded into memory";
  if (outcome.read > 0 || what.empty()) {
    what += fmt::format("{}{} in the page cache", what.empty() ? "" : ", ", human_bytes(outcome.read));
  }
  fmt::print("{} is warm: {}, in {}\n", bare(target.name()), what, human_seconds(outcome.seconds));
}

}  // namespace

Result<int> run_warm(const Options& options) {
  const WarmTarget target = TRY(WarmTarget::find(options.mount_point, options.versions.front()));
  if (options.drop) {
    TRY(target.tell(WarmCommand::kDrop));
    if (!options.json) fmt::print("the memory of {} is given back\n", bare(target.name()));
    return 0;
  }
  const StopSignals signals;
  const auto outcome = warm(target, options.to == "memory", signals);
  if (!outcome) return outcome.error();
  if (!*outcome) {
    signals.end_process_if_raised();
    return 1;
  }
  print_outcome(options, target, **outcome);
  return 0;
}

}  // namespace weightfs::cli
