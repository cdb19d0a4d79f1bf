// SPDX-License-Identifier: Apache-2.0
//
// The metrics of a mount as text.  What must stay true: names and labels are only ever added; counters never run
// backwards, so each is one that is counted as such and not a difference of two; a family's samples stand together
// under its HELP and TYPE.  docs/MONITORING.md and weightfs(1) list them, docs/grafana-weightfs.json shows them.
#include "cli/metrics_text.h"

#include <fmt/format.h>

#include <initializer_list>
#include <string_view>
#include <utility>

#include "common/text.h"

namespace weightfs::cli {
namespace {

/// A label's value: escaped, and UTF-8 whatever a file was called.
std::string label_value(std::string_view raw) {
  const bool whole = is_utf8(raw);
  std::string text;
  for (const char c : raw) {
    if (c == '\\' || c == '"') {
      text += {'\\', c};
    } else if (c == '\n') {
      text += "\\n";
    } else if (!whole && static_cast<unsigned char>(c) >= 0x80) {
      text += "\xEF\xBF\xBD";  // U+FFFD
    } else {
      text += c;
    }
  }
  return text;
}

/// The text as it grows.
class Exposition {
 public:
  using Labels = std::initializer_list<std::pair<std::string_view, std::string_view>>;

  explicit Exposition(std::string_view mount_point) : mount_(fmt::format("mount=\"{}\"", label_value(mount_point))) {}

  /// Begins a family; `name` without its prefix, which is the same for all.
  Exposition& family(std::string_view type, std::string_view name, std::string_view help) {
    name_ = fmt::format("weightfs_{}", name);
    text_ += fmt::format("# HELP {0} {1}\n# TYPE {0} {2}\n", name_, help, type);
    return *this;
  }
  Exposition& counter(std::string_view name, std::string_view help) { return family("counter", name, help); }
  Exposition& gauge(std::string_view name, std::string_view help) { return family("gauge", name, help); }

  /// One sample of the family that was begun last.
  template <class Number>
  Exposition& sample(Labels labels, Number value, std::string_view suffix = "") {
    text_ += fmt::format("{}{}{{{}", name_, suffix, mount_);
    for (const auto& [label, of] : labels) text_ += fmt::format(",{}=\"{}\"", label, label_value(of));
    text_ += fmt::format("}} {}\n", value);
    return *this;
  }

  void histogram(std::string_view name, std::string_view help, const Histogram::Counts& counts) {
    family("histogram", name, help);
    uint64_t below = 0;
    for (size_t i = 0; i < counts.counts.size(); ++i) {
      below += counts.counts[i];
      const std::string bound = i < counts.bounds.size() ? fmt::format("{}", counts.bounds[i]) : "+Inf";
      sample({{"le", bound}}, below, "_bucket");
    }
    sample({}, counts.sum, "_sum");
    sample({}, below, "_count");
  }

  std::string take() { return std::move(text_); }

