// SPDX-License-Identifier: Apache-2.0
#include "cli/mount_options.h"

#include "cli/follow_options.h"
#include "common/log.h"
#include "common/text.h"

namespace weightfs::cli {
namespace {

constexpr uint64_t kMinMemory = 16u << 20;
constexpr uint64_t kMaxReadAhead = 1u << 30;

void add_mount_resources(CLI::App& app, MountOptions& mount) {
  app.add_option_function<std::string>(
         "--memory",
         [&mount](const std::string& text) {
           const auto bytes = parse_size(text);
           if (!bytes) throw CLI::ValidationError("--memory", "'" + text + "' is not a size such as 256M or 1.5GiB");
           if (*bytes < kMinMemory) throw CLI::ValidationError("--memory", "at least 16M are needed");
           mount.memory_bytes = *bytes;
         },
         "Budget for decoded data, e.g. 256M or 1.5GiB\n(default: 1G, less where a container allows less)")
      ->type_name("SIZE")
      ->group("Resources");
  app.add_option("--threads", mount.threads, "Decoding threads (default: all processors)")
      ->check(CLI::Range(1u, 4096u).description(""))
      ->type_name("N")
      ->group("Resources");
}

void add_mount_cache(CLI::App& app, MountOptions& mount) {
  app.add_option(
         "--cache", mount.cache,
         "Folder on a fast disk for long chains: what many deltas do together\nis kept there as one, and made in "
         "the background. Can be deleted at\nany time (default: none)")
      ->type_name("DIR")
      ->group("Resources");
  app.add_option_function<std::string>(
         "--cache-size",
         [&mount](const std::string& text) {
           const auto bytes = parse_size(text);
           if (!bytes) throw CLI::ValidationError("--cache-size", "'" + text + "' is not a size such as 500M or 20G");
           mount.cache_bytes = *bytes;
         },
         "How much may lie in it (default: 16G)")
      ->type_name("SIZE")
      ->group("Resources");
}

void add_mount_kernel(CLI::App& app, MountOptions& mount) {
  app.add_option_function<std::string>(
         "--read-ahead",
         [&mount](const std::string& text) {
           const auto bytes = parse_size(text);
           if (!bytes) throw CLI::ValidationError("--read-ahead", "'" + text + "' is not a size such as 1M, or 0");
           if (*bytes > kMaxReadAhead) throw CLI::ValidationError("--read-ahead", "at most 1G is possible");
           mount.read_ahead = *bytes;
         },
         "How far the kernel reads ahead, where we run as root; 0 leaves\nits default of 128K (default: 4M)")
      ->type_name("SIZE")
      ->group("Kernel");
  app.add_option_function<std::string>(
         "--passthrough", [&mount](const std::string& mode) { mount.passthrough = mode == "auto"; },
         "auto (default): files that no delta touches, and those that are warm\nin memory, are read by the kernel "
         "itself, where it can; off: never")
      ->check(CLI::IsMember({"auto", "off"}).description(""))
      ->type_name("auto|off")
      ->group("Kernel");
}

void add_mount_streams(CLI::App& app, MountOptions& mount) {
  app.add_option(
         "--warm-on-open", mount.warm_on_open,
         "For a file that is read from front to back. stream (default): put\nwhat comes next into the page "
         "cache; memory: decode its version into\nmemory, the next files first, as far as --memory has room; "
         "wait: decode\na file into memory before it is opened, then the kernel reads it by itself,\nas fast as "
         "a plain file; off: nothing")
      ->check(CLI::IsMember({"off", "stream", "memory", "wait"}).description(""))
      ->type_name("off|stream|memory|wait")
      ->group("Kernel");
}

void add_mount_log(CLI::App& app, MountOptions& mount) {
  app.add_option("--log-level", mount.log_level, "trace, debug, info (default), warn, error or off")
      ->check([](const std::string& name) {
        return log::parse_level(name) ? std::string() : "'" + name + "' is not trace, debug, info, warn, error or off";
      })
      ->type_name("LEVEL")
      ->group("Log");
  app.add_option("--log-file", mount.log_file,
                 "Write the log there\n(default: syslog; in the foreground: standard error)")
      ->type_name("FILE")
      ->group("Log");
  app.add_option_function<std::string>(
         "--metrics",
         [&mount](const std::string& text) {
           auto target = parse_metrics_target(text);
           if (!target) throw CLI::ValidationError("--metrics", target.error().message);
           mount.metrics = std::move(*target);
         },
         "Show metrics for Prometheus: at http://ADDR:PORT/metrics (\":9567\"\nis localhost only), or in FILE, which "
         "has a '/' in it or ends\nin .prom, for node_exporter")
      ->type_name("ADDR:PORT|FILE")
      ->group("Log");
}

}  // namespace

void add_mount_options(CLI::App& app, MountOptions& mount) {
  app.add_flag("-f,--foreground", mount.foreground, "Stay in the foreground until it is unmounted");
  app.add_flag("--allow-other", mount.allow_other,
               "Let other users read it\n(needs user_allow_other in /etc/fuse.conf)");
  app.add_option("--supervised", mount.channel, "Descriptor of mount.weightfs")->group("");  // between the two of us
  add_mount_resources(app, mount);
  add_mount_cache(app, mount);
  add_mount_kernel(app, mount);
  add_mount_streams(app, mount);
  add_mount_follow(app, mount.follow);
  add_mount_log(app, mount);
}

}  // namespace weightfs::cli
