// SPDX-License-Identifier: Apache-2.0
// The queue of versions to warm, and the memory that they lie in.  What must stay true: memory changes hands only
// when nobody holds it here and the kernel says that nobody has it open or mapped, which includes mappings that
// outlive their descriptor and of which no RELEASE tells.
#include "engine/warmer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "common/checked.h"
#include "common/log.h"
#include "common/memory_limit.h"
#include "common/text.h"
#include "engine/fill_files.h"

namespace weightfs {
namespace {

constexpr auto kRetry = std::chrono::milliseconds(50);  // nobody tells when a mapping goes away
constexpr size_t kKeptJobs = 64;                        // of those that have ended
constexpr uint64_t kMega = uint64_t{1} << 20;
constexpr uint64_t kLeftToSystem = 256 * kMega;

bool is_active(WarmState state) {
  return state == WarmState::kQueued || state == WarmState::kWaiting || state == WarmState::kFilling;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Warmer::Warmer(Cache& cache, unsigned threads, std::shared_ptr<Keeper> keeper, Descriptor tmpfs)
    : cache_(cache),
      keeper_(std::move(keeper)),
      memory_files_(std::move(tmpfs)),
      arena_(static_cast<int>(threads), 1, tbb::task_arena::priority::low) {}

Warmer::~Warmer() {
  {
    const Lock lock(mutex_);
    ending_ = true;
    queue_.clear();
    if (running_) running_->cancelled = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
  for (const Slots* slots : {&slots_, &leaving_}) {
    for (const Slot& slot : *slots) slot.file->leave_cache();
  }
}

Status Warmer::start(const Source& source, size_t ordinal) {
  const uint64_t total = source->total_bytes(ordinal);
  const uint64_t most = cache_.most_set_aside();
  if (total > most) {
    // An eighth of what is added stays free; of a small budget more goes to replies and blocks.
    const uint64_t more = ceil_div(std::min((total - most) * 4, (total - most) / 7 * 8 + 256 * kMega), kMega) + 1;
    return Error{ErrorCode::kNoRoomToWarm,
                 fmt::format("version {} takes {} of memory, but the mount's budget leaves {} for that; mount it "
                             "again with a --memory that is larger by {}M",
                             quote(source->name(ordinal)), human_bytes(total), human_bytes(most), more)};
  }
  auto job = std::make_shared<Job>();
  job->source = source;
  job->ordinal = ordinal;
  const Lock lock(mutex_);
  const auto known = jobs_.find(ordinal);
  if (known != jobs_.end() && is_active(known->second->state) && !known->second->cancelled) return {};
  jobs_[ordinal] = job;
  enqueue(std::move(job));
  for (auto old = jobs_.begin(); jobs_.size() > kKeptJobs && old != jobs_.end();) {
    old = is_active(old->second->state) ? std::next(old) : jobs_.erase(old);
  }
  return {};
}

bool Warmer::start_file(const Source& source, const VersionFile& file) {
  if (!source->decodes(file)) return false;
  const uint64_t size = source->size_of(file);
  const Lock lock(mutex_);
  const auto slot = slot_of(file);
  const bool begun = slot != slots_.end();  // and stopped, unless it is ready
  if (job_of(file) || (begun && slot->ready)) return true;
  const bool room = size <= cache_.most_set_aside() - cache_.usage().set_aside;
  if (!begun && !room && oldest_unused(file.ordinal, size) == slots_.end()) return false;
  auto job = std::make_shared<Job>();
  job->source = source;
  job->ordinal = file.ordinal;
  job->entry = file.entry;
  enqueue(std::move(job));
  return true;
}

bool Warmer::start_after(const Source& source, const VersionFile& file) {
  auto files = source->files(file.ordinal);
  const auto found = std::find(files.begin(), files.end(), file);
  if (found == files.end()) return false;
  std::rotate(files.begin(), found + 1, files.end());
  return start_files(source, files);
}

bool Warmer::start_at(const Source& source, const VersionFile& file) {
  auto files = source->files(file.ordinal);
  const auto found = std::find(files.begin(), files.end(), file);
  if (found == files.end() || has(file)) return false;
  std::rotate(files.begin(), found, files.end());
  const bool begun = start_files(source, files);
  const Lock lock(mutex_);
  if (const auto job = job_of(file)) job->wanted = true;
  return begun;
}

bool Warmer::start_files(const Source& source, const std::vector<VersionFile>& files) {
  bool begun = false;
  for (uint64_t bytes = 0; const VersionFile& each : files) {
    if ((bytes += source->size_of(each)) > cache_.most_set_aside()) break;
    begun = start_file(source, each) || begun;
  }
  return begun;
}

/// Needs mutex_.  The one that is to make a file, or null.
std::shared_ptr<Warmer::Job> Warmer::job_of(const VersionFile& file) const {
  const auto makes = [&](const auto& job) {
    return job && job->ordinal == file.ordinal && job->entry.value_or(file.entry) == file.entry;
  };
  if (makes(running_)) return running_;
  const auto queued = std::find_if(queue_.begin(), queue_.end(), makes);
  return queued == queue_.end() ? nullptr : *queued;
}

void Warmer::wait_for(const VersionFile& file, const std::function<bool()>& gone) {
  Lock lock(mutex_);
  const auto is_over = [&] {
    const auto slot = slot_of(file);
    if (ending_ || (slot != slots_.end() && slot->ready) || !job_of(file)) return true;
    return running_ && running_->state == WarmState::kWaiting;
  };
  while (!is_over()) {
    changed_.wait_for(lock, kRetry);
    lock.unlock();
    const bool alone = gone();
    lock.lock();
    if (alone) return;
  }
}

/// Needs mutex_.
void Warmer::enqueue(std::shared_ptr<Job> job) {
  queue_.push_back(std::move(job));
  if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  changed_.notify_all();
}

/// Needs mutex_.  The one that is running stops soon.
void Warmer::cancel_jobs(size_t ordinal) {
  std::erase_if(queue_, [&](const auto& job) {
    if (job->ordinal != ordinal) return false;
    job->state = WarmState::kCancelled;
    job->source = nullptr;  // what is left of a job needs no engine
    return true;
  });
  if (running_ && running_->ordinal == ordinal) running_->cancelled = true;
  changed_.notify_all();
}

void Warmer::cancel(size_t ordinal) {
  const Lock lock(mutex_);
  cancel_jobs(ordinal);
}

void Warmer::drop(size_t ordinal) {
  Lock lock(mutex_);
  cancel_jobs(ordinal);
  changed_.wait(lock, [&] { return !running_ || running_->ordinal != ordinal; });
  jobs_.erase(ordinal);
  for (auto slot = slots_.begin(); slot != slots_.end();) {
    const auto next = std::next(slot);
    if (slot->file->file().ordinal == ordinal) {
      unready(*slot);
      leaving_.splice(leaving_.end(), slots_, slot);
    }
    slot = next;
  }
  sweep();
  changed_.notify_all();
}

void Warmer::run() {
  Lock lock(mutex_);
  while (!ending_) {
    sweep();
    if (queue_.empty()) {
      leaving_.empty() ? changed_.wait(lock) : static_cast<void>(changed_.wait_for(lock, kRetry));
      continue;
    }
    auto next = std::find_if(queue_.begin(), queue_.end(), [](const auto& job) { return job->wanted; });
    if (next == queue_.end()) next = queue_.begin();
    running_ = *next;
    queue_.erase(next);
    lock.unlock();
    work(*running_);
    lock.lock();
    running_.reset();
    changed_.notify_all();
  }
}

void Warmer::work(Job& job) {
  const std::string& name = job.source->name(job.ordinal);
  const auto start = std::chrono::steady_clock::now();
  std::vector<VersionFile> files = job.source->files(job.ordinal);
  std::erase_if(files, [&](const VersionFile& file) { return job.entry.value_or(file.entry) != file.entry; });
  const Status outcome = warm(job, std::move(files));
  const Source done_with = std::exchange(job.source, nullptr);  // what is left of a job needs no engine
  const Lock lock(mutex_);
  job.seconds = seconds_since(start);
  job.state = !outcome ? WarmState::kFailed : job.cancelled ? WarmState::kCancelled : WarmState::kWarm;
  if (outcome) {
    log::event(log::Level::kInfo, job.cancelled ? "warm.cancelled" : "warm.done", "{} after {:.3f} s", quote(name),
               job.seconds);
  } else {
    job.error = outcome.error().in("version " + quote(name));
    log::write(log::Level::kError, "warm.failed", job.error->text());
  }
}

/// As many files at a time as there is memory for.
Status Warmer::warm(Job& job, std::vector<VersionFile> files) {
  while (!files.empty()) {
    const auto memory = TRY(obtain(job, files));
    if (memory.empty()) return {};  // cancelled, or there is no room and nobody waits for it
    Status filled = fill_files(memory, *job.source, arena_, cache_, job.cancelled);
    settle(job, memory, !filled);
    if (!filled) return filled;
  }
  return {};
}

/// What a run has made of files.
void Warmer::settle(const Job& job, const std::vector<std::shared_ptr<WarmFile>>& files, bool failed) {
  const Lock lock(mutex_);
  for (const auto& file : files) {
    const auto slot = slot_of(file->file());
    slot->used_at = ++clock_;
    const bool complete = file->done() == file->size();
    if (complete && !slot->ready) {
      ++ready_;
      slot->ready = true;
      slot->kept = keeper_.keep(*job.source, *file);
    }
    if (!complete && (failed || !job.cancelled)) erase(slot);
  }
  changed_.notify_all();
}

/// Takes the files that there is memory for out of `files`; waits until that is at least one.
Result<std::vector<std::shared_ptr<WarmFile>>> Warmer::obtain(Job& job, std::vector<VersionFile>& files) {
  std::vector<std::shared_ptr<WarmFile>> found;
  Lock lock(mutex_);
  for (;;) {
    if (job.cancelled) return std::vector<std::shared_ptr<WarmFile>>();
    while (!files.empty()) {
      auto memory = TRY(try_obtain(job, files.front()));
      if (!memory) break;
      found.push_back(std::move(memory));
      files.erase(files.begin());
    }
    job.state = found.empty() ? WarmState::kWaiting : WarmState::kFilling;
    if (!found.empty() || job.entry) return found;
    changed_.wait_for(lock, kRetry);
  }
}

/// Needs mutex_.  Null when no memory can be had now.
Result<std::shared_ptr<WarmFile>> Warmer::try_obtain(const Job& job, const VersionFile& file) {
  if (const auto slot = slot_of(file); slot != slots_.end()) return slot->file;
  sweep();
  const uint64_t size = job.source->size_of(file);
  for (;;) {
    const bool system_has_it = available_memory().value_or(UINT64_MAX) >= size + kLeftToSystem;
    if (auto room = system_has_it ? cache_.set_aside(size) : std::nullopt)
      return add_slot(*job.source, file, std::move(*room));
    auto slot = oldest_unused(job.ordinal, size);
    if (slot != slots_.end() && !slot->lent) {
      unready(*slot);
      slot->file->assign(*job.source, file, ancestor_of(*job.source, file));
      return slot->file;
    }
    if (slot == slots_.end()) slot = oldest_unused(job.ordinal, std::nullopt);
    if (slot == slots_.end()) return std::shared_ptr<WarmFile>();
    erase(slot);
  }
}

/// Needs mutex_.
Result<std::shared_ptr<WarmFile>> Warmer::add_slot(const Filler& source, const VersionFile& file,
                                                   Cache::Reservation room) {
  auto memory = std::make_shared<WarmFile>(TRY(memory_files_.make(source.size_of(file))), std::move(room));
  memory->assign(source, file, ancestor_of(source, file));
  slots_.push_back({memory, false, false, ++clock_, {}});
  return memory;
}

size_t Warmer::adopt(const Filler& source, std::vector<Kept> kept) {
  std::vector<WarmKeeper::Left> left = keeper_.recognise(source, std::move(kept));
  size_t adopted = 0;
  const Lock lock(mutex_);
  for (auto& [file, record] : left) {
    const auto slot = slot_of(file);
    if (slot != slots_.end() && slot->kept == record.key) continue;  // what is kept under that key is ours already
    if (slot == slots_.end() && adopt_file(source, file, record)) {
      ++adopted;
    } else {
      keeper_.forget(record.key);
    }
  }
  if (!left.empty()) log::event(log::Level::kInfo, "warm.adopted", "{} files", adopted);
  return adopted;
}

/// Needs mutex_.
bool Warmer::adopt_file(const Filler& source, const VersionFile& file, Kept& record) {
  const uint64_t size = source.size_of(file);
  auto memory = MemoryFiles::adopt(std::move(record.file), size);
  auto room = memory ? cache_.set_aside(size) : std::nullopt;
  if (!room) return false;
  const auto warm = std::make_shared<WarmFile>(std::move(memory).value(), std::move(*room));
  warm->adopt(source, file);
  // In front, and as old as can be, so that older versions go first.  Nobody knows whether the kernel has had it.
  slots_.push_front({warm, true, true, 0, record.key});
  ++ready_;
  return true;
}

/// Needs mutex_.  The newest earlier version whose memory this file can be made from, or null.
std::shared_ptr<const WarmFile> Warmer::ancestor_of(const Filler& source, const VersionFile& file) const {
  const Slot* best = nullptr;
  for (const Slot& slot : slots_) {
    const size_t ordinal = slot.file->file().ordinal;
    if (!slot.ready || ordinal >= file.ordinal || !source.alike(slot.file->file(), file)) continue;
    if (best == nullptr || ordinal > best->file->file().ordinal) best = &slot;
  }
  return best == nullptr ? nullptr : best->file;
}

/// Needs mutex_.  Files of version `ordinal` itself do not count.
Warmer::Slots::iterator Warmer::oldest_unused(size_t ordinal, std::optional<uint64_t> size) {
  auto oldest = slots_.end();
  for (auto slot = slots_.begin(); slot != slots_.end(); ++slot) {
    if (slot->file->file().ordinal == ordinal || slot->file->size() != size.value_or(slot->file->size())) continue;
    if (oldest != slots_.end() && oldest->used_at <= slot->used_at) continue;
    if (!in_use(*slot)) oldest = slot;
  }
  return oldest;
}

/// Needs mutex_.  Comes before the memory is anybody else's.
void Warmer::unready(Slot& slot) {
  if (std::exchange(slot.ready, false)) --ready_;
  if (!slot.kept.empty()) keeper_.forget(std::exchange(slot.kept, {}));
}

/// Needs mutex_.
void Warmer::erase(Slots::iterator slot) {
  unready(*slot);
  slots_.erase(slot);
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

std::shared_ptr<const MemoryFile> Warmer::find(const VersionFile& file, bool lend) {
  if (ready_.load(std::memory_order_acquire) == 0) return nullptr;
  const Lock lock(mutex_);
  const auto slot = slot_of(file);
  if (slot == slots_.end() || !slot->ready) return nullptr;
  slot->used_at = ++clock_;
  slot->lent = slot->lent || lend;
  return {slot->file, &slot->file->memory()};
}

bool Warmer::has(const VersionFile& file) const {
  const Lock lock(mutex_);
  const auto slot = slot_of(file);
  return slot != slots_.end() && slot->ready;
}

WarmStatus Warmer::status(const Filler& source, size_t ordinal) const {
  const uint64_t total = source.total_bytes(ordinal);
  const Lock lock(mutex_);
  return status_of(total, ordinal);
}

WarmStatus Warmer::wait(const Filler& source, size_t ordinal, std::chrono::milliseconds limit) {
  const uint64_t total = source.total_bytes(ordinal);
  Lock lock(mutex_);
  const auto job = jobs_.find(ordinal);
  const auto known = job == jobs_.end() ? nullptr : job->second;  // it may be forgotten while we wait
  if (known) changed_.wait_for(lock, limit, [&] { return !is_active(known->state) || ending_; });
  return status_of(total, ordinal);
}

/// Needs mutex_.
WarmStatus Warmer::status_of(uint64_t total, size_t ordinal) const {
  WarmStatus status;
  status.total = total;
  bool all_ready = true;
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
