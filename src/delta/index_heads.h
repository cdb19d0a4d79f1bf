// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "common/result.h"
#include "delta/native_index.h"

namespace weightfs {

/// Where heads of indices are kept between lookups.  A version keeps none itself, because with a thousand versions of
/// a large model they add up to more than everything else; whoever looks up knows what memory may be used.
class IndexHeads {
 public:
  using Head = std::shared_ptr<const IndexHead>;
  using Read = std::function<Result<Head>()>;

  virtual ~IndexHeads() = default;
  /// The head of the version with NativeVersion::serial() `serial`: the one that is kept, else what `read` gives.
  /// `bytes`: of memory that the head takes.
  virtual Result<Head> get(uint32_t serial, uint64_t bytes, const Read& read) = 0;
};

/// Keeps the head that was asked for last: for whoever asks one version after the other.  Thread-safe.
class LastIndexHead final : public IndexHeads {
 public:
  Result<Head> get(uint32_t serial, uint64_t bytes, const Read& read) override;

 private:
  std::mutex mutex_;  // guards everything below
  uint32_t serial_ = 0;
  Head head_;
};

}  // namespace weightfs
