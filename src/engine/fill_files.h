// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <oneapi/tbb/task_arena.h>

#include <atomic>
#include <memory>
#include <span>

#include "common/result.h"
#include "engine/cache.h"
#include "engine/filler.h"
#include "engine/warm_file.h"

namespace weightfs {

/// Makes files hold what they were assigned, all together, with the threads of `arena`.  An eighth of the budget of
/// `cache` goes to decoded patches that are on the way.  Returns early, without an error, when `cancelled` becomes
/// true. Fails with the first failure; the files in which something failed hold nothing then.
Status fill_files(std::span<const std::shared_ptr<WarmFile>> files, const Filler& filler, tbb::task_arena& arena,
                  Cache& cache, const std::atomic<bool>& cancelled);

}  // namespace weightfs
