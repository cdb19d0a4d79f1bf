// SPDX-License-Identifier: Apache-2.0
// The life of a new version: seen, opened, found to follow (chain/follower.h), checked and warmed here, shown.
#include "cli/following.h"

#include <algorithm>
#include <array>
#include <exception>

#include "cli/report.h"
#include "common/log.h"
#include "common/text.h"

namespace weightfs::cli {
namespace {

/// How long a version waits for memory that readers of another one hold, before it is shown without being warm.
constexpr auto kPatience = std::chrono::seconds(2);
constexpr auto kTick = std::chrono::milliseconds(5);
constexpr auto kHookGrace = std::chrono::seconds(5);
constexpr auto kHourly = std::chrono::hours(1);

double seconds(std::chrono::steady_clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

/// Seconds; large models on slow disks take minutes.
constexpr std::array kCheckBounds = {0.01, 0.025, 0.05, 0.1,  0.25,  0.5,   1.0,  2.5,
                                     5.0,  10.0,  25.0, 50.0, 100.0, 250.0, 600.0};

double epoch_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

bool is_under_way(WarmState state) {
  return state == WarmState::kQueued || state == WarmState::kWaiting || state == WarmState::kFilling;
}

}  // namespace

Following::Following(std::unique_ptr<Follower> follower, std::optional<uint64_t> keep,
                     std::shared_ptr<const Serving> first, FollowingOptions options, Actions actions)
    : follower_(std::move(follower)),
      options_(std::move(options)),
      actions_(std::move(actions)),
      serving_(std::move(first)),
      verified_(options_.verified),
      checks_(kCheckBounds),
      moved_at_(options_.now()) {
  state_.poll_seconds = std::chrono::duration<double>(options_.poll).count();
  state_.keep = keep;
  state_.warm = options_.warm;
  state_.inotify = watch_.has_inotify();
  state_.latest_moved_at = utc_now();
  state_.latest_moved_epoch = epoch_seconds();
  state_.hook_command = options_.hook_command;
  if (!options_.hook_command.empty()) {
    hook_ = std::make_unique<AdvanceHook>(options_.hook_command, options_.hook_limit, kHookGrace,
                                          AdvanceHook::Actions{actions_.hook_started, actions_.advanced},
                                          options_.left_hook);
  }
}

Following::~Following() {
  stop();
  if (thread_.joinable()) thread_.join();
}

void Following::start() {
  thread_ = std::thread([this] { work(); });
}

FollowState Following::state() const {
  FollowState state;
  {
    const std::lock_guard lock(mutex_);
    state = state_;
    state.seconds_since_latest = seconds(options_.now() - moved_at_);
  }
  state.checks = checks_.counts();
  state.pins = actions_.pins();
  if (hook_) state.hook = hook_->report();
  return state;
}

ShownState Following::shown_state() const {
  ShownState state = follower_->state();
  state.verified = verified_;
  return state;
}

/// Of a version that is shown; empty for any other.
std::string Following::name_of(uint64_t identity) const {
  for (const Catalog::Shown& shown : serving_->catalog.shown()) {
    if (shown.version().identity == identity) return shown.version().name;
  }
  return {};
}

void Following::work() {
  // The process before us may have ended before it had told of the version that it showed.
  const uint64_t latest = serving_->catalog.latest().version().identity;
  if (options_.advanced && *options_.advanced != latest) advance(name_of(*options_.advanced));
  if (!options_.advanced && actions_.advanced) actions_.advanced(latest);
  Follower::Look how;
  auto last_thorough = options_.now() - kHourly;
  while (!watch_.stopped()) {
    how.thorough = how.thorough || options_.now() - last_thorough >= options_.poll;
    if (how.thorough) last_thorough = options_.now();
    const bool sound = guarded_round(std::exchange(how, Follower::Look{false, {}}));
    // What was found just now is watched while we wait; something may have come before it was.
    if (watch_.watch(follower_->folders()) && sound) continue;
    SourceWatch::Outcome outcome = watch_.wait(sound ? pause() : options_.poll);
    how = {!outcome.events || outcome.overflow, std::move(outcome.finished)};
  }
}

/// No exception ends the mount: what is shown stays, and the next round tries again.  False when there was one.
bool Following::guarded_round(const Follower::Look& how) {
  try {
    round(how);
    return true;
  } catch (const std::exception& exception) {
    const std::lock_guard lock(mutex_);
    state_.problem = Error{ErrorCode::kInternal, exception.what()};
    log::write(log::Level::kError, "follow.internal_error", state_.problem->text());
    return false;
  }
}

/// Until the next look that no event asks for.
std::chrono::milliseconds Following::pause() const {
  if (!follower_->due()) return options_.poll;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(*follower_->due() - options_.now());
  return std::clamp(left, std::chrono::milliseconds(1), options_.poll);
}

void Following::round(const Follower::Look& how) {
  follower_->look(how);
  note_problem();
  while (!watch_.stopped()) {
    const auto next = follower_->next();
    if (!next) break;
    try_next(*next);
  }
  if (!watch_.stopped()) publish(nullptr);
}

void Following::try_next(const NextVersion& next) {
  const auto engine = std::make_shared<Engine>(next.snapshot, serving_->engine());
  const auto start = Clock::now();
  const Status checked = check(*engine, next);
  if (watch_.stopped()) return;
  checks_.record(Clock::now() - start);
  if (!checked) {
    follower_->refuse(checked.error());
    return;
  }
  if (options_.verify) verified_.insert(next.version().identity);
  seen_ = next.seen;
  follower_->accept();
  publish(engine);
}

/// Composing everything that the version changes is at once what proves its digests and what warms it.
Status Following::check(Engine& engine, const NextVersion& next) {
  if (options_.warm) {
    if (auto warmed = warm(engine, next)) return *std::move(warmed);
  }
  return engine.check_version(next.ordinal, [this] { return watch_.stopped(); });
}

/// Nothing when it could not be made warm for a reason that is not its own.
std::optional<Status> Following::warm(Engine& engine, const NextVersion& next) {
  const std::string& name = next.version().name;
  if (const Status begun = engine.warm(next.ordinal); !begun) {
    log::event(log::Level::kInfo, "version.not_warmed", "{}", begun.error().text());
    return std::nullopt;
  }
  const auto start = Clock::now();
  for (;;) {
    const WarmStatus status = engine.wait_until_warm(next.ordinal, kTick);
    if (status.state == WarmState::kWarm) return Status();
    if (status.state == WarmState::kFailed) return std::nullopt;  // checking it tells why
    if (!is_under_way(status.state)) return std::nullopt;
    const bool hopeless = status.state == WarmState::kWaiting && Clock::now() - start > kPatience;
    if (!hopeless && !watch_.stopped()) continue;
    log::event(log::Level::kInfo, "version.not_warmed", "{}: others use the memory", quote(name));
    engine.cancel_warming(next.ordinal);
    return std::nullopt;
  }
}

bool Following::same(const Catalog& catalog) const {
  const auto& before = serving_->catalog;
  const auto same_version = [](const Catalog::Shown& a, const Catalog::Shown& b) {
    return a.snapshot == b.snapshot && a.ordinal == b.ordinal;
  };
  const auto same_refusal = [](const Version& a, const Version& b) {
    return a.name == b.name && a.path == b.path && a.error->message == b.error->message;
  };
  return before.latest_index() == catalog.latest_index() &&
         std::equal(before.shown().begin(), before.shown().end(), catalog.shown().begin(), catalog.shown().end(),
                    same_version) &&
         std::equal(before.refused().begin(), before.refused().end(), catalog.refused().begin(),
                    catalog.refused().end(), same_refusal);
}

/// Shows what the follower has, if that is anything new.  `newest`: the engine of its newest snapshot, if there is one.
void Following::publish(const std::shared_ptr<Engine>& newest) {
  Catalog catalog = follower_->catalog(actions_.pinned());
  note_refusals(catalog);
  if (!same(catalog)) show(std::move(catalog), newest);
  drop_what_left();
}

void Following::show(Catalog catalog, const std::shared_ptr<Engine>& newest) {
  std::map<const Snapshot*, std::shared_ptr<Engine>> engines;
  for (const ServedVersion& version : serving_->versions) {
    engines.emplace(&version.engine->snapshot(), version.engine);
  }
  if (newest) engines.insert_or_assign(&newest->snapshot(), newest);
  const std::string before = serving_->catalog.latest().version().name;
  auto next = std::make_shared<Serving>(Serving{std::move(catalog), {}, {}});
  std::set<uint64_t> shown;
  for (const Catalog::Shown& version : next->catalog.shown()) {
    auto& engine = engines[version.snapshot.get()];
    if (!engine) engine = std::make_shared<Engine>(version.snapshot, serving_->engine());
    next->versions.push_back({engine, version.ordinal});
    next->verified.push_back(verified_.contains(version.version().identity));
    shown.insert(version.version().identity);
  }
  std::erase_if(verified_, [&](uint64_t identity) { return !shown.contains(identity); });
  const auto former = std::exchange(serving_, std::move(next));
  note_admitted(*former);  // first: who sees the version finds it counted
  actions_.show(serving_, shown_state());
  note_left(*former);
  const Version& latest = serving_->catalog.latest().version();
  if (latest.identity != former->catalog.latest().version().identity) moved(before, latest.name);
}

void Following::note_admitted(const Serving& former) {
  std::set<uint64_t> known;
  for (const Catalog::Shown& shown : former.catalog.shown()) known.insert(shown.version().identity);
  for (const Catalog::Shown& shown : serving_->catalog.shown()) {
    if (known.contains(shown.version().identity)) continue;
    log::event(log::Level::kInfo, "version.admitted", "{}", quote(shown.version().name));
    const std::lock_guard lock(mutex_);
    ++state_.admitted;
  }
}

void Following::note_left(const Serving& former) {
  for (const Catalog::Shown& shown : former.catalog.shown()) left_.emplace(shown.version().identity, shown.ordinal);
  for (const Catalog::Shown& shown : serving_->catalog.shown()) left_.erase(shown.version().identity);
}

/// Memory of versions that nobody can come to any more is given back soon: the budget alone would let it go only when
/// it is used up, and until then each file is a descriptor, here and in our supervisor.
void Following::drop_what_left() {
  if (actions_.tidy) actions_.tidy();
  const std::vector<uint64_t> open = actions_.open ? actions_.open() : std::vector<uint64_t>();
  std::erase_if(left_, [&](const auto& version) {
    if (std::find(open.begin(), open.end(), version.first) != open.end()) return false;
    serving_->versions.front().engine->drop_warm(version.second);
    return true;
  });
}

void Following::moved(const std::string& before, const std::string& now) {
  log::event(log::Level::kInfo, "latest.moved", "{} to {}", quote(before), quote(now));
  {
    const std::lock_guard lock(mutex_);
    moved_at_ = options_.now();
    state_.latest_moved_at = utc_now();
    state_.latest_moved_epoch = epoch_seconds();
    if (seen_) state_.last_delay_seconds = seconds(moved_at_ - *seen_);
  }
  if (actions_.moved) actions_.moved();
  advance(before);
}

void Following::advance(const std::string& before) {
  const Version& latest = serving_->catalog.latest().version();
  if (!hook_ && actions_.advanced) actions_.advanced(latest.identity);
  if (!hook_) return;
  const std::string& root = options_.mount_point;
  const std::string& now = latest.name;
  hook_->advance(
      {now, root + "/" + now, root, before, root + "/.weightfs/versions/" + now + "/changed.json", latest.identity});
}

/// Every refusal is logged and counted once, until its reason is another.
void Following::note_refusals(const Catalog& catalog) {
  std::map<std::string, std::string> now;
  for (const Version& version : catalog.refused()) {
    const std::string text = version.error->text();
    now[version.path] = text;
    const auto known = refusals_.find(version.path);
    if (known != refusals_.end() && known->second == text) continue;
    const bool waits = is_waiting(*version.error);
    log::event(waits ? log::Level::kInfo : log::Level::kWarn, waits ? "version.waiting" : "version.refused", "{}: {}",
               quote(version.name), text);
    const std::lock_guard lock(mutex_);
    state_.refusals += waits ? 0 : 1;
    if (!waits) ++state_.refusals_by_code[version.error->code];
  }
  refusals_ = std::move(now);
}

void Following::note_problem() {
  const std::lock_guard lock(mutex_);
  const auto& problem = follower_->problem();
  if (problem && (!state_.problem || state_.problem->message != problem->message)) {
    log::write(log::Level::kWarn, "source.changed", problem->text());
  }
  state_.problem = problem;
}

}  // namespace weightfs::cli
