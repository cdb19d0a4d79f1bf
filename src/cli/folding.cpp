// SPDX-License-Identifier: Apache-2.0
// When a fold is worth making, and what becomes of it.  Nothing here is waited for by a reader, and nothing that fails
// here fails a read.
#include "cli/folding.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>

#include "common/log.h"
#include "common/text.h"

namespace weightfs::cli {
namespace {

constexpr auto kPause = std::chrono::seconds(60);         // after it, even without a reason: others use the cache, too
constexpr auto kBreath = std::chrono::milliseconds(200);  // what comes in quick succession is done together
constexpr auto kAfterFullDisk = std::chrono::minutes(10);
constexpr int kNice = 10;
/// What coding takes for each thread, about.
constexpr uint64_t kBytesPerThread = 16u << 20;

unsigned thread_count(unsigned wanted) {
  return wanted != 0 ? wanted : std::max(1u, std::thread::hardware_concurrency() / 4);
}

/// Those that are not of the disk or the network may be right another time.
bool is_final(const Error& error) {
  return error.code != ErrorCode::kIoWrite && error.code != ErrorCode::kIoRead && error.code != ErrorCode::kIoOpen &&
         error.code != ErrorCode::kStoreBusy;
}

}  // namespace

Folding::Folding(store::FoldCache cache, std::function<std::shared_ptr<const Serving>()> serving, unsigned threads)
    : cache_(std::move(cache)), serving_(std::move(serving)), threads_(thread_count(threads)) {
  state_.path = cache_.path();
  state_.limit = cache_.limit();
  note_size();
}

Folding::~Folding() {
  stopped_.store(true);
  poke();
  if (!thread_.joinable()) return;
  thread_.join();
  folds().on_wish(nullptr);
}

Folds& Folding::folds() const { return serving_()->engine().folds(); }

void Folding::start() {
  folds().on_wish([this] { poke(); });
  thread_ = std::thread([this] { work(); });
}

void Folding::poke() {
  const std::lock_guard lock(mutex_);
  poked_ = true;
  woken_.notify_all();
}

FoldingState Folding::state() const {
  const size_t in_use = folds().all().size();  // before the lock: poke() is called under that of the folds
  const std::lock_guard lock(mutex_);
  FoldingState state = state_;
  state.in_use = in_use;
  return state;
}

void Folding::work() {
  ::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kNice);  // of this thread, and those that it starts
  do {
    try {
      round();
    } catch (const std::exception& exception) {
      note_problem(exception.what());
    }
  } while (wait());
}

bool Folding::wait() {
  std::unique_lock lock(mutex_);
  woken_.wait_for(lock, kPause, [&] { return poked_ || stopped_.load(); });
  woken_.wait_for(lock, kBreath, [&] { return stopped_.load(); });
  poked_ = false;
  return !stopped_.load();
}

void Folding::round() {
  drop_rejected();
  touch_used();
  const auto serving = serving_();
  Engines engines;
  for (const ServedVersion& version : serving->versions) {
    if (std::find(engines.begin(), engines.end(), version.engine) == engines.end()) engines.push_back(version.engine);
  }
  forget_gone(engines);
  for (const auto& engine : engines) load(engine);
  const ServedVersion& latest = serving->versions[serving->catalog.latest_index()];
  fold(latest.engine, latest.ordinal);
  for (const size_t wish : folds().take_wishes()) {
    const auto wanted = std::find_if(serving->versions.begin(), serving->versions.end(),
                                     [&](const ServedVersion& version) { return version.ordinal == wish; });
    if (wanted != serving->versions.end()) fold(wanted->engine, wish);
  }
  make_room();
  note_size();
}

void Folding::drop_rejected() {
  for (const auto& [fold, error] : folds().take_rejected()) {
    const std::string name = store::FoldCache::name_of(*fold);
    if (is_final(error)) {
      cache_.remove(name);
    } else {
      seen_.erase(name);
    }
    const std::lock_guard lock(mutex_);
    ++state_.rejected;
  }
}

