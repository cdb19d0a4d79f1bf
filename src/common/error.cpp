// SPDX-License-Identifier: Apache-2.0
// The table behind ErrorCode: one row per code, generated from the list in the header.
#include "common/error.h"

#include <array>
#include <cerrno>

namespace weightfs {
namespace {

struct Row {
  std::string_view id;
  int posix;
  std::string_view meaning;
};

constexpr std::array kRows = {
#define X(name, id, err, meaning) Row{id, err, meaning},
    WEIGHTFS_ERROR_CODES(X)
#undef X
};

const Row& row(ErrorCode code) { return kRows.at(static_cast<size_t>(code)); }

}  // namespace

std::string_view code_id(ErrorCode code) { return row(code).id; }
int code_errno(ErrorCode code) { return row(code).posix; }
std::string_view code_meaning(ErrorCode code) { return row(code).meaning; }

bool Error::may_pass() const {
  return code == ErrorCode::kIoOpen || code == ErrorCode::kIoRead || code == ErrorCode::kIoTruncated ||
         code == ErrorCode::kIoChanged || code == ErrorCode::kInternal;
}

std::string Error::text() const { return message + " [" + std::string(code_id(code)) + "]"; }

Error Error::in(std::string_view context) const { return {code, std::string(context) + ": " + message}; }

}  // namespace weightfs
