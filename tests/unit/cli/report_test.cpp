// SPDX-License-Identifier: Apache-2.0
#include "cli/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "unit/cli/cli_run.h"
#include "unit/support/temp_folder.h"

namespace weightfs::cli::test {
namespace {

using testing::ElementsAre;

/// A run of three weight_v versions, of which the last is refused.
class Report : public testing::Test {
 protected:
  Report() : run_(folder_.path(), small_model()) {
    std::mt19937_64 random(3);
    run_.publish_weight_v(run_.random_changes(random, 0.1, 1.0));
    run_.publish_weight_v(run_.random_changes(random, 0.1, 1.0));
    run_.publish_weight_v(run_.random_changes(random, 0.1, 1.0));
    std::filesystem::remove(folder_.path("weight_v000003/model-00000-of-00001.safetensors"));
  }

  std::shared_ptr<const Snapshot> open() {
    auto snapshot = open_source(files_, {folder_.path(), "", true});
    EXPECT_TRUE(snapshot) << snapshot.error().text();
    return *snapshot;
  }

  const weightfs::test::TempFolder folder_;
  MadeRun run_;
  const Files files_;
};

TEST_F(Report, LogListsEveryVersionWithTheKeysOfTheManual) {
  const Json log = Json::parse(log_json(*open()));
  ASSERT_EQ(log.size(), 4u);
  for (const auto& version : log) {
    EXPECT_THAT(keys(version),
                ElementsAre("name", "number", "kind", "format", "state", "error", "warnings", "parent", "delta_bytes",
                            "changed_elements", "path", "published_at", "bits_per_change", "net_bytes", "message"));
  }
  EXPECT_EQ(log[0]["name"], "base");
  EXPECT_EQ(log[0]["kind"], "base");
  EXPECT_EQ(log[0]["parent"], nullptr);
  EXPECT_EQ(log[1]["name"], "weight_v000001");
  EXPECT_EQ(log[1]["number"], 1);
  EXPECT_EQ(log[1]["kind"], "delta");
  EXPECT_EQ(log[1]["format"], "weight_v-xor");
  EXPECT_EQ(log[1]["state"], "admitted");
  EXPECT_EQ(log[1]["error"], nullptr);
  EXPECT_EQ(log[1]["parent"], "base");
  EXPECT_EQ(log[1]["changed_elements"], nullptr);
  EXPECT_EQ(log[2]["parent"], "weight_v000001");
  EXPECT_EQ(log[3]["state"], "refused");
  EXPECT_EQ(log[3]["error"]["code"], "delta.missing_file");
  EXPECT_TRUE(log[3]["error"]["message"].is_string());
}

TEST_F(Report, LogTellsTheSizeOfTheDeltasFiles) {
  uint64_t bytes = 0;
  for (const auto& file : std::filesystem::directory_iterator(folder_.path("weight_v000001"))) {
    bytes += file.file_size();
  }
  EXPECT_EQ(Json::parse(log_json(*open()))[1]["delta_bytes"], bytes);
}

TEST_F(Report, StatusHasTheKeysOfTheManual) {
  const auto snapshot = open();
  const auto engine = std::make_shared<Engine>(snapshot, EngineOptions{});
  MountFacts facts;
  facts.pid = 42;
  facts.source = "/s";
  facts.base = "/b";
  facts.mount_point = "/m";
  facts.started_at = "2026-01-02T03:04:05Z";
  facts.protocol = "7.40";
  facts.capabilities = {"parallel-lookups", "splice-read"};
  facts.max_read = 1u << 20;
  const Json status = Json::parse(status_json(*serve_all(Catalog(snapshot), engine), files_, facts, std::nullopt));
  EXPECT_THAT(keys(status), ElementsAre("pid", "version", "source", "base", "mount_point", "started_at", "supervisor",
                                        "latest", "verify", "allow_other", "isa", "threads", "versions", "counters",
                                        "memory", "kernel", "follow", "cache"));
  EXPECT_EQ(status["pid"], 42);
  EXPECT_EQ(status["version"], WEIGHTFS_VERSION);
  EXPECT_EQ(status["latest"], "weight_v000002");
  EXPECT_EQ(status["verify"], "tensor");
  EXPECT_EQ(status["started_at"], "2026-01-02T03:04:05Z");
  EXPECT_EQ(named(status["versions"], "base")["served_by"], "base");
  EXPECT_EQ(named(status["versions"], "weight_v000001")["served_by"], "decode");
  EXPECT_EQ(named(status["versions"], "weight_v000003")["served_by"], nullptr);
  EXPECT_THAT(keys(status["counters"]),
              ElementsAre("reads", "bytes_served", "bytes_from_base", "bytes_from_warm", "blocks_decoded", "block_hits",
                          "segments_decoded", "segment_hits", "tensors_verified", "digest_failures", "block_failures",
                          "read_errors", "source_reads", "tensor_bytes_read", "header_bytes_read"));
  EXPECT_EQ(status["counters"]["tensor_bytes_read"], 0);
  EXPECT_GT(status["counters"]["header_bytes_read"], 0);
  EXPECT_THAT(keys(status["memory"]), ElementsAre("budget", "used", "blocks", "patches", "indices", "in_flight", "warm",
                                                  "warm_pages", "evictions", "rss"));
  EXPECT_EQ(status["memory"]["budget"], 1u << 30);
  EXPECT_GT(status["memory"]["rss"], 1u << 20);
  EXPECT_THAT(keys(status["kernel"]),
              ElementsAre("protocol", "capabilities", "max_read", "max_background", "max_readahead", "read_ahead",
                          "read_ahead_problem", "passthrough", "passthrough_open", "passthrough_refused",
                          "warm_on_open", "streams", "bytes_stored", "lookups", "former_versions", "trees"));
  EXPECT_EQ(status["kernel"]["capabilities"][1], "splice-read");
  EXPECT_EQ(status["kernel"]["read_ahead"], nullptr);
  EXPECT_EQ(status["kernel"]["read_ahead_problem"], nullptr);
}

TEST_F(Report, StatusTellsWhatEachVersionIsServedBy) {
  const auto snapshot = open();
  const auto engine = std::make_shared<Engine>(snapshot, EngineOptions{});
  MountFacts facts;
  const auto versions = [&] {
    return Json::parse(status_json(*serve_all(Catalog(snapshot), engine), files_, facts, std::nullopt))["versions"];
  };
  facts.passthrough = "the kernel is too old";
  const Json copied = versions();
  EXPECT_EQ(named(copied, "base")["served_files"]["passthrough"], 0);
  EXPECT_GT(named(copied, "base")["served_files"]["base"], 1);
  facts.passthrough = "on";
  const Json passed = versions();
  const Json& base = named(passed, "base");
  const Json& patched = named(passed, "weight_v000001");
  EXPECT_EQ(base["served_by"], "passthrough");
  EXPECT_EQ(base["served_files"]["passthrough"], named(copied, "base")["served_files"]["base"]);
  EXPECT_EQ(base["served_files"]["decode"], 0);
  EXPECT_EQ(patched["served_by"], "decode");
  EXPECT_GT(patched["served_files"]["decode"], 0);
  EXPECT_GT(patched["served_files"]["passthrough"], 0) << "config.json at least";
  EXPECT_EQ(named(passed, "weight_v000003")["served_files"], nullptr);
}

TEST_F(Report, StatusAndWarmTellWhatLiesInMemory) {
  const auto snapshot = open();
  const auto engine = std::make_shared<Engine>(snapshot, EngineOptions{});
  const size_t ordinal = snapshot->find_admitted("weight_v000001").value();
  const auto state = [&] { return Json::parse(warm_json(*snapshot, *engine, "weight_v000001", true, std::nullopt)); };
  EXPECT_THAT(keys(state()), ElementsAre("version", "state", "warm_bytes", "total_bytes", "seconds", "error", "files"));
  EXPECT_EQ(state()["state"], "cold");
  ASSERT_TRUE(engine->warm(ordinal));
  for (int i = 0; i < 5000 && state()["state"] != "warm"; ++i) ::usleep(1000);
  const Json warm = state();
  EXPECT_EQ(warm["state"], "warm");
  EXPECT_EQ(warm["warm_bytes"], warm["total_bytes"]);
  EXPECT_GT(warm["warm_bytes"], 0);
  EXPECT_EQ(warm["error"], nullptr);
  std::set<std::string> ways;
  for (const Json& file : warm["files"]) ways.insert(file["served_by"].get<std::string>());
  EXPECT_THAT(ways, ElementsAre("memory", "passthrough"));
  const Json status = Json::parse(status_json(*serve_all(Catalog(snapshot), engine), files_, {}, std::nullopt));
  const Json& version = named(status["versions"], "weight_v000001");
  EXPECT_EQ(version["served_by"], "memory");
  EXPECT_EQ(version["warm"], "warm");
  EXPECT_EQ(version["warm_bytes"], warm["warm_bytes"]);
  EXPECT_EQ(status["memory"]["warm"], warm["warm_bytes"]);
  EXPECT_EQ(named(status["versions"], "weight_v000003")["warm"], "cold");
}

TEST_F(Report, WarmTellsWhyItWasNotBegun) {
  const auto snapshot = open();
  const auto engine = std::make_shared<Engine>(snapshot, EngineOptions{});
  const Error refusal{ErrorCode::kNoRoomToWarm, "it is too large"};
  const Json state = Json::parse(warm_json(*snapshot, *engine, "weight_v000001", false, refusal));
  EXPECT_EQ(state["error"]["code"], "warm.no_room");
  EXPECT_EQ(state["error"]["message"], "it is too large");
  EXPECT_EQ(warm_json(*snapshot, *engine, "weight_v000003", false, std::nullopt), "null\n") << "a refused version";
}

TEST_F(Report, StatusTellsWhatTheKernelDoes) {
  const auto snapshot = open();
  const auto engine = std::make_shared<Engine>(snapshot, EngineOptions{});
  MountFacts facts;
  facts.read_ahead = 4u << 20;
  facts.read_ahead_problem = "no sysfs";
  facts.passthrough = "on";
  facts.passthrough_open = 3;
  facts.passthrough_refused = 2;
  facts.held = {.trees = 4, .former_versions = 6, .lookups = 1234};
  const Json kernel =
      Json::parse(status_json(*serve_all(Catalog(snapshot), engine), files_, facts, std::nullopt))["kernel"];
  EXPECT_EQ(kernel["read_ahead"], 4u << 20);
  EXPECT_EQ(kernel["read_ahead_problem"], "no sysfs");
  EXPECT_EQ(kernel["passthrough"], "on");
  EXPECT_EQ(kernel["passthrough_open"], 3);
  EXPECT_EQ(kernel["passthrough_refused"], 2);
  EXPECT_EQ(kernel["lookups"], 1234);
  EXPECT_EQ(kernel["former_versions"], 6);
  EXPECT_EQ(kernel["trees"], 4);
}

TEST_F(Report, AVersionNamesItsTensorsAsFarAsHeadersTell) {
  const auto snapshot = open();
  const Json version = Json::parse(version_json(*snapshot, "weight_v000001"));
  EXPECT_EQ(version["name"], "weight_v000001");
  ASSERT_EQ(version["tensors"].size(), 5u);
  const Json& embed = named(version["tensors"], "embed.weight");
  EXPECT_EQ(embed["dtype"], "BF16");
  EXPECT_EQ(embed["shape"], Json({64, 8}));
  EXPECT_EQ(embed["elements"], 512);
  EXPECT_EQ(embed["bytes"], 1024);
  EXPECT_EQ(embed["shard"], run_.shard_name(0));
  EXPECT_EQ(embed["changed"], true);
  EXPECT_EQ(embed["change"]["changed_elements"], nullptr);
  EXPECT_EQ(embed["change"]["digest"], "xxh3-128");
  EXPECT_EQ(embed["change"]["digest_text"],
            weightfs::test::xxh3_128_hex(run_.expected_tensor("weight_v000001", "embed.weight")));
  EXPECT_EQ(embed["change"]["published_name"], nullptr);
  EXPECT_EQ(embed["change"]["error"], nullptr);
}

TEST_F(Report, TheBaseAndRefusedVersionsHaveADocumentToo) {
  const auto snapshot = open();
  const Json base = Json::parse(version_json(*snapshot, "base"));
  for (const auto& tensor : base["tensors"]) {
    EXPECT_EQ(tensor["changed"], false);
    EXPECT_EQ(tensor["change"], nullptr);
  }
  const Json refused = Json::parse(version_json(*snapshot, "weight_v000003"));
  EXPECT_EQ(refused["state"], "refused");
  EXPECT_EQ(refused["tensors"], nullptr);
  EXPECT_EQ(version_json(*snapshot, "no such version"), "null\n");
}

TEST(ReportText, InvalidUtf8IsReplaced) {
  const std::string text = json_text({{"name", "a\xff\"b"}});
  EXPECT_EQ(Json::parse(text)["name"], "a\xef\xbf\xbd\"b");
}

TEST(ReportText, TimesAreUtc) {
  EXPECT_EQ(utc_text(0), "1970-01-01T00:00:00Z");
  EXPECT_EQ(utc_text(1'700'000'000'999'999'999), "2023-11-14T22:13:20Z");
  EXPECT_EQ(utc_text(-1), "1969-12-31T23:59:59Z");
  EXPECT_EQ(utc_now().size(), 20u);
}

}  // namespace
}  // namespace weightfs::cli::test
