// SPDX-License-Identifier: Apache-2.0
// The log: one line per event, `time level event message`, over spdlog.  Two things must stay true:
// a line is one line whatever the message holds (log scanners count on it), and what matters is in
// the file at once, because a daemon that dies takes its buffers with it.
#include "common/log.h"

#include <fcntl.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/sinks/syslog_sink.h>
#include <syslog.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "common/text.h"

namespace weightfs::log {
namespace {

constexpr std::array<std::string_view, 6> kLevelNames = {"trace", "debug", "info", "warn", "error", "off"};
constexpr const char* kLinePattern = "%Y-%m-%dT%H:%M:%S.%e %v";

std::shared_ptr<spdlog::logger> make_logger(spdlog::sink_ptr sink) {
  auto logger = std::make_shared<spdlog::logger>("weightfs", std::move(sink));
  logger->set_level(spdlog::level::trace);  // `enabled` decides, before a message is even formatted
  logger->flush_on(spdlog::level::info);
  logger->set_pattern(kLinePattern);
  return logger;
}

struct State {
  std::atomic<Level> level{Level::kWarn};
  std::shared_ptr<spdlog::logger> logger = make_logger(std::make_shared<spdlog::sinks::stderr_sink_mt>());
};

// Never destroyed: threads that outlive main's statics may still log.
State& state() {
  static State& instance = *new State;
  return instance;
}

spdlog::level::level_enum spdlog_level(Level level) {
  switch (level) {
    case Level::kTrace:
      return spdlog::level::trace;
    case Level::kDebug:
      return spdlog::level::debug;
    case Level::kInfo:
      return spdlog::level::info;
    case Level::kWarn:
      return spdlog::level::warn;
    case Level::kError:
      return spdlog::level::err;
    case Level::kOff:
      break;
  }
  return spdlog::level::off;
}

// spdlog would create missing folders; a log file in a mistyped folder should be an error instead.
Status check_appendable(const std::string& file) {
  const int fd = ::open(file.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0644);
  if (fd < 0) {
    return Error{ErrorCode::kIoOpen,
                 fmt::format("cannot open the log file {} for appending: {}", quote(file), std::strerror(errno))};
  }
  ::close(fd);
  return {};
}

Result<std::shared_ptr<spdlog::logger>> open_target(Target target, const std::string& file) {
  try {
    if (target == Target::kStderr) return make_logger(std::make_shared<spdlog::sinks::stderr_sink_mt>());
    if (target == Target::kSyslog) {
      // The system log stamps time and priority itself; the level stays in the text for one grammar everywhere.
      return make_logger(std::make_shared<spdlog::sinks::syslog_sink_mt>("weightfs", LOG_PID, LOG_DAEMON, false));
    }
    TRY(check_appendable(file));
    return make_logger(std::make_shared<spdlog::sinks::basic_file_sink_mt>(file, false));
  } catch (const spdlog::spdlog_ex& failure) {
    return Error{ErrorCode::kIoOpen, fmt::format("cannot open the log {}: {}", quote(file), quote(failure.what()))};
  }
}

bool is_control(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; }

std::string one_line(std::string_view message) {
  std::string line;
  for (const char c : message) {
    if (is_control(c)) {
      line += fmt::format("\\x{:02x}", static_cast<unsigned>(static_cast<unsigned char>(c)));
    } else {
      line += c;
    }
  }
  return line;
}

}  // namespace

Result<Level> parse_level(std::string_view name) {
  const auto* const found = std::find(kLevelNames.begin(), kLevelNames.end(), name);
  if (found == kLevelNames.end()) {
    return Error{ErrorCode::kUsage,
                 fmt::format("unknown log level {}: use trace, debug, info, warn, error or off", quote(name))};
  }
  return static_cast<Level>(found - kLevelNames.begin());
}

Status configure(Level level, Target target, const std::string& file) {
  state().logger = TRY(open_target(target, file));
  state().level.store(level);
  return {};
}

bool enabled(Level level) { return level != Level::kOff && level >= state().level.load(std::memory_order_relaxed); }

void write(Level level, std::string_view event, std::string_view message) {
  if (!enabled(level)) return;
  const std::string_view name = kLevelNames.at(static_cast<size_t>(level));
  const bool clean = std::none_of(message.begin(), message.end(), is_control);
  const std::string line = fmt::format("{} {} {}", name, event, clean ? std::string(message) : one_line(message));
  state().logger->log(spdlog_level(level), spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace weightfs::log
