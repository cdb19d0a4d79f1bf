// SPDX-License-Identifier: Apache-2.0
// The text against the format as Prometheus documents it, checked here by a small reader of its own.
#include "cli/metrics_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <sstream>

namespace weightfs::cli {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::Not;

MountMetrics made() {
  MountMetrics metrics;
  metrics.mount_point = "/mnt/q";
  metrics.version = "1.2.3";
  metrics.isa = "avx2";
  metrics.started = 1790000000.25;
  metrics.engine.plain = {1, 100};
  metrics.engine.warm = {2, 200};
  metrics.engine.composed = {3, uint64_t{1} << 60};
  metrics.engine.memory_budget = 1000;
  metrics.requests.reads = {{0.00005, 0.5, 10}, {4, 3, 2, 1}, 12.5};
  metrics.requests.operations[static_cast<size_t>(Operation::kRead)] = 10;
  metrics.requests.opens[static_cast<size_t>(OpenWay::kPassthrough)] = 6;
  metrics.passthrough = {"on", 5, 0};
  metrics.shown = 4;
  metrics.waiting = 1;
  metrics.refused = 2;
  metrics.latest = "step_000003";
  metrics.latest_number = 3;
  return metrics;
}

FollowState followed() {
  FollowState follow;
  follow.admitted = 3;
  follow.refusals = 3;
  follow.refusals_by_code = {{ErrorCode::kDigestMismatch, 2}, {ErrorCode::kZstdCorrupt, 1}};
  follow.latest_moved_epoch = 1790000001.5;
  follow.checks = {{1.0}, {3, 1}, 7};
  return follow;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::vector<std::string> lines_of(const MountMetrics& metrics) { return lines_of(metrics_text(metrics)); }

TEST(MetricsText, BeginsAsItAlwaysDid) {
  const std::string golden =
      "# HELP weightfs_build_info 1, with the version of weightfs and the instructions that decoding uses.\n"
      "# TYPE weightfs_build_info gauge\n"
      "weightfs_build_info{mount=\"/mnt/q\",version=\"1.2.3\",isa=\"avx2\"} 1\n"
      "# HELP weightfs_start_time_seconds When the process began to mount, in seconds since 1970.\n"
      "# TYPE weightfs_start_time_seconds gauge\n"
      "weightfs_start_time_seconds{mount=\"/mnt/q\"} 1790000000.25\n";
  EXPECT_EQ(metrics_text(made()).substr(0, golden.size()), golden);
}

TEST(MetricsText, SaysWhatItIsGiven) {
  const auto lines = lines_of(made());
  for (const char* line :
       {"weightfs_reads_total{mount=\"/mnt/q\",way=\"base\"} 1",
        "weightfs_reads_total{mount=\"/mnt/q\",way=\"decode\"} 3",
        "weightfs_read_bytes_total{mount=\"/mnt/q\",way=\"memory\"} 200",
        "weightfs_read_bytes_total{mount=\"/mnt/q\",way=\"decode\"} 1152921504606846976",
        "weightfs_requests_total{mount=\"/mnt/q\",operation=\"read\"} 10",
        "weightfs_requests_total{mount=\"/mnt/q\",operation=\"lookup\"} 0",
        "weightfs_opens_total{mount=\"/mnt/q\",way=\"passthrough\"} 6",
        "weightfs_passthrough_enabled{mount=\"/mnt/q\"} 1", "weightfs_passthrough_open_files{mount=\"/mnt/q\"} 5",
        "weightfs_versions{mount=\"/mnt/q\",state=\"shown\"} 4",
        "weightfs_versions{mount=\"/mnt/q\",state=\"waiting\"} 1",
        "weightfs_versions{mount=\"/mnt/q\",state=\"refused\"} 2", "weightfs_latest_number{mount=\"/mnt/q\"} 3",
        "weightfs_latest_info{mount=\"/mnt/q\",version=\"step_000003\"} 1"}) {
    EXPECT_THAT(lines, Contains(std::string(line)));
  }
}

TEST(MetricsText, HistogramsAreCumulative) {
  const auto lines = lines_of(made());
  const std::string name = "weightfs_read_seconds";
  const std::vector<std::string> wanted = {
      "# TYPE " + name + " histogram",
      name + "_bucket{mount=\"/mnt/q\",le=\"5e-05\"} 4",
      name + "_bucket{mount=\"/mnt/q\",le=\"0.5\"} 7",
      name + "_bucket{mount=\"/mnt/q\",le=\"10\"} 9",
      name + "_bucket{mount=\"/mnt/q\",le=\"+Inf\"} 10",
      name + "_sum{mount=\"/mnt/q\"} 12.5",
      name + "_count{mount=\"/mnt/q\"} 10",
  };
  const auto at = std::find(lines.begin(), lines.end(), wanted.front());
  ASSERT_GE(lines.end() - at, static_cast<std::ptrdiff_t>(wanted.size()));
  EXPECT_EQ(std::vector<std::string>(at, at + static_cast<std::ptrdiff_t>(wanted.size())), wanted);
}

TEST(MetricsText, FollowingOnlyWhereItIs) {
  EXPECT_THAT(metrics_text(made()), Not(HasSubstr("weightfs_versions_refused_total")));
  MountMetrics metrics = made();
  metrics.follow = followed();
  const auto lines = lines_of(metrics);
  for (const char* line :
       {"weightfs_versions_admitted_total{mount=\"/mnt/q\"} 3",
        "weightfs_versions_refused_total{mount=\"/mnt/q\",code=\"digest.mismatch\"} 2",
        "weightfs_versions_refused_total{mount=\"/mnt/q\",code=\"zstd.corrupt\"} 1",
        "weightfs_latest_moved_timestamp_seconds{mount=\"/mnt/q\"} 1790000001.5",
        "weightfs_check_seconds_count{mount=\"/mnt/q\"} 4", "weightfs_follow_problem{mount=\"/mnt/q\",code=\"\"} 0"}) {
    EXPECT_THAT(lines, Contains(std::string(line)));
  }
  EXPECT_THAT(metrics_text(metrics), Not(HasSubstr("weightfs_hook")));
}

TEST(MetricsText, TheHookAndAProblem) {
  MountMetrics metrics = made();
  metrics.follow = followed();
  metrics.follow->problem = Error{ErrorCode::kIoChanged, "the base is another one"};
  metrics.follow->hook = AdvanceHook::Report{5, 1, 2, 3, {}, false};
  const auto lines = lines_of(metrics);
  for (const char* line :
       {"weightfs_follow_problem{mount=\"/mnt/q\",code=\"source.changed\"} 1",
        "weightfs_hook_runs_total{mount=\"/mnt/q\"} 5", "weightfs_hook_failures_total{mount=\"/mnt/q\"} 1",
        "weightfs_hook_timeouts_total{mount=\"/mnt/q\"} 2", "weightfs_hook_skipped_total{mount=\"/mnt/q\"} 3"}) {
    EXPECT_THAT(lines, Contains(std::string(line)));
  }
}

TEST(MetricsText, LabelsAreEscapedAndUtf8) {
  const struct {
    const char* raw;
    const char* escaped;
  } cases[] = {{"a\"b", "a\\\"b"},
               {"a\\b", "a\\\\b"},
               {"a\nb", "a\\nb"},
               {"ä", "ä"},
               {"a\xff"
                "b",
                "a\xEF\xBF\xBD"
                "b"}};
  for (const auto& wanted : cases) {
    MountMetrics metrics = made();
    metrics.latest = wanted.raw;
    metrics.mount_point = wanted.raw;
    EXPECT_THAT(lines_of(metrics), Contains(std::string("weightfs_latest_info{mount=\"") + wanted.escaped +
                                            "\",version=\"" + wanted.escaped + "\"} 1"));
  }
}

/// name{labels}, without _bucket and the like.
std::string family_of(const std::string& sample, const std::set<std::string>& histograms) {
  const std::string name = sample.substr(0, sample.find('{'));
  for (const char* suffix : {"_bucket", "_sum", "_count"}) {
    if (name.ends_with(suffix) && histograms.contains(name.substr(0, name.size() - std::string(suffix).size()))) {
      return name.substr(0, name.size() - std::string(suffix).size());
    }
  }
  return name;
}

TEST(MetricsText, FoldsOnlyWhereThereIsACache) {
  MountMetrics metrics = made();
  EXPECT_EQ(metrics_text(metrics).find("weightfs_folds"), std::string::npos);
  metrics.folding = FoldingState{.path = "/c", .limit = 1000, .bytes = 70, .folds = 3, .in_use = 2, .made = 1};
  for (const char* line :
       {"weightfs_cache_bytes{mount=\"/mnt/q\"} 70", "weightfs_cache_limit_bytes{mount=\"/mnt/q\"} 1000",
        "weightfs_folds_in_use{mount=\"/mnt/q\"} 2", "weightfs_folds_total{mount=\"/mnt/q\",outcome=\"made\"} 1",
        "weightfs_folds_total{mount=\"/mnt/q\",outcome=\"rejected\"} 0"}) {
    EXPECT_THAT(lines_of(metrics), Contains(std::string(line)));
  }
}

TEST(MetricsText, EveryFamilyIsDescribedOnceAndStandsTogether) {
  MountMetrics metrics = made();
  metrics.folding = FoldingState{};
  metrics.follow = followed();
  metrics.follow->hook = AdvanceHook::Report{};
  metrics.follow->last_delay_seconds = 0.5;
  std::set<std::string> seen, histograms, samples;
  std::string family;
  for (const std::string& line : lines_of(metrics)) {
    std::istringstream words(line);
    std::string hash, what, name, type;
    if (line.starts_with("# HELP ")) {
      words >> hash >> what >> family;
      EXPECT_TRUE(seen.insert(family).second) << family << " is described twice";
      EXPECT_TRUE(family.starts_with("weightfs_")) << family;
    } else if (line.starts_with("# TYPE ")) {
      words >> hash >> what >> name >> type;
      EXPECT_EQ(name, family);
      EXPECT_EQ(type == "counter", family.ends_with("_total")) << family;
      if (type == "histogram") histograms.insert(name);
    } else {
      EXPECT_EQ(family_of(line, histograms), family) << line;
      EXPECT_TRUE(samples.insert(line.substr(0, line.rfind(' '))).second) << line << " stands twice";
    }
  }
  EXPECT_GE(seen.size(), 39u);
}

}  // namespace
}  // namespace weightfs::cli
