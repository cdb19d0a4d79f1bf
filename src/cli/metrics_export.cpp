// SPDX-License-Identifier: Apache-2.0
#include "cli/metrics_export.h"

#include <unistd.h>

#include <filesystem>

#include "cli/metrics_file.h"
#include "common/log.h"

namespace weightfs::cli {

Result<std::unique_ptr<MetricsExport>> MetricsExport::open(MetricsTarget target, std::chrono::milliseconds period) {
  if (target.is_file()) {
    std::error_code error;
    const auto absolute = std::filesystem::absolute(target.file, error);  // the daemon leaves its folder
    if (!error) target.file = absolute.lexically_normal();
    TRY(check_metrics_file(target.file));
    return std::unique_ptr<MetricsExport>(new MetricsExport(std::move(target), period));
  }
  auto server = TRY(MetricsServer::bind(target.address, target.port));
  std::unique_ptr<MetricsExport> made(new MetricsExport(std::move(target), period));
  made->server_ = std::move(server);
  return made;
}

void MetricsExport::start(Text text) {
  text_ = std::move(text);
  if (server_) {
    if (const Status started = server_->start(text_); !started) {
      log::write(log::Level::kError, "metrics.failed", started.error().text());
    }
    return;
  }
  write();
  const std::lock_guard lock(mutex_);
  thread_ = std::thread([this] { work(); });
}

void MetricsExport::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wanted_.wait_for(lock, period_, [&] { return poked_ || stopped_; });
    if (stopped_) return;
    poked_ = false;
    lock.unlock();
    write();
    lock.lock();
  }
}

/// Says so once when it begins to fail.
void MetricsExport::write() {
  const Status written = replace_metrics_file(target_.file, text_());
  if (!written && !failing_) log::write(log::Level::kWarn, "metrics.failed", written.error().text());
  failing_ = !written;
}

void MetricsExport::poke() {
  const std::lock_guard lock(mutex_);
  poked_ = true;
  wanted_.notify_one();
}

void MetricsExport::stop() {
  if (server_) server_->stop();
  std::thread ended;
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    wanted_.notify_one();
    ended.swap(thread_);
  }
  if (!ended.joinable()) return;
  ended.join();
  ::unlink(target_.file.c_str());
}

}  // namespace weightfs::cli
