// SPDX-License-Identifier: Apache-2.0
#include "cli/mount_report.h"

#include <cerrno>
#include <nlohmann/json.hpp>

#include "cli/changes_report.h"

namespace weightfs::cli {

void MountReport::set_facts(MountFacts facts, const Session& session) {
  const std::lock_guard lock(mutex_);
  facts_ = std::move(facts);
  session_ = &session;
}

void MountReport::set_supervisor(std::function<bool()> lives) {
  const std::lock_guard lock(mutex_);
  supervisor_lives_ = std::move(lives);
}

void MountReport::set_serving(std::shared_ptr<const Serving> serving) {
  const std::lock_guard lock(mutex_);
  serving_ = std::move(serving);
  std::erase_if(refusals_, [&](const auto& refusal) { return !serving_->find(refusal.first); });
}

void MountReport::set_follow(std::function<FollowState()> follow) {
  const std::lock_guard lock(follow_mutex_);
  follow_ = std::move(follow);
}

void MountReport::set_folding(std::function<FoldingState()> folding) {
  const std::lock_guard lock(follow_mutex_);
  folding_ = std::move(folding);
}

std::optional<FoldingState> MountReport::folding() {
  const std::lock_guard lock(follow_mutex_);
  return folding_ ? std::optional(folding_()) : std::nullopt;
}

std::shared_ptr<const Serving> MountReport::serving() const {
  const std::lock_guard lock(mutex_);
  return serving_;
}

MountFacts MountReport::facts() {
  const std::lock_guard lock(mutex_);
  if (session_ == nullptr) return facts_;
  facts_.supervisor_lives = supervisor_lives_ && supervisor_lives_();
  PassthroughState passthrough = session_->passthrough();
  facts_.passthrough = std::move(passthrough.state);
  facts_.passthrough_open = passthrough.open_files;
  facts_.passthrough_refused = passthrough.refused;
  const auto streams = session_->streams();
  facts_.streams = streams.streams;
  facts_.bytes_stored = streams.bytes_stored;
  facts_.held = session_->held();
  return facts_;
}

std::string MountReport::status_json() {
  std::optional<FollowState> follow;
  {
    const std::lock_guard lock(follow_mutex_);
    if (follow_) follow = follow_();
  }
  return cli::status_json(*serving(), files_, facts(), follow, folding());
}

std::string MountReport::version_json(const std::string& name) {
  const auto serving = this->serving();
  if (const auto shown = serving->find(name)) {
    return json_text(
        version_report(serving->versions[*shown].engine->snapshot(), serving->catalog.shown()[*shown].version(), {}));
  }
  const Version* const refused = serving->catalog.find_refused(name);
  if (refused == nullptr) return json_text(nullptr);
  auto report = version_report(serving->engine().snapshot(), *refused, {});
  const std::lock_guard lock(follow_mutex_);
  if (follow_ && is_waiting(*refused->error)) report["state"] = "waiting";
  return json_text(report);
}

std::string MountReport::warm_json(const std::string& name) {
  const auto serving = this->serving();
  const auto shown = serving->find(name);
  if (!shown) return json_text(nullptr);
  const bool passthrough = facts().passthrough == "on";
  std::optional<Error> refusal;
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = refusals_.find(name); found != refusals_.end()) refusal = found->second;
  }
  const Engine& engine = *serving->versions[*shown].engine;
  return cli::warm_json(engine.snapshot(), engine, name, passthrough, refusal);
}

std::string MountReport::changed_json(const std::string& name) {
  const auto serving = this->serving();
  const auto shown = serving->find(name);
  if (!shown) return json_text(nullptr);
  const auto& [engine, ordinal] = serving->versions[*shown];
  const auto changes = changes_report(engine->snapshot(), engine->snapshot().parent(ordinal), ordinal);
  if (changes) return json_text(*changes);
  const Error& error = changes.error();
  return json_text({{"version", name}, {"error", {{"code", code_id(error.code)}, {"message", error.message}}}});
}

int MountReport::warm(const std::string& name, WarmCommand command) {
  const auto serving = this->serving();
  const auto shown = serving->find(name);
  if (!shown) return ENOENT;
  const auto& [engine, ordinal] = serving->versions[*shown];
  Status status;
  switch (command) {
    case WarmCommand::kStart:
      status = engine->warm(ordinal);
      break;
    case WarmCommand::kCancel:
      engine->cancel_warming(ordinal);
      break;
    case WarmCommand::kDrop:
      engine->drop_warm(ordinal);
      break;
    default:
      return EINVAL;
  }
  const std::lock_guard lock(mutex_);
  refusals_[name] = status ? std::nullopt : std::optional(status.error());
  return status ? 0 : status.error().posix();
}

ControlFiles::Attributes MountReport::root_attributes() { return cli::root_attributes(*serving()); }

ControlFiles::Attributes MountReport::attributes(const std::string& version, uint64_t identity, size_t entry) {
  const auto serving = this->serving();
  const auto shown = serving->find(version);
  // One that is open, but not shown any more: only its name is known.
  if (!shown || serving->catalog.shown()[*shown].version().identity != identity) return {{"version", version}};
  return cli::attributes(*serving, *shown, entry, facts().passthrough == "on");
}

}  // namespace weightfs::cli