void Folding::touch_used() {
  for (const auto& fold : folds().all()) {
    if (Folds::take_use(*fold)) cache_.touch(store::FoldCache::name_of(*fold));
  }
}

/// Folds of versions that nobody is shown any more stay on disk: who mounts the source again may be.
void Folding::forget_gone(const Engines& engines) {
  for (const auto& fold : folds().all()) {
    const auto has = [&](const auto& engine) { return engine->snapshot().has(fold->to); };
    if (std::any_of(engines.begin(), engines.end(), has)) continue;
    folds().remove(*fold);
    seen_.erase(store::FoldCache::name_of(*fold));
  }
}

void Folding::load(const std::shared_ptr<Engine>& engine) {
  const store::VersionSource source(engine);
  for (auto& fold : cache_.load(source, [&](const std::string& name) { return seen_.contains(name); })) {
    seen_.insert(store::FoldCache::name_of(*fold));
    log::event(log::Level::kInfo, "fold.loaded", "{}", quote(fold->delta().folder()));
    folds().add(std::move(fold));
  }
}

void Folding::fold(const std::shared_ptr<Engine>& engine, size_t ordinal) {
  const Snapshot& snapshot = engine->snapshot();
  const Depth depth = depth_of(snapshot, folds(), ordinal);
  if (stopped_.load() || depth.steps < Folds::kDeep || depth.bottom >= ordinal) return;
  if (Clock::now() < not_before_ || hopeless_.contains(snapshot.admitted(ordinal).identity)) return;
  {
    const std::lock_guard lock(mutex_);
    state_.making = snapshot.admitted(ordinal).name;
  }
  make(engine, depth.bottom, ordinal);
  const std::lock_guard lock(mutex_);
  state_.making.clear();
}

void Folding::make(const std::shared_ptr<Engine>& engine, size_t from, size_t to) {
  const auto memory = engine->reserve(threads_ * kBytesPerThread);
  store::Work work;
  work.threads = threads_;
  work.stopped = [this] { return stopped_.load(); };
  const auto start = Clock::now();
  auto made = cache_.make(store::VersionSource(engine), from, to, work);
  if (stopped_.load()) return;
  const Version& version = engine->snapshot().admitted(to);
  if (!made) {
    if (is_final(made.error())) hopeless_.insert(version.identity);
    if (made.error().code == ErrorCode::kIoWrite) not_before_ = Clock::now() + kAfterFullDisk;
    return note_problem(fmt::format("{}: {}", version.name, made.error().text()));
  }
  if ((*made)->delta().stored_bytes() > cache_.limit()) {
    hopeless_.insert(version.identity);
    cache_.remove(store::FoldCache::name_of(**made));
    return note_problem(fmt::format("{}: its fold has {} bytes, more than --cache-size allows", version.name,
                                    (*made)->delta().stored_bytes()));
  }
  const std::chrono::duration<double> seconds = Clock::now() - start;
  log::event(log::Level::kInfo, "fold.made", "{} in {:.2f} s: {} bytes for {} deltas", quote(version.name),
             seconds.count(), (*made)->delta().stored_bytes(), to - from);
  seen_.insert(store::FoldCache::name_of(**made));
  folds().add(*std::move(made));
  note_problem({});
  const std::lock_guard lock(mutex_);
  ++state_.made;
}

void Folding::make_room() {
  cache_.make_room([&](const std::string& name) {
    for (const auto& fold : folds().all()) {
      if (store::FoldCache::name_of(*fold) != name) continue;
      folds().remove(*fold);
      log::event(log::Level::kInfo, "fold.evicted", "{}", quote(fold->delta().folder()));
    }
    seen_.erase(name);
  });
}

void Folding::note_size() {
  const auto size = cache_.size();
  const std::lock_guard lock(mutex_);
  state_.bytes = size.bytes;
  state_.folds = size.folds;
}

void Folding::note_problem(const std::string& problem) {
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(state_.problem, problem) == problem) return;
  }
  if (!problem.empty()) log::event(log::Level::kWarn, "fold.not_made", "{}", problem);
}

}  // namespace weightfs::cli
