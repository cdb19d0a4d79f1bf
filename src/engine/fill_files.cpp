// SPDX-License-Identifier: Apache-2.0
// Patches that are frames decide how long filling takes: one thread decodes one, from its beginning on.  So the longest
// are begun first, and what a frame gives is put into place by others while it is still being decoded.
#include "engine/fill_files.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "engine/frame_flow.h"
#include "engine/parallel.h"
#include "engine/task_group.h"

namespace weightfs {
namespace {

class FillRun {
 public:
  FillRun(std::span<const std::shared_ptr<WarmFile>> files, const Filler& filler, tbb::task_arena& arena, Cache& cache,
          const std::atomic<bool>& cancelled)
      : files_(files),
        filler_(filler),
        arena_(arena),
        cancelled_(cancelled),
        allowance_(cache),
        failed_(files.size()) {}

  Status run() {
    Status status = begin();
    if (status) status = fill();
    for (size_t i = 0; i < files_.size(); ++i) files_[i]->end(failed_[i]);
    return status;
  }

 private:
  struct Piece {
    size_t file;
    size_t index;
  };
  /// An object for which frames have to be decoded.
  struct Framed {
    Framed(size_t of, const WarmFile::Group& its, std::vector<PatchFrame> frames, FrameFlow::Allowance& allowance)
        : file(of), group(its), flow(std::move(frames), (its.last - its.first) * FilePiece::kMaxBytes, allowance) {}
    size_t file;
    const WarmFile::Group& group;
    FrameFlow flow;
  };
  struct Claim {
    Framed* object;
    size_t frame;
  };

  Status begin() {
    for (size_t i = 0; i < files_.size(); ++i) {
      TRY(files_[i]->begin(filler_));
      for (const WarmFile::Group& group : files_[i]->groups()) {
        auto frames = TRY(filler_.frames(files_[i]->file(), group.object, files_[i]->below(filler_, group)));
        if (frames.empty()) {
          for (size_t index = group.first; index < group.last; ++index) plain_.push_back({i, index});
        } else {
          framed_.push_back(std::make_unique<Framed>(i, group, std::move(frames), allowance_));
        }
      }
    }
    return {};
  }

  static size_t length(const std::unique_ptr<Framed>& object) { return object->group.last - object->group.first; }

  Status fill() {
    std::stable_sort(framed_.begin(), framed_.end(),
                     [](const auto& a, const auto& b) { return length(a) > length(b); });
    for (const auto& object : framed_) {
      for (size_t frame = 0; frame < object->flow.frames().size(); ++frame) claims_.push_back({object.get(), frame});
    }
    for (size_t i = 0; i < claims_.size(); ++i) tasks_.run([this] { return decode_next(); });
    tasks_.run([this] {
      return run_parallel(arena_, plain_.size(),
                          [this](uint64_t i) { return fill_piece(plain_[i].file, plain_[i].index, nullptr); });
    });
    return tasks_.wait();
  }

  Status decode_next() {
    const Claim claim = claims_[claimed_.fetch_add(1)];
    Framed& object = *claim.object;
    if (cancelled_.load(std::memory_order_relaxed)) return {};
    const auto ready = [&](uint64_t segment) {
      tasks_.run([this, &object, segment] { return fill_segment(object, segment); });
      return !cancelled_.load(std::memory_order_relaxed);
    };
    return noted(object.file, [&] { return filler_.decode(object.flow, claim.frame, ready); });
  }

  Status fill_segment(Framed& object, uint64_t segment) {
    constexpr uint64_t kPieces = codec::kSegmentBytes / FilePiece::kMaxBytes;
    const size_t first = object.group.first + segment * kPieces;
    for (size_t index = first; index < std::min(first + kPieces, object.group.last); ++index) {
      TRY(fill_piece(object.file, index, &object.flow));
    }
    object.flow.let_go(segment);
    return {};
  }

  Status fill_piece(size_t file, size_t index, const FrameFlow* flow) {
    if (cancelled_.load(std::memory_order_relaxed)) return {};
    return noted(file, [&] { return files_[file]->fill_piece(filler_, index, flow); });
  }

  /// Work on a file that fails, or throws, leaves nothing of use in it.
  template <class Work>
  Status noted(size_t file, const Work& work) {
    try {
      Status status = work();
      if (!status) failed_[file] = true;
      return status;
    } catch (...) {
      failed_[file] = true;
      throw;
    }
  }

  const std::span<const std::shared_ptr<WarmFile>> files_;
  const Filler& filler_;
  tbb::task_arena& arena_;
  const std::atomic<bool>& cancelled_;
  FrameFlow::Allowance allowance_;
  std::vector<std::atomic<bool>> failed_;  // by file
  std::vector<Piece> plain_;
  std::vector<std::unique_ptr<Framed>> framed_;  // longest first
  std::vector<Claim> claims_;                    // in their order
  std::atomic<size_t> claimed_{0};
  TaskGroup tasks_{arena_};  // last: its tasks use the others
};

}  // namespace

Status fill_files(std::span<const std::shared_ptr<WarmFile>> files, const Filler& filler, tbb::task_arena& arena,
                  Cache& cache, const std::atomic<bool>& cancelled) {
  return FillRun(files, filler, arena, cache, cancelled).run();
}

}  // namespace weightfs
