// SPDX-License-Identifier: Apache-2.0
#include "store/analysis.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>

#include "common/checked.h"
#include "delta/native_version.h"
#include "store/buffers.h"
#include "store/parallel.h"

namespace weightfs::store {
namespace {

constexpr uint64_t kProbeBytes = 256u << 10;  // what is looked at in one piece
constexpr uint64_t kSampleProbes = 32;        // of a large object: 8 MiB
constexpr uint64_t kProbesPerTask = 8;
constexpr uint64_t kEnoughChanges = 4096;  // changed elements that a fit should rest on

class Analysis {
 public:
  Analysis(const TreePair& pair, const Work& work)
      : pair_(pair), work_(work), objects_(pair.result.tree().objects()), states_(objects_.size()) {
    plan_.objects.reserve(objects_.size());
    for (const TreeObject& object : objects_) {
      plan_.objects.push_back({codec::BlockParams(object.element_bytes), false});
    }
  }

  Result<DeltaPlan> run() {
    std::vector<size_t> chosen;
    uint64_t bytes = 0;
    for (size_t i = 0; i < objects_.size(); ++i) {
      if (!has_parent(i)) continue;
      chosen.push_back(i);
      bytes += objects_[i].bytes;
    }
    work_.stage("comparing", bytes);
    TRY(examine(chosen, kSampleProbes));
    std::erase_if(chosen, [&](size_t i) { return !states_[i].thin; });
    TRY(examine(chosen, UINT64_MAX));
    plan_.changed_share = share();
    return std::move(plan_);
  }

 private:
  struct Task {
    size_t object = 0;
    uint64_t first = 0;  // probes [first, end) of `probes`
    uint64_t end = 0;
    uint64_t probes = 0;
  };
  struct State {
    std::optional<codec::BlockFitter> fitter;  // of what differs
    uint64_t pending = 0;                      // tasks that have not ended
    uint64_t looked_at = 0;                    // bytes
    uint64_t changed = 0;                      // elements, in what was looked at
    bool thin = false;                         // too little was seen in a sample
  };

  bool has_parent(size_t object) const {
    return pair_.parents[object] != NativeLayout::kNoParent && objects_[object].bytes > 0;
  }

  Status examine(const std::vector<size_t>& chosen, uint64_t max_probes) {
    std::vector<Task> tasks;
    for (const size_t object : chosen) {
      const uint64_t probes = std::min(ceil_div(objects_[object].bytes, kProbeBytes), max_probes);
      for (uint64_t first = 0; first < probes; first += kProbesPerTask) {
        tasks.push_back({object, first, std::min(probes, first + kProbesPerTask), probes});
      }
      states_[object] = State();
      states_[object].pending = ceil_div(probes, kProbesPerTask);
    }
    return run_parallel(work_.thread_count(), tasks.size(), [&](uint64_t i) { return look(tasks[i]); });
  }

  Status look(const Task& task) {
    TRY(work_.check());
    const TreeObject& object = objects_[task.object];
    const uint64_t all = ceil_div(object.bytes, kProbeBytes);
    codec::BlockFitter fitter(object.element_bytes);
    Buffers::Loan parent = buffers_.take();
    Buffers::Loan result = buffers_.take();
    uint64_t looked_at = 0;
    for (uint64_t probe = task.first; probe < task.end; ++probe) {
      // Spread evenly over the object; all of them, one after the other, when there are as many as blocks.
      const uint64_t at = probe * all / task.probes * kProbeBytes;
      const size_t size = std::min(kProbeBytes, object.bytes - at);
      TRY(pair_.result.read_object(task.object, at, result.first(size)));
      TRY(pair_.parent.read_object(pair_.parents[task.object], at, parent.first(size)));
      looked_at += size;
      if (std::memcmp(parent.first(size).data(), result.first(size).data(), size) == 0) continue;
      fitter.add(parent.first(size), result.first(size));
    }
    finish(task, fitter, looked_at);
    return {};
  }

  void finish(const Task& task, codec::BlockFitter& fitter, uint64_t looked_at) {
    const std::lock_guard lock(mutex_);
    State& state = states_[task.object];
    if (!state.fitter) {
      state.fitter.emplace(std::move(fitter));
    } else {
      state.fitter->merge(fitter);
    }
    state.looked_at += looked_at;
    if (--state.pending > 0) return;
    conclude(task.object, state);
    state.fitter.reset();
  }

  void conclude(size_t index, State& state) {
    const bool sampled = state.looked_at < objects_[index].bytes;
    state.changed = state.fitter->changed();
    state.thin = sampled && state.changed < kEnoughChanges;
    if (state.thin) return;
    plan_.objects[index].equal = state.fitter->elements() == 0;
    plan_.objects[index].params = state.fitter->fit();
    work_.done(objects_[index].bytes);
  }

  double share() const {
    double changed = 0;
    double elements = 0;
    for (size_t i = 0; i < objects_.size(); ++i) {
      const double count = static_cast<double>(objects_[i].bytes) / objects_[i].element_bytes;
      elements += count;
      if (!has_parent(i)) {
        changed += count;
      } else if (states_[i].looked_at > 0) {
        changed += static_cast<double>(states_[i].changed) * static_cast<double>(objects_[i].bytes) /
                   static_cast<double>(states_[i].looked_at);
      }
    }
    return elements > 0 ? changed / elements : 0;
  }

  const TreePair& pair_;
  const Work& work_;
  const std::vector<TreeObject>& objects_;
  DeltaPlan plan_;
  Buffers buffers_{kProbeBytes};
  std::mutex mutex_;           // guards what follows while tasks run, and plan_
  std::vector<State> states_;  // by object
};

}  // namespace

Result<DeltaPlan> analyse(const TreePair& pair, const Work& work) { return Analysis(pair, work).run(); }

}  // namespace weightfs::store
