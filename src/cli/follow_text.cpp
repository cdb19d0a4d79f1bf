// SPDX-License-Identifier: Apache-2.0
#include "cli/follow_text.h"

#include <fmt/format.h>

#include "cli/json.h"
#include "cli/json_access.h"
#include "cli/terminal.h"
#include "common/text.h"

namespace weightfs::cli {
namespace {

double seconds_of(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number() ? found->get<double>() : 0.0;
}

uint64_t count_of(const Json& object, const char* key) { return number_of(object, key).value_or(0); }

std::string outcome_of(const Json& last) {
  if (flag_of(last, "timed_out")) return "ended at its time limit";
  const uint64_t status = count_of(last, "exit_status");
  return status == 0 ? "succeeded" : fmt::format("failed with status {}", status);
}

}  // namespace

std::string follow_text(const Json& follow) {
  if (!follow.is_object()) return "";
  const auto keep = number_of(follow, "keep");
  return fmt::format(
      "{} admitted, {} refused since the mount; latest moved {} ago; looks every {}{}; keeps {}{}",
      count_of(follow, "admitted"), count_of(follow, "refusals"),
      human_seconds(seconds_of(follow, "seconds_since_latest")), human_seconds(seconds_of(follow, "poll_seconds")),
      flag_of(follow, "inotify") ? " and when told of a change" : "", keep ? std::to_string(*keep) : "all versions",
      count_of(follow, "pins") == 0 ? "" : fmt::format("; {} pinned", count_of(follow, "pins")));
}

std::string hook_text(const Json& follow) {
  if (!follow.is_object()) return "";
  const auto hook = follow.find("on_advance");
  if (hook == follow.end() || !hook->is_object()) return "";
  std::string text = fmt::format("{} run{}, {} failed, {} timed out, {} skipped", count_of(*hook, "runs"),
                                 count_of(*hook, "runs") == 1 ? "" : "s", count_of(*hook, "failures"),
                                 count_of(*hook, "timeouts"), count_of(*hook, "skipped"));
  if (const auto last = hook->find("last"); last != hook->end() && last->is_object()) {
    text += fmt::format("; for {} it {} after {}", bare(text_of(*last, "version")), outcome_of(*last),
                        human_seconds(seconds_of(*last, "seconds")));
  }
  return text + (flag_of(*hook, "running") ? "; running" : "");
}

std::string follow_problem_text(const Json& follow) {
  if (!follow.is_object()) return "";
  const auto problem = follow.find("problem");
  if (problem == follow.end() || !problem->is_object()) return "";
  return fmt::format("{} [{}]", bare(text_of(*problem, "message")), bare(text_of(*problem, "code")));
}

}  // namespace weightfs::cli
