// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/core.h>

#include <string>
#include <string_view>

#include "common/result.h"

namespace weightfs::log {

enum class Level { kTrace, kDebug, kInfo, kWarn, kError, kOff };
enum class Target { kStderr, kFile, kSyslog };

/// Parses "trace", "debug", "info", "warn", "error", "off".
Result<Level> parse_level(std::string_view name);

/// Chooses where lines go.  Call once, before threads start; before that, lines go to stderr at level warn.
Status configure(Level level, Target target, const std::string& file = {});

bool enabled(Level level);
/// Thread-safe.  One line; `event` is a stable name such as "version.refused".
void write(Level level, std::string_view event, std::string_view message);

template <class... Args>
void event(Level level, std::string_view name, fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(level)) write(level, name, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace weightfs::log
