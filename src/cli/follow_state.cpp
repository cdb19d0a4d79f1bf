// SPDX-License-Identifier: Apache-2.0
#include "cli/follow_state.h"

namespace weightfs::cli {

bool is_waiting(const Error& error) {
  switch (error.code) {
    case ErrorCode::kDeltaIncomplete:
    case ErrorCode::kDeltaMissingFile:
    case ErrorCode::kChainMissing:
    case ErrorCode::kChainNoStart:
    case ErrorCode::kChainParentRefused:
    case ErrorCode::kChainGap:
    case ErrorCode::kChainUnpublished:
      return true;
    default:
      return false;
  }
}

}  // namespace weightfs::cli
