// SPDX-License-Identifier: Apache-2.0
// The queue of versions to warm, and the memory that they lie in.  What must stay true: memory changes hands only
// when nobody holds it here and the kernel says that nobody has it open or mapped, which includes mappings that
// outlive their descriptor and of which no RELEASE tells.
#include "engine/warmer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "common/checked.h"
#include "common/log.h"
#include "common/memory_limit.h"
#include "common/text.h"

namespace weightfs {
namespace {

constexpr auto kRetry = std::chrono::milliseconds(50);  // nobody tells when a mapping goes away
constexpr uint64_t kLeftToSystem = 256u << 20;

bool is_active(WarmState state) {
  return state == WarmState::kQueued || state == WarmState::kWaiting || state == WarmState::kFilling;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Warmer::Warmer(const Snapshot& snapshot, Filler filler, Cache& cache, unsigned threads)
    : snapshot_(snapshot),
      filler_(std::move(filler)),
      cache_(cache),
      arena_(static_cast<int>(threads), 1, tbb::task_arena::priority::low) {}

Warmer::~Warmer() {
  {
    const Lock lock(mutex_);
    ending_ = true;
    for (const auto& job : queue_) job->cancelled = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

bool Warmer::decodes(const VersionFile& file) const {
  const ModelFolder::Entry& entry = snapshot_.folder(file.ordinal).entries()[file.entry];
  if (entry.kind == ModelFolder::EntryKind::kDirectory || entry.size == 0) return false;
  return snapshot_.untouched_file(file.ordinal, file.entry) == nullptr;
}

uint64_t Warmer::size_of(const VersionFile& file) const {
  return snapshot_.folder(file.ordinal).entries()[file.entry].size;
}

std::vector<VersionFile> Warmer::files_of(const Job& job) const {
  std::vector<VersionFile> files;
  for (size_t entry = 0; entry < snapshot_.folder(job.ordinal).entries().size(); ++entry) {
    const VersionFile file{job.ordinal, entry};
    if (job.entry.value_or(entry) == entry && decodes(file)) files.push_back(file);
  }
  return files;
}

uint64_t Warmer::total_bytes(size_t ordinal) const {
  Job all;
  all.ordinal = ordinal;
  uint64_t total = 0;
  for (const VersionFile& file : files_of(all)) total += size_of(file);
  return total;
}

Status Warmer::start(size_t ordinal) {
  const uint64_t total = total_bytes(ordinal);
  const uint64_t most = cache_.most_set_aside();
  if (total > most) {
    // An eighth of what is added stays free.
    const uint64_t more = ceil_div((total - most) / 7 * 8, uint64_t{1} << 20) + 1;
    return Error{ErrorCode::kNoRoomToWarm,
                 fmt::format("version {} takes {} of memory, but the mount's budget leaves {} for that; mount it "
                             "again with a --memory that is larger by {}M",
                             quote(snapshot_.admitted(ordinal).name), human_bytes(total), human_bytes(most), more)};
  }
  auto job = std::make_shared<Job>();
  job->ordinal = ordinal;
  const Lock lock(mutex_);
  const auto known = jobs_.find(ordinal);
  if (known != jobs_.end() && is_active(known->second->state) && !known->second->cancelled) return {};
  jobs_[ordinal] = job;
  enqueue(std::move(job));
  return {};
}

bool Warmer::start_file(const VersionFile& file) {
  if (!decodes(file) || size_of(file) > cache_.most_set_aside()) return false;
  const Lock lock(mutex_);
  const auto same = [&](const auto& job) {
    return job->ordinal == file.ordinal && job->entry.value_or(file.entry) == file.entry;
  };
  if (slot_of(file) != slots_.end() || std::any_of(queue_.begin(), queue_.end(), same)) return true;
  auto job = std::make_shared<Job>();
  job->ordinal = file.ordinal;
  job->entry = file.entry;
  enqueue(std::move(job));
  return true;
}

/// Needs mutex_.
void Warmer::enqueue(std::shared_ptr<Job> job) {
  queue_.push_back(std::move(job));
  if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  changed_.notify_all();
}

void Warmer::cancel(size_t ordinal) {
  const Lock lock(mutex_);
  for (const auto& job : queue_) {
    if (job->ordinal == ordinal) job->cancelled = true;
  }
  changed_.notify_all();
}

void Warmer::drop(size_t ordinal) {
  cancel(ordinal);
  Lock lock(mutex_);
  const auto busy = [&](const auto& job) { return job->ordinal == ordinal; };
  changed_.wait(lock, [&] { return std::none_of(queue_.begin(), queue_.end(), busy); });
  jobs_.erase(ordinal);
  for (auto slot = slots_.begin(); slot != slots_.end();) {
    const auto next = std::next(slot);
    if (slot->file->file().ordinal == ordinal) {
      if (slot->ready) --ready_;
      leaving_.splice(leaving_.end(), slots_, slot);
    }
    slot = next;
  }
  sweep();
}

void Warmer::run() {
  Lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return ending_ || !queue_.empty(); });
    if (queue_.empty()) return;
    const auto job = queue_.front();
    lock.unlock();
    work(*job);
    lock.lock();
    queue_.pop_front();
    changed_.notify_all();
  }
}

void Warmer::set_state(Job& job, WarmState state) {
  const Lock lock(mutex_);
  job.state = state;
}

void Warmer::work(Job& job) {
  const std::string& name = snapshot_.admitted(job.ordinal).name;
  const auto start = std::chrono::steady_clock::now();
  Status outcome;
  for (const VersionFile& file : files_of(job)) {
    outcome = warm(job, file);
    if (!outcome || job.cancelled) break;
  }
  const double seconds = seconds_since(start);
  const Lock lock(mutex_);
  job.seconds = seconds;
  job.state = !outcome ? WarmState::kFailed : job.cancelled ? WarmState::kCancelled : WarmState::kWarm;
  if (outcome) {
    log::event(log::Level::kInfo, job.cancelled ? "warm.cancelled" : "warm.done", "{} after {:.3f} s", quote(name),
               seconds);
  } else {
    job.error = outcome.error().in("version " + quote(name));
    log::write(log::Level::kError, "warm.failed", job.error->text());
  }
}

Status Warmer::warm(Job& job, const VersionFile& file) {
  const auto memory = TRY(obtain(job, file));
  if (!memory) return {};  // cancelled, or there is no room and nobody waits for it
  set_state(job, WarmState::kFilling);
  Status filled = memory->fill(filler_, arena_, job.cancelled);
  const Lock lock(mutex_);
  const auto slot = slot_of(file);
  slot->used_at = ++clock_;
  if (!filled) {
    slots_.erase(slot);
    return filled.error().in(snapshot_.folder(file.ordinal).entries()[file.entry].name);
  }
  if (job.cancelled || slot->ready) return {};
  slot->ready = true;
  ++ready_;
  return {};
}

Result<std::shared_ptr<WarmFile>> Warmer::obtain(Job& job, const VersionFile& file) {
  for (;;) {
    Lock lock(mutex_);
    if (job.cancelled) return std::shared_ptr<WarmFile>();
    auto found = TRY(try_obtain(job, file));
    if (found || job.entry) return found;
    job.state = WarmState::kWaiting;
    changed_.wait_for(lock, kRetry);
  }
}

/// Needs mutex_.  Null when no memory can be had now.
Result<std::shared_ptr<WarmFile>> Warmer::try_obtain(const Job& job, const VersionFile& file) {
  if (const auto slot = slot_of(file); slot != slots_.end()) return slot->file;
  sweep();
  const uint64_t size = size_of(file);
  for (;;) {
    const bool system_has_it = available_memory().value_or(UINT64_MAX) >= size + kLeftToSystem;
    if (auto room = system_has_it ? cache_.set_aside(size) : std::nullopt) return add_slot(file, std::move(*room));
    if (const auto slot = oldest_unused(job, size); slot != slots_.end()) {
      if (slot->ready) --ready_;
      slot->ready = false;
      slot->file->assign(filler_, file);
      return slot->file;
    }
    const auto slot = oldest_unused(job, std::nullopt);
    if (slot == slots_.end()) return std::shared_ptr<WarmFile>();
    if (slot->ready) --ready_;
    slots_.erase(slot);
  }
}

/// Needs mutex_.
Result<std::shared_ptr<WarmFile>> Warmer::add_slot(const VersionFile& file, Cache::Reservation room) {
  auto memory = std::make_shared<WarmFile>(TRY(memory_files_.make(size_of(file))), std::move(room));
  memory->assign(filler_, file);
  slots_.push_back({memory, false, ++clock_});
  return memory;
}

/// Needs mutex_.  Files of the job's own version do not count.
Warmer::Slots::iterator Warmer::oldest_unused(const Job& job, std::optional<uint64_t> size) {
  auto oldest = slots_.end();
  for (auto slot = slots_.begin(); slot != slots_.end(); ++slot) {
    if (slot->file->file().ordinal == job.ordinal || slot->file->size() != size.value_or(slot->file->size())) continue;
    if (oldest != slots_.end() && oldest->used_at <= slot->used_at) continue;
    if (!in_use(*slot)) oldest = slot;
  }
  return oldest;
}

/// Needs mutex_, under which alone find() hands files out.
bool Warmer::in_use(const Slot& slot) { return slot.file.use_count() > 1 || !slot.file->memory().unused(); }

/// Needs mutex_.
void Warmer::sweep() {
  std::erase_if(leaving_, [](const Slot& slot) { return !in_use(slot); });
}

Warmer::Slots::iterator Warmer::slot_of(const VersionFile& file) {
  return std::find_if(slots_.begin(), slots_.end(), [&](const Slot& slot) { return slot.file->file() == file; });
}

Warmer::Slots::const_iterator Warmer::slot_of(const VersionFile& file) const {
  return std::find_if(slots_.begin(), slots_.end(), [&](const Slot& slot) { return slot.file->file() == file; });
}

std::shared_ptr<const MemoryFile> Warmer::find(const VersionFile& file) const {
  if (ready_.load(std::memory_order_acquire) == 0) return nullptr;
  const Lock lock(mutex_);
  const auto slot = slot_of(file);
  if (slot == slots_.end() || !slot->ready) return nullptr;
  slot->used_at = ++clock_;
  return {slot->file, &slot->file->memory()};
}

uint64_t Warmer::warm_bytes(size_t ordinal) const {
  const Lock lock(mutex_);
  uint64_t bytes = 0;
  for (const Slot& slot : slots_) {
    if (slot.file->file().ordinal == ordinal && slot.ready) bytes += slot.file->size();
  }
  return bytes;
}

WarmStatus Warmer::status(size_t ordinal) const {
  WarmStatus status;
  status.total = total_bytes(ordinal);
  bool all_ready = true;
  const Lock lock(mutex_);
  for (const Slot& slot : slots_) {
    if (slot.file->file().ordinal != ordinal) continue;
    status.bytes += slot.ready ? slot.file->size() : slot.file->done();
    all_ready = all_ready && slot.ready;
  }
  const auto job = jobs_.find(ordinal);
  if (job != jobs_.end()) {
    status.state = job->second->state;
    status.seconds = job->second->seconds;
    status.error = job->second->error;
  }
  const bool complete = all_ready && status.bytes == status.total;
  if (!is_active(status.state) && complete && status.total != 0) status.state = WarmState::kWarm;
  if (status.state == WarmState::kWarm && !complete) status.state = WarmState::kCold;  // its memory was used again
  return status;
}

}  // namespace weightfs
