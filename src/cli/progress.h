// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>

#include "cli/terminal.h"

namespace weightfs::cli {

/// One line that says how far something is: label, bar, share, bytes, rate, time left; as much of it
/// as fits `width` columns.  Without newline.
std::string progress_line(std::string_view label, uint64_t done, uint64_t total, double seconds, size_t width);

/// A progress bar on one terminal line, redrawn at most ten times a second; nothing at all on anything
/// but a terminal.  Thread-safe, apart from construction and destruction, which removes the line.
class Progress {
 public:
  Progress(std::FILE* stream, uint64_t total_bytes);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void label(std::string text);
  void add(uint64_t bytes);
  /// Removes the line so that something else can be written; the next add() brings it back.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  void draw(Clock::time_point now);

  std::FILE* stream_;
  const Terminal terminal_;
  const uint64_t total_;
  const Clock::time_point start_;
  std::atomic<uint64_t> done_{0};
  std::mutex mutex_;  // guards what follows, and the stream
  std::string label_;
  Clock::time_point next_;
  bool visible_ = false;
};

}  // namespace weightfs::cli
