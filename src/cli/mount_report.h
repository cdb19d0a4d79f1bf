// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "cli/folding_state.h"
#include "cli/metrics_text.h"
#include "cli/report.h"
#include "cli/serving.h"
#include "fuse/session.h"
#include "io/files.h"
#include "vfs/vfs.h"

namespace weightfs::cli {

/// What .weightfs and extended attributes of a mount say, and do.  Thread-safe.
class MountReport final : public ControlFiles {
 public:
  MountReport(std::shared_ptr<const Serving> serving, Files files)
      : serving_(std::move(serving)), files_(std::move(files)) {}

  /// `session` must live as long as anybody asks.
  void set_facts(MountFacts facts, const Session& session);
  /// `lives` tells whether the supervisor still does; it must live as long as anybody asks.
  void set_supervisor(std::function<bool()> lives);
  /// From now on that is what is served.
  void set_serving(std::shared_ptr<const Serving> serving);
  /// Who follows the source tells how that goes; it must live as long as anybody asks, or take it back.
  void set_follow(std::function<FollowState()> follow);
  /// The same of who makes folds.
  void set_folding(std::function<FoldingState()> folding);
  std::shared_ptr<const Serving> serving() const;

  std::string status_json() override;
  std::string version_json(const std::string& name) override;
  std::string warm_json(const std::string& name) override;
  std::string changed_json(const std::string& name) override;
  int warm(const std::string& name, WarmCommand command) override;
  /// For metrics_text().
  MountMetrics metrics();
  Attributes root_attributes() override;
  Attributes attributes(const std::string& version, uint64_t identity, size_t entry) override;

 private:
  MountFacts facts();
  std::optional<FoldingState> folding();

  mutable std::mutex mutex_;  // guards what is not const below
  std::shared_ptr<const Serving> serving_;
  const Files files_;
  const std::chrono::system_clock::time_point created_ = std::chrono::system_clock::now();
  MountFacts facts_;
  std::map<std::string, std::optional<Error>> refusals_;  // by version: why warming it was not begun
  const Session* session_ = nullptr;
  std::function<bool()> supervisor_lives_;
  std::mutex follow_mutex_;  // guards what follows, while it is asked too
  std::function<FollowState()> follow_;
  std::function<FoldingState()> folding_;
};

}  // namespace weightfs::cli
