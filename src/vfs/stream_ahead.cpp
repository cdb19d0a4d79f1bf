// SPDX-License-Identifier: Apache-2.0
// Streams.  What must stay true: nobody who answers a request ever waits for a worker's store(), which itself may
// wait in the kernel for a page that such an answer is to fill.
#include "vfs/stream_ahead.h"

#include <algorithm>

namespace weightfs {
namespace {

constexpr uint64_t kPage = 4096;
/// Requests of one reader arrive out of order, as the kernel reads ahead with several at a time.
constexpr uint64_t kDisorder = 8u << 20;
constexpr uint64_t kRecent = 256;  // requests

}  // namespace

StreamAhead::StreamAhead(Actions actions, Limits limits) : actions_(std::move(actions)), limits_(limits) {}

bool StreamAhead::is_beacon(uint64_t offset, uint64_t window) {
  return offset % (window >= (128u << 20) ? 32u << 20 : 8u << 20) == 0;
}

void StreamAhead::opened(NodeId node, uint64_t file_size) {
  if (limits_.workers == 0 || file_size < 2 * kProof) return;
  const std::lock_guard lock(mutex_);
  File& file = files_[node];
  file.size = file_size;
  ++file.opens;
}

void StreamAhead::closed(NodeId node) {
  const std::lock_guard lock(mutex_);
  const auto file = files_.find(node);
  if (file == files_.end() || --file->second.opens != 0) return;
  files_.erase(file);
  std::erase(streams_, node);
}

/// What may be ahead of a cursor: as much as it has come, a share of the whole, and not beyond where another began.
uint64_t StreamAhead::window_of(const File& file, const Cursor& cursor) {
  const auto active =
      std::count_if(file.cursors.begin(), file.cursors.end(), [](const Cursor& c) { return c.counted; });
  uint64_t window = std::min(cursor.end - cursor.begin, kMaxWindow / static_cast<uint64_t>(std::max<long>(active, 1)));
  for (const Cursor& other : file.cursors) {
    if (other.used_at != 0 && other.begin >= cursor.end) window = std::min(window, other.begin - cursor.end);
  }
  return window;
}

StreamAhead::Cursor& StreamAhead::cursor_at(File& file, uint64_t offset, uint64_t size) {
  const auto near = [&](const Cursor& c) {
    return c.used_at != 0 && offset + kDisorder >= c.end && offset <= std::max(c.end, c.next) + kDisorder;
  };
  auto cursor = std::find_if(file.cursors.begin(), file.cursors.end(), near);
  if (cursor == file.cursors.end()) {
    const auto older = [](const Cursor& a, const Cursor& b) { return a.used_at < b.used_at; };
    cursor = std::min_element(file.cursors.begin(), file.cursors.end(), older);
    *cursor = {.begin = offset, .end = offset, .next = offset};
  }
  cursor->bytes += size;
  cursor->end = std::max(cursor->end, offset + size);
  cursor->used_at = ++clock_;
  return *cursor;
}

void StreamAhead::was_read(NodeId node, uint64_t offset, uint64_t size) {
  if (size == 0) return;
  std::unique_lock lock(mutex_);
  const auto at = files_.find(node);
  if (at == files_.end() || at->second.elsewhere || stopping_) return;
  Cursor& cursor = cursor_at(at->second, offset, size);
  cursor.next = std::max(cursor.next, cursor.end);
  if (!cursor.counted) {
    // Somebody who jumps forward leaves gaps.
    if (cursor.bytes < std::max(kProof, (cursor.end - cursor.begin) / 2)) return;
    cursor.counted = true;
    ++counts_.streams;
    if (!at->second.found && take_over(node, at->second, lock)) return;
    if (std::find(streams_.begin(), streams_.end(), node) == streams_.end()) streams_.push_back(node);
    while (threads_.size() < limits_.workers) threads_.emplace_back([this] { work(); });
  }
  wanted_.notify_all();
}

/// True when somebody else sees to the file from now on, or it is gone.
bool StreamAhead::take_over(NodeId node, File& file, std::unique_lock<std::mutex>& lock) {
  file.found = true;
  lock.unlock();
  const bool taken = actions_.found(node);
  lock.lock();
  const auto now = files_.find(node);
  if (now == files_.end() || stopping_) return true;
  now->second.elsewhere = taken;
  return taken;
}

/// Needs mutex_.  The clock goes with requests: a stream that is read makes some of the last ones.
bool StreamAhead::crowded() const {
  unsigned streams = 0;
  for (const NodeId node : streams_) {
    for (const Cursor& cursor : files_.at(node).cursors) streams += cursor.counted && clock_ - cursor.used_at < kRecent;
  }
  return streams > limits_.streams;
}

/// Needs mutex_.  Files take turns.
std::optional<StreamAhead::Task> StreamAhead::next_task() {
  if (crowded()) return std::nullopt;
  for (size_t i = 0; i < streams_.size(); ++i) {
    turn_ = (turn_ + 1) % streams_.size();
    const NodeId node = streams_[turn_];
    File& file = files_.at(node);
    for (Cursor& cursor : file.cursors) {
      if (!cursor.counted) continue;
      const uint64_t window = window_of(file, cursor);
      const uint64_t limit = std::min(file.size, cursor.end + window);
      if (cursor.next >= limit) continue;
      const uint64_t offset = cursor.next / kPage * kPage;
      const uint64_t size = std::min(kChunk - offset % kChunk, file.size - offset);
      cursor.next = offset + size;
      return Task{node, offset, size, window};
    }
  }
  return std::nullopt;
}

void StreamAhead::work() {
  std::vector<std::byte> buffer(kChunk);
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const auto task = next_task();
    if (!task) {
      wanted_.wait(lock);
      continue;
    }
    lock.unlock();
    carry_out(*task, buffer);
    lock.lock();
  }
}

void StreamAhead::carry_out(const Task& task, std::vector<std::byte>& buffer) {
  const MutableBytes bytes = MutableBytes(buffer).first(task.size);
  const bool done = actions_.read(task.node, task.offset, bytes) == task.size && store(task, 0, bytes);
  const std::lock_guard lock(mutex_);
  if (done) {
    counts_.bytes_stored += task.size;
  } else {
    std::erase(streams_, task.node);  // its readers find out themselves
  }
}

bool StreamAhead::store(const Task& task, uint64_t from, Bytes bytes) {
  const uint64_t skipped = is_beacon(task.offset + from, task.window) ? std::min<uint64_t>(kPage, bytes.size()) : 0;
  bytes = bytes.subspan(skipped);
  return bytes.empty() || actions_.store(task.node, task.offset + from + skipped, bytes);
}

void StreamAhead::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wanted_.notify_all();
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

StreamAhead::Counts StreamAhead::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

}  // namespace weightfs
