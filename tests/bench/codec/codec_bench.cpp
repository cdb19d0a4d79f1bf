// SPDX-License-Identifier: Apache-2.0
// Measures the block codec and the published formats on one pair of safetensors files; writes JSON.  run.py calls it
// for every pair, adds what runs outside of this program, and makes tables and plots.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>

#include "bench/codec/native_runs.h"
#include "bench/codec/slime_writer.h"
#include "codec/kernels.h"

namespace weightfs::bench {
namespace {

using nlohmann::json;

constexpr uint64_t kBlock = 256 << 10;

struct Options {
  std::string old_file, new_file, slime_out;
  unsigned passes = 7, threads = 1;
  bool native_only = false;
  bool writer_only = false;
};

Result<json> slime_times(const Options& options) {
  json seconds = json::array(), durable = json::array();
  uint64_t bytes = 0;
  for (unsigned i = 0; i <= options.passes; ++i) {
    const SlimeWrite done =
        TRY(write_like_slime(options.old_file, options.new_file, options.slime_out, options.threads));
    bytes = done.bytes;
    if (i == 0) continue;  // warm-up
    seconds.push_back(done.seconds);
    durable.push_back(done.seconds_durable);
  }
  return json{{"threads", options.threads}, {"bytes", bytes}, {"seconds", seconds}, {"seconds_durable", durable}};
}

json native(const std::vector<Piece>& tensors, unsigned passes) {
  json blocks = json::array();
  for (uint64_t size : {kBlock / 4, kBlock, kBlock * 4}) {
    json run = run_native(tensors, size, passes);
    run["memcpy_gbps"] = run_memcpy(tensors, size, passes);
    blocks.push_back(run);
  }
  return {{"blocks", blocks},
          {"single_class", run_single_class(tensors, kBlock, passes)},
          {"without_parent", run_without_parent(tensors, kBlock, passes)}};
}

Result<json> measure_blocks(const Options& options) {
  const FilePair pair = TRY(FilePair::read(options.old_file, options.new_file));
  json result{{"model_bytes", pair.model_bytes()},
              {"elements", pair.elements()},
              {"changed", pair.changed()},
              {"tensors", pair.tensors().size()},
              {"passes", options.passes},
              {"level", codec::level_name(codec::kernels().level)},
              {"memcpy_gbps", run_memcpy(pair.tensors(), kBlock, options.passes)}};
  if (!options.native_only) result["published"] = run_published(pair.tensors(), kBlock, options.passes);
  result["native"] = native(pair.tensors(), options.passes);
  return result;
}

Result<json> measure(const Options& options) {
  json result = json::object();
  if (!options.writer_only) result = TRY(measure_blocks(options));
  if (!options.slime_out.empty()) result["slime_writer"] = TRY(slime_times(options));
  return result;
}

int run(int argc, char** argv) {
  Options options;
  CLI::App app("Measures the block codec and the published delta formats on two safetensors files");
  app.add_option("OLD", options.old_file, "the parent")->required();
  app.add_option("NEW", options.new_file, "the result; same tensors")->required();
  app.add_option("--passes", options.passes, "timed passes of each figure, of which the median counts");
  app.add_option("--slime-writer", options.slime_out, "also time slime's writer, which writes this file");
  app.add_option("--threads", options.threads, "threads of slime's writer");
  app.add_flag("--native-only", options.native_only, "leave the published formats out");
  app.add_flag("--writer-only", options.writer_only, "only time slime's writer");
  CLI11_PARSE(app, argc, argv);
  const auto result = measure(options);
  if (!result) {
    std::cerr << "codec_bench: " << result.error().text() << '\n';
    return 1;
  }
  std::cout << result->dump(1) << '\n';
  return 0;
}

}  // namespace
}  // namespace weightfs::bench

int main(int argc, char** argv) { return weightfs::bench::run(argc, argv); }