 private:
  const std::string mount_;
  std::string name_;
  std::string text_;
};

void add_reading(Exposition& out, const MountMetrics& metrics) {
  const EngineStatus& engine = metrics.engine;
  out.counter("reads_total",
              "Reads that were answered, by way: base (files as they lie on disk), memory (a warm version), decode "
              "(some of it composed from deltas). Reads by passthrough never reach weightfs and are in none.")
      .sample({{"way", "base"}}, engine.plain.reads)
      .sample({{"way", "memory"}}, engine.warm.reads)
      .sample({{"way", "decode"}}, engine.composed.reads);
  out.counter("read_bytes_total",
              "Bytes that reads were answered with, by way: base (files as they lie on disk), memory (a warm version), "
              "decode (composed from deltas, or cached as such). Bytes that the kernel reads by passthrough, or has in "
              "its page cache, never reach weightfs and are in none.")
      .sample({{"way", "base"}}, engine.plain.bytes)
      .sample({{"way", "memory"}}, engine.warm.bytes)
      .sample({{"way", "decode"}}, engine.composed.bytes);
  out.histogram("read_seconds",
                "How long weightfs took to have the bytes of a read request; control files included, passthrough not.",
                metrics.requests.reads);
  out.counter("read_errors_total", "Reads that failed, each with a line in the log.").sample({}, engine.read_errors);
  out.counter("digest_failures_total", "Tensors whose bytes have not the published digest.")
      .sample({}, engine.digest_failures);
  out.counter("block_failures_total", "Blocks that decoded to other bytes than were verified or committed.")
      .sample({}, engine.block_failures);
  out.counter("tensors_verified_total", "Tensors whose published digest was found right.")
      .sample({}, engine.tensors_verified);
  out.counter("source_reads_total", "Reads from the files of source and base.").sample({}, metrics.source_reads);
  out.counter("source_read_bytes_total", "Bytes read from the files of source and base, by part of the file.")
      .sample({{"part", "header"}}, metrics.header_bytes)
      .sample({{"part", "tensor"}}, metrics.tensor_bytes);
}

void add_requests(Exposition& out, const MountMetrics& metrics) {
  out.counter("requests_total", "Requests from the kernel, by operation.");
  for (size_t i = 0; i < kOperationNames.size(); ++i) {
    out.sample({{"operation", kOperationNames[i]}}, metrics.requests.operations[i]);
  }
  out.counter(
      "opens_total",
      "Opens of files, by way: passthrough (the kernel reads by itself), requests (weightfs answers the reads), "
      "control (files in .weightfs).");
  for (size_t i = 0; i < kOpenWayNames.size(); ++i) {
    out.sample({{"way", kOpenWayNames[i]}}, metrics.requests.opens[i]);
  }
  out.counter("internal_errors_total", "Requests that failed on a broken assumption inside weightfs; please report.")
      .sample({}, metrics.internal_errors);
  out.gauge("passthrough_enabled", "1 when the kernel may read files by itself.")
      .sample({}, metrics.passthrough.state == "on" ? 1 : 0);
  out.gauge("passthrough_open_files", "Files that the kernel reads by itself now.")
      .sample({}, metrics.passthrough.open_files);
  out.counter("passthrough_refused_total", "Opens of files that the kernel did not take for passthrough.")
      .sample({}, metrics.passthrough.refused);
  out.counter("streams_total", "Files that were found to be read from front to back.")
      .sample({}, metrics.streams.streams);
  out.counter("stored_ahead_bytes_total", "Bytes put into the page cache ahead of readers.")
      .sample({}, metrics.streams.bytes_stored);
}

void add_memory(Exposition& out, const MountMetrics& metrics) {
  const EngineStatus& engine = metrics.engine;
  out.counter("cache_hits_total", "Decoded blocks, and segments of patches, that were found in memory.")
      .sample({{"kind", "block"}}, engine.block_hits)
      .sample({{"kind", "segment"}}, engine.segment_hits);
  out.counter("cache_misses_total", "Blocks, and segments of patches, that were decoded; for warming too.")
      .sample({{"kind", "block"}}, engine.blocks_decoded)
      .sample({{"kind", "segment"}}, engine.segments_decoded);
  out.counter("cache_evictions_total", "Blocks, patches and indices that made room for others.")
      .sample({}, engine.evictions);
  out.gauge("memory_bytes",
            "Parts of the memory budget in use: cached blocks, patches and indices, reads in flight, warm versions.")
      .sample({{"part", "blocks"}}, engine.memory_blocks)
      .sample({{"part", "patches"}}, engine.memory_patches)
      .sample({{"part", "indices"}}, engine.memory_indices)
      .sample({{"part", "in_flight"}}, engine.memory_in_flight)
      .sample({{"part", "warm"}}, engine.memory_warm);
  out.gauge("memory_budget_bytes", "What --memory allows.").sample({}, engine.memory_budget);
  out.gauge("resident_memory_bytes", "Resident memory of the process.").sample({}, metrics.resident_bytes);
}

void add_versions(Exposition& out, const MountMetrics& metrics) {
  out.gauge("versions", "Versions by state: shown (the base included), waiting (for what they build on), refused.")
      .sample({{"state", "shown"}}, metrics.shown)
      .sample({{"state", "waiting"}}, metrics.waiting)
      .sample({{"state", "refused"}}, metrics.refused);
  out.gauge("former_versions", "Versions that are not shown any more and are served on for whoever has them open.")
      .sample({}, metrics.held.former_versions);
  out.gauge("trees", "The tree that is shown, and former ones that versions in use are found in.")
      .sample({}, metrics.held.trees);
  out.gauge("kernel_lookups", "References of the kernel to files and folders of versions.")
      .sample({}, metrics.held.lookups);
  out.gauge("latest_number", "Number of the version that latest points to; 0 for the base.")
      .sample({}, metrics.latest_number);
  out.gauge("latest_info", "1, with the name of the version that latest points to.")
      .sample({{"version", metrics.latest}}, 1);
}

void add_hook(Exposition& out, const AdvanceHook::Report& hook) {
  out.counter("hook_runs_total", "Runs of the --on-advance command that have ended.").sample({}, hook.runs);
  out.counter("hook_failures_total", "Of these, with another status than 0.").sample({}, hook.failures);
  out.counter("hook_timeouts_total", "Of these, ended at --advance-limit.").sample({}, hook.timeouts);
  out.counter("hook_skipped_total", "Moves of latest that a newer one overtook before the command was told.")
      .sample({}, hook.skipped);
}

void add_follow(Exposition& out, const FollowState& follow) {
  out.counter("versions_admitted_total", "Versions that were admitted since the mount.").sample({}, follow.admitted);
  out.counter("versions_refused_total", "Versions that were refused since the mount, by error code.");
  for (const auto& [code, count] : follow.refusals_by_code) out.sample({{"code", code_id(code)}}, count);
  out.histogram("check_seconds",
                "How long checking a new version took, and warming it, before it was shown or refused.", follow.checks);
  out.gauge("latest_moved_timestamp_seconds", "When latest moved last, or the mount began, in seconds since 1970.")
      .sample({}, follow.latest_moved_epoch);
  if (follow.last_delay_seconds) {
    out.gauge("latest_delay_seconds", "From seeing the newest version complete to showing it.")
        .sample({}, *follow.last_delay_seconds);
  }
  out.gauge("follow_problem", "1, with an error code, while nothing new can be admitted; 0, without one, otherwise.")
      .sample({{"code", follow.problem ? code_id(follow.problem->code) : ""}}, follow.problem ? 1 : 0);
  out.gauge("pins", "Processes for which latest stays the same for now (--pin-grace).").sample({}, follow.pins);
  if (follow.hook) add_hook(out, *follow.hook);
}

void add_folding(Exposition& out, const FoldingState& folding) {
  out.gauge("cache_bytes", "Size of the cache of folds.").sample({}, folding.bytes);
  out.gauge("cache_limit_bytes", "What --cache-size allows.").sample({}, folding.limit);
  out.gauge("folds_in_use", "Folds that this mount reads by.").sample({}, folding.in_use);
  out.counter("folds_total", "Folds, by outcome: made, or rejected because they could not be used.")
      .sample({{"outcome", "made"}}, folding.made)
      .sample({{"outcome", "rejected"}}, folding.rejected);
}

}  // namespace

std::string metrics_text(const MountMetrics& metrics) {
  Exposition out(metrics.mount_point);
  out.gauge("build_info", "1, with the version of weightfs and the instructions that decoding uses.")
      .sample({{"version", metrics.version}, {"isa", metrics.isa}}, 1);
  out.gauge("start_time_seconds", "When the process began to mount, in seconds since 1970.")
      .sample({}, metrics.started);
  if (metrics.restarts) {
    out.counter("restarts_total", "Daemons of this mount that ended and were replaced by mount.weightfs.")
        .sample({}, *metrics.restarts);
  }
  add_reading(out, metrics);
  add_requests(out, metrics);
  add_memory(out, metrics);
  add_versions(out, metrics);
  if (metrics.follow) add_follow(out, *metrics.follow);
  if (metrics.folding) add_folding(out, *metrics.folding);
  return out.take();
}

}  // namespace weightfs::cli
