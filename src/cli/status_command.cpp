// SPDX-License-Identifier: Apache-2.0
//
// `weightfs status`: what a mount serves and how it does, read from its status.json.
#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "cli/commands.h"
#include "cli/follow_text.h"
#include "cli/json.h"
#include "cli/json_access.h"
#include "cli/report.h"
#include "cli/source_access.h"
#include "cli/terminal.h"
#include "common/text.h"

namespace weightfs::cli {
namespace {

constexpr size_t kLabelWidth = 12;

class StatusPrinter {
 public:
  StatusPrinter(const Json& status, const Terminal& terminal) : status_(status), terminal_(terminal) {}

  std::string text() {
    heading();
    what();
    versions();
    follow();
    counters();
    checks();
    memory();
    cache();
    warm();
    kernel();
    return std::move(out_);
  }

 private:
  void line(std::string_view label, std::string_view value, Colour colour = Colour::kNone) {
    std::string wrapped = wrap(value, kLabelWidth + 2, terminal_.width);
    wrapped.erase(0, kLabelWidth + 2);
    wrapped.pop_back();
    out_ += fmt::format("  {:<{}}{}\n", label, kLabelWidth, terminal_.paint(colour, wrapped));
  }

  uint64_t counter(const char* key) const { return number_of(object_of(status_, "counters"), key).value_or(0); }

  void heading() {
    out_ += fmt::format("{}: weightfs {}, pid {}\n", bare(text_of(status_, "mount_point")), text_of(status_, "version"),
                        number_of(status_, "pid").value_or(0));
  }

  void what() {
    line("source", bare(text_of(status_, "source")));
    line("base", bare(text_of(status_, "base")));
    line("mounted", mounted_text());
    const std::string supervisor = supervisor_text();
    if (!supervisor.empty()) line("supervisor", supervisor);
  }

  std::string supervisor_text() const {
    const auto& supervisor = object_of(status_, "supervisor");
    const uint64_t pid = number_of(supervisor, "pid").value_or(0);
    if (pid == 0) return {};
    if (!flag_of(supervisor, "alive")) {
      return fmt::format("none any more: process {} has ended, and nobody restarts the daemon", pid);
    }
    const uint64_t restarts = number_of(supervisor, "restarts").value_or(0);
    if (restarts == 0) return fmt::format("pid {}", pid);
    return fmt::format("pid {}; has restarted the daemon {} {}, the last one {}", pid, grouped(restarts),
                       restarts == 1 ? "time" : "times", bare(text_of(supervisor, "last_end")));
  }

  std::string mounted_text() const {
    std::string started = text_of(status_, "started_at");
    std::tm parts{};
    if (strptime(started.c_str(), "%Y-%m-%dT%H:%M:%SZ", &parts) == nullptr) return started;
    const double seconds = std::difftime(std::time(nullptr), timegm(&parts));
    return fmt::format("{} ({} ago){}", started, human_seconds(std::max(0.0, seconds)),
                       flag_of(status_, "allow_other") ? ", open to other users" : "");
  }

  void versions() {
    const auto& all = array_of(status_, "versions");
    const auto count = [&](std::string_view state) {
      return std::count_if(all.begin(), all.end(), [&](const Json& v) { return text_of(v, "state") == state; });
    };
    const auto waiting = count("waiting");
    line("versions",
         fmt::format("{} served, {} refused{}", count("admitted"), count("refused"),
                     waiting > 0 ? fmt::format(", {} waiting", waiting) : ""),
         count("refused") > 0 ? Colour::kBad : Colour::kNone);
    for (const auto& version : all) {
      const auto error = error_text(version);
      if (!error) continue;
      const Colour colour = text_of(version, "state") == "waiting" ? Colour::kWarning : Colour::kBad;
      out_ += terminal_.remark(colour, bare(text_of(version, "name")) + ": " + *error, kLabelWidth + 4);
    }
    line("latest", bare(text_of(status_, "latest")));
  }

  void follow() {
    const auto found = status_.find("follow");
    if (found == status_.end() || !found->is_object()) return;
    line("follows", follow_text(*found));
    const std::string problem = follow_problem_text(*found);
    if (!problem.empty()) out_ += terminal_.remark(Colour::kBad, problem, kLabelWidth + 4);
    const std::string hook = hook_text(*found);
    if (!hook.empty()) line("on advance", hook);
  }

  void counters() {
    const uint64_t served = counter("bytes_served");
    const uint64_t decoded = counter("blocks_decoded");
    const uint64_t hits = counter("block_hits");
    std::string reads = fmt::format("{} reads, {}", grouped(counter("reads")), human_bytes(served));
    if (served > 0) {
      reads += fmt::format(" ({} of it unchanged from the base)", share_text(counter("bytes_from_base"), served));
    }
    line("served", reads);
    std::string blocks = fmt::format("{} blocks", grouped(decoded));
    if (decoded + hits > 0) blocks += fmt::format("; {} of requests found in memory", share_text(hits, decoded + hits));
    line("decoded", blocks);
    line("from source",
         fmt::format("{} of tensors, {} of headers, in {} reads", human_bytes(counter("tensor_bytes_read")),
                     human_bytes(counter("header_bytes_read")), grouped(counter("source_reads"))));
  }

  static std::string share_text(uint64_t part, uint64_t whole) {
    return human_share(static_cast<double>(part) / static_cast<double>(whole));
  }

