// SPDX-License-Identifier: Apache-2.0
// What a mount says of itself: the JSON documents below .weightfs, and extended attributes.  Keys are only ever added.
#include <algorithm>

#include "cli/report.h"
#include "cli/report_parts.h"
#include "codec/kernels.h"
#include "common/memory_limit.h"

namespace weightfs::cli {
namespace {

/// What a file's bytes come from: files on disk read by the kernel or by us, memory, or decoding.
std::string_view serving_of(const Snapshot& snapshot, const Engine& engine, size_t ordinal, size_t entry,
                            bool passthrough) {
  if (snapshot.untouched_file(ordinal, entry)) return passthrough ? "passthrough" : "base";
  return engine.is_warm(ordinal, entry) ? "memory" : "decode";
}

/// How many files of an admitted version are served in which way.
Json served_files(const Snapshot& snapshot, const Engine& engine, size_t ordinal, bool passthrough) {
  Json counts = {{"passthrough", 0}, {"base", 0}, {"memory", 0}, {"decode", 0}};
  const auto& entries = snapshot.folder(ordinal).entries();
  for (size_t entry = 0; entry < entries.size(); ++entry) {
    if (entries[entry].kind == ModelFolder::EntryKind::kDirectory) continue;
    auto& count = counts[serving_of(snapshot, engine, ordinal, entry, passthrough)];
    count = count.get<uint64_t>() + 1;
  }
  return counts;
}

/// Relative to the version's folder.
std::string path_of(const std::vector<ModelFolder::Entry>& entries, size_t entry) {
  std::string path = entries[entry].name;
  for (size_t at = entries[entry].parent; at != 0; at = entries[at].parent) path.insert(0, entries[at].name + "/");
  return path;
}

/// The way of a version is that of its slowest file.
std::string_view slowest_way(const Json& files, bool passthrough) {
  if (files["decode"] != 0) return "decode";
  if (files["memory"] != 0) return "memory";
  return passthrough ? "passthrough" : "base";
}

/// `shown`: index of a version that is shown; nothing: it is refused.
Json served_object(const Serving& serving, const Version& version, std::optional<size_t> shown,
                   const MountFacts& facts) {
  Json object = version_object(version);
  Json served_by = nullptr;
  Json files = nullptr;
  WarmStatus warm;
  if (shown) {
    const auto& [engine, ordinal] = serving.versions[*shown];
    const bool passthrough = facts.passthrough == "on";
    files = served_files(engine->snapshot(), *engine, ordinal, passthrough);
    served_by = slowest_way(files, passthrough);
    warm = engine->warm_status(ordinal);
  }
  object["served_by"] = std::move(served_by);
  object["served_files"] = std::move(files);
  object["warm"] = warm_state_name(warm.state);
  object["warm_bytes"] = warm.bytes;
  return object;
}

Json counters_object(const EngineStatus& engine, const IoCounters& io) {
  return {
      {"reads", engine.reads},
      {"bytes_served", engine.bytes_served},
      {"bytes_from_base", engine.bytes_from_base},
      {"bytes_from_warm", engine.bytes_from_warm},
      {"blocks_decoded", engine.blocks_decoded},
      {"block_hits", engine.block_hits},
      {"segments_decoded", engine.segments_decoded},
      {"segment_hits", engine.segment_hits},
      {"tensors_verified", engine.tensors_verified},
      {"digest_failures", engine.digest_failures},
      {"block_failures", engine.block_failures},
      {"read_errors", engine.read_errors},
      {"source_reads", io.reads.load()},
      {"tensor_bytes_read", io.tensor_bytes.load()},
      {"header_bytes_read", io.header_bytes.load()},
  };
}

Json memory_object(const EngineStatus& engine) {
  return {
      {"budget", engine.memory_budget},   {"used", engine.memory_used},       {"blocks", engine.memory_blocks},
      {"patches", engine.memory_patches}, {"indices", engine.memory_indices}, {"in_flight", engine.memory_in_flight},
      {"warm", engine.memory_warm},       {"warm_pages", engine.warm_pages},  {"evictions", engine.evictions},
      {"rss", resident_memory()},
  };
}

Json kernel_object(const MountFacts& facts) {
  return {
      {"protocol", facts.protocol},
      {"capabilities", facts.capabilities},
      {"max_read", facts.max_read},
      {"max_background", facts.max_background},
      {"max_readahead", facts.max_readahead},
      {"read_ahead", facts.read_ahead == 0 ? Json(nullptr) : Json(facts.read_ahead)},
      {"read_ahead_problem", facts.read_ahead_problem.empty() ? Json(nullptr) : Json(facts.read_ahead_problem)},
      {"passthrough", facts.passthrough},
      {"passthrough_open", facts.passthrough_open},
      {"passthrough_refused", facts.passthrough_refused},
      {"warm_on_open", facts.warm_on_open},
      {"streams", facts.streams},
      {"bytes_stored", facts.bytes_stored},
      {"lookups", facts.held.lookups},
      {"former_versions", facts.held.former_versions},
      {"trees", facts.held.trees},
  };
}

}  // namespace

std::string warm_json(const Snapshot& snapshot, const Engine& engine, std::string_view name, bool passthrough,
                      const std::optional<Error>& refusal) {
  const auto ordinal = snapshot.find_admitted(name);
  if (!ordinal) return json_text(nullptr);
  const WarmStatus status = engine.warm_status(*ordinal);
  Json files = Json::array();
  const auto& entries = snapshot.folder(*ordinal).entries();
  for (size_t entry = 0; entry < entries.size(); ++entry) {
    if (entries[entry].kind == ModelFolder::EntryKind::kDirectory) continue;
    files.push_back({{"path", path_of(entries, entry)},
                     {"bytes", entries[entry].size},
                     {"served_by", serving_of(snapshot, engine, *ordinal, entry, passthrough)}});
  }
  return json_text({
      {"version", name},
      {"state", warm_state_name(status.state)},
      {"warm_bytes", status.bytes},
      {"total_bytes", status.total},
      {"seconds", status.seconds},
      {"error", error_or_null(refusal ? refusal : status.error)},
      {"files", std::move(files)},
  });
}

namespace {

/// All versions by number.  What is not shown while a source is followed may only have to wait.
Json versions_array(const Serving& serving, const MountFacts& facts, bool followed) {
  Json versions = Json::array();
  for (const Version* version : serving.catalog.versions()) {
    const auto shown = version->admitted() ? serving.find(version->name) : std::nullopt;
    versions.push_back(served_object(serving, *version, shown, facts));
    if (followed && version->error && is_waiting(*version->error)) versions.back()["state"] = "waiting";
  }
  return versions;
}

Json hook_object(const AdvanceHook::Report& hook, const std::string& command) {
  Json last = nullptr;
  if (hook.last) {
    last = {{"version", hook.last->version},
            {"exit_status", hook.last->exit_status},
            {"seconds", hook.last->seconds},
            {"timed_out", hook.last->timed_out}};
  }
  return {{"command", command},        {"runs", hook.runs},       {"failures", hook.failures},
          {"timeouts", hook.timeouts}, {"skipped", hook.skipped}, {"running", hook.running},
          {"last", std::move(last)}};
}

Json follow_object(const std::optional<FollowState>& follow) {
  if (!follow) return nullptr;
  return {
      {"poll_seconds", follow->poll_seconds},
      {"keep", or_null(follow->keep)},
      {"warm", follow->warm ? "latest" : "none"},
      {"inotify", follow->inotify},
      {"problem", error_or_null(follow->problem)},
      {"admitted", follow->admitted},
      {"refusals", follow->refusals},
      {"latest_moved_at", follow->latest_moved_at},
      {"seconds_since_latest", follow->seconds_since_latest},
      {"last_delay_seconds", or_null(follow->last_delay_seconds)},
      {"pins", follow->pins},
      {"on_advance", follow->hook ? hook_object(*follow->hook, follow->hook_command) : Json(nullptr)},
  };
}

/// Whether anything was published that the version's bytes can be compared with.
bool has_digests(const Snapshot& snapshot, size_t ordinal) {
  if (snapshot.is_native()) return !snapshot.state(ordinal).links.empty();
  const auto& delta = snapshot.admitted(ordinal).delta;
  return delta && std::any_of(delta->tensors.begin(), delta->tensors.end(), [](const auto& t) { return t.digest; });
}

std::string_view digest_state(const Serving& serving, size_t shown) {
  const auto& [snapshot, ordinal] = serving.catalog.shown()[shown];
  if (!has_digests(*snapshot, ordinal)) return "none";
  return serving.verified[shown] ? "verified" : "unverified";
}

std::string warm_percent(const WarmStatus& warm) {
  return std::to_string(warm.total == 0 ? 100 : warm.bytes * 100 / warm.total);
}

}  // namespace

std::map<std::string, std::string> root_attributes(const Serving& serving) {
  return {{"latest", serving.catalog.latest().version().name},
          {"versions", std::to_string(serving.catalog.shown().size())}};
}

std::map<std::string, std::string> attributes(const Serving& serving, size_t version, size_t entry, bool passthrough) {
  const auto& [engine, ordinal] = serving.versions[version];
  const Snapshot& snapshot = engine->snapshot();
  const Version& shown = snapshot.admitted(ordinal);
  std::map<std::string, std::string> all = {{"version", shown.name}, {"parent", shown.parent}};
  if (entry == 0) {
    all["digest"] = digest_state(serving, version);
    all["warm"] = warm_percent(engine->warm_status(ordinal));
  } else if (snapshot.folder(ordinal).entries()[entry].kind != ModelFolder::EntryKind::kDirectory) {
    all["served_by"] = serving_of(snapshot, *engine, ordinal, entry, passthrough);
  }
  return all;
}

namespace {

/// Null for a mount that nobody watches over.
Json supervisor_object(const MountFacts& facts) {
  if (facts.supervisor == 0) return nullptr;
  return {{"pid", facts.supervisor},
          {"alive", facts.supervisor_lives},
          {"restarts", facts.restarts},
          {"last_end", facts.last_end}};
}

Json folding_object(const std::optional<FoldingState>& folding) {
  if (!folding) return nullptr;
  const auto text = [](const std::string& value) { return value.empty() ? Json(nullptr) : Json(value); };
  return {{"path", folding->path},         {"limit", folding->limit},         {"bytes", folding->bytes},
          {"folds", folding->folds},       {"in_use", folding->in_use},       {"made", folding->made},
          {"rejected", folding->rejected}, {"making", text(folding->making)}, {"problem", text(folding->problem)}};
}

}  // namespace

std::string status_json(const Serving& serving, const Files& files, const MountFacts& facts,
                        const std::optional<FollowState>& follow, const std::optional<FoldingState>& folding) {
  const EngineStatus engine = serving.engine().status();
  return json_text({
      {"pid", facts.pid},
      {"version", WEIGHTFS_VERSION},
      {"source", facts.source},
      {"base", facts.base},
      {"mount_point", facts.mount_point},
      {"started_at", facts.started_at},
      {"supervisor", supervisor_object(facts)},
      {"latest", serving.catalog.latest().version().name},
      {"verify", facts.verify ? "tensor" : "off"},
      {"allow_other", facts.allow_other},
      {"isa", codec::level_name(codec::kernels().level)},
      {"threads", engine.threads},
      {"versions", versions_array(serving, facts, follow.has_value())},
      {"counters", counters_object(engine, files.counters())},
      {"memory", memory_object(engine)},
      {"kernel", kernel_object(facts)},
      {"follow", follow_object(follow)},
      {"cache", folding_object(folding)},
  });
}

}  // namespace weightfs::cli
