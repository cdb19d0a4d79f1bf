// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "cli/metrics_http.h"
#include "cli/metrics_target.h"
#include "common/result.h"

namespace weightfs::cli {

/// Brings the metrics of a mount to whoever wants them.  Thread-safe; from start() to stop() a thread of its own works.
class MetricsExport {
 public:
  using Text = std::function<std::string()>;

  /// Makes sure that the target can be had; starts no thread.
  static Result<std::unique_ptr<MetricsExport>> open(MetricsTarget target,
                                                     std::chrono::milliseconds period = std::chrono::seconds(15));
  ~MetricsExport() { stop(); }
  MetricsExport(const MetricsExport&) = delete;
  MetricsExport& operator=(const MetricsExport&) = delete;

  /// A file is there, and a port answers, when it returns.  `text` is asked from any thread until stop() has returned.
  /// What fails from here on is for the log: it is no reason to end a mount.  Call it once.
  void start(Text text);
  /// Something has changed that is worth telling at once.  Returns immediately.
  void poke();
  /// Ends at once, and takes the file away.
  void stop();

 private:
  MetricsExport(MetricsTarget target, std::chrono::milliseconds period) : target_(std::move(target)), period_(period) {}
  void work();
  void write();

  const MetricsTarget target_;
  const std::chrono::milliseconds period_;
  std::unique_ptr<MetricsServer> server_;  // of a port
  Text text_;
  bool failing_ = false;  // whoever writes the file
  std::mutex mutex_;      // guards what follows
  std::condition_variable wanted_;
  bool poked_ = false;
  bool stopped_ = false;
  std::thread thread_;  // of a file
};

}  // namespace weightfs::cli