  void checks() {
    const uint64_t failures = counter("digest_failures") + counter("block_failures");
    if (text_of(status_, "verify") == "off") {
      line("digests", "not checked (--verify=off)", Colour::kWarning);
    } else {
      line("digests",
           fmt::format("{} tensors checked, {} failures", grouped(counter("tensors_verified")), grouped(failures)),
           failures > 0 ? Colour::kBad : Colour::kNone);
    }
    const uint64_t errors = counter("read_errors");
    line("errors", fmt::format("{} reads failed", grouped(errors)), errors > 0 ? Colour::kBad : Colour::kNone);
  }

  void memory() {
    constexpr size_t kBar = 20;
    const auto& memory = object_of(status_, "memory");
    const auto value = [&](const char* key) { return number_of(memory, key).value_or(0); };
    const uint64_t budget = std::max<uint64_t>(value("budget"), 1);
    const double share = std::min(1.0, static_cast<double>(value("used")) / static_cast<double>(budget));
    const auto filled = static_cast<size_t>(share * kBar);
    line("memory",
         fmt::format("[{}{}] {} of {}: blocks {}, patches {}, indices {}; in flight {}; {} evictions; process {}",
                     std::string(filled, '#'), std::string(kBar - filled, '-'), human_bytes(value("used")),
                     human_bytes(budget), human_bytes(value("blocks")), human_bytes(value("patches")),
                     human_bytes(value("indices")), human_bytes(value("in_flight")), grouped(value("evictions")),
                     human_bytes(value("rss"))));
  }

  void cache() {
    const auto& cache = object_of(status_, "cache");
    if (cache.empty()) return;
    const auto value = [&](const char* key) { return number_of(cache, key).value_or(0); };
    std::string text = fmt::format("{} of {} in {}; {} folds in use", human_bytes(value("bytes")),
                                   human_bytes(value("limit")), bare(text_of(cache, "path")), value("in_use"));
    if (const std::string making = text_of(cache, "making"); !making.empty()) text += "; folding " + bare(making);
    line("cache", text);
    if (const std::string problem = text_of(cache, "problem"); !problem.empty()) {
      line("", bare(problem), Colour::kWarning);
    }
  }

  /// Versions that lie in memory, or are on their way there.
  void warm() {
    const uint64_t all = number_of(object_of(status_, "memory"), "warm").value_or(0);
    std::string versions;
    for (const auto& version : array_of(status_, "versions")) {
      const std::string state = text_of(version, "warm");
      if (state.empty() || state == "cold") continue;
      versions += versions.empty() ? "" : ", ";
      versions += bare(text_of(version, "name")) + (state == "warm" ? "" : " (" + bare(state) + ")");
    }
    if (all == 0 && versions.empty()) return;
    const std::string pages = text_of(object_of(status_, "memory"), "warm_pages");
    line("warm",
         fmt::format("{} in {} pages: {}", human_bytes(all), bare(pages), versions.empty() ? "no version" : versions));
  }

  void kernel() {
    const auto& kernel = object_of(status_, "kernel");
    std::string names;
    for (const auto& name : array_of(kernel, "capabilities")) {
      if (name.is_string()) names += (names.empty() ? "" : " ") + bare(name.get<std::string>());
    }
    const uint64_t ahead = number_of(kernel, "read_ahead").value_or(number_of(kernel, "max_readahead").value_or(0));
    line("kernel", fmt::format("FUSE {}; reads up to {}, read-ahead {}, {} in the background",
                               text_of(kernel, "protocol"), human_bytes(number_of(kernel, "max_read").value_or(0)),
                               human_bytes(ahead), number_of(kernel, "max_background").value_or(0)));
    line("", names.empty() ? "no optional capabilities" : names, Colour::kFaint);
    const std::string problem = text_of(kernel, "read_ahead_problem");
    if (!problem.empty()) line("read-ahead", "not raised: " + bare(problem), Colour::kFaint);
    const std::string streams = streams_text(kernel);
    if (!streams.empty()) line("streams", streams);
    const std::string passthrough = passthrough_text(kernel);
    if (!passthrough.empty()) line("passthrough", passthrough);
    line("decoder", fmt::format("{}, {} threads", text_of(status_, "isa"), number_of(status_, "threads").value_or(0)));
  }

  static std::string streams_text(const Json& kernel) {
    std::string policy = text_of(kernel, "warm_on_open");
    if (policy.empty() || policy == "off") return policy;
    return fmt::format("{}; {} found, {} stored ahead", bare(policy), grouped(number_of(kernel, "streams").value_or(0)),
                       human_bytes(number_of(kernel, "bytes_stored").value_or(0)));
  }

  static std::string passthrough_text(const Json& kernel) {
    const std::string state = text_of(kernel, "passthrough");
    if (state != "on") return state.empty() ? state : "off: " + bare(state);
    const uint64_t refused = number_of(kernel, "passthrough_refused").value_or(0);
    return fmt::format("on; {} files open{}", grouped(number_of(kernel, "passthrough_open").value_or(0)),
                       refused > 0 ? fmt::format(", {} refused by the kernel", grouped(refused)) : "");
  }

  const Json& status_;
  const Terminal terminal_;
  std::string out_;
};

}  // namespace

Result<int> run_status(const Options& options) {
  const auto status = TRY(read_mount_status(options.mount_point));
  if (!status) return not_a_mount(options.mount_point);
  if (options.json) {
    fmt::print("{}", json_text(*status));
  } else {
    fmt::print("{}", StatusPrinter(*status, terminal_of(stdout)).text());
  }
  return 0;
}

}  // namespace weightfs::cli
