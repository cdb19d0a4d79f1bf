// SPDX-License-Identifier: Apache-2.0
//
// Progress bars.  Debian 12 packages no C++ library for them, and this is all that two commands need:
// bytes are counted by any thread, whoever passes the next tenth of a second draws.
#include "cli/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "common/text.h"

namespace weightfs::cli {
namespace {

constexpr auto kInterval = std::chrono::milliseconds(100);
constexpr auto kNoBarBefore = std::chrono::milliseconds(300);  // what is done by then needs no bar
constexpr double kWarmUpSeconds = 1.0;                         // before that a rate is mostly noise
constexpr size_t kMinBar = 10;
constexpr size_t kMaxBar = 40;

std::string bar(double share, size_t width) {
  const size_t filled = std::min(width, static_cast<size_t>(share * static_cast<double>(width)));
  return "[" + std::string(filled, '#') + std::string(width - filled, '-') + "]";
}

std::string time_left(double seconds) {
  return seconds < 60 ? fmt::format("{:.0f} s", std::ceil(seconds)) : human_seconds(seconds);
}

}  // namespace

std::string progress_line(std::string_view label, uint64_t done, uint64_t total, double seconds, size_t width) {
  const double share = total == 0 ? 1.0 : std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
  std::string line = fmt::format("{} {:3.0f} %", label, std::floor(share * 100));
  const auto append = [&](const std::string& part) {
    if (display_width(line) + 2 + display_width(part) <= width) line += "  " + part;
  };
  append(fmt::format("{} of {}", human_bytes(done), human_bytes(total)));
  if (seconds >= kWarmUpSeconds && done > 0) {
    const double rate = static_cast<double>(done) / seconds;
    append(human_bytes(static_cast<uint64_t>(rate)) + "/s");
    if (done < total) append(time_left(static_cast<double>(total - done) / rate) + " left");
  }
  const size_t used = display_width(line) + 3;  // brackets and a space
  if (width >= used + kMinBar) {
    line.insert(label.size() + 1, bar(share, std::min(kMaxBar, width - used)) + " ");
  }
  return line;
}

Progress::Progress(std::FILE* stream, uint64_t total_bytes)
    : stream_(stream),
      terminal_(terminal_of(stream)),
      total_(total_bytes),
      start_(Clock::now()),
      next_(start_ + kNoBarBefore) {}

Progress::~Progress() { clear(); }

void Progress::label(std::string text) {
  const std::lock_guard lock(mutex_);
  label_ = std::move(text);
}

void Progress::add(uint64_t bytes) {
  done_ += bytes;
  if (!terminal_.interactive) return;
  const std::unique_lock lock(mutex_, std::try_to_lock);
  const auto now = Clock::now();
  if (lock.owns_lock() && now >= next_) draw(now);
}

void Progress::draw(Clock::time_point now) {
  const double seconds = std::chrono::duration<double>(now - start_).count();
  // One column stays free: a character in the last one would wrap on some terminals.
  const std::string line = progress_line(label_, done_, total_, seconds, terminal_.width - 1);
  fmt::print(stream_, "\r\x1b[K{}", line);
  std::fflush(stream_);
  visible_ = true;
  next_ = now + kInterval;
}

void Progress::clear() {
  const std::lock_guard lock(mutex_);
  if (!visible_) return;
  std::fputs("\r\x1b[K", stream_);
  std::fflush(stream_);
  visible_ = false;
}

}  // namespace weightfs::cli
