// SPDX-License-Identifier: Apache-2.0
// Inside the JSON documents only: what those of versions and those of a mount have in common.
#pragma once

#include <optional>

#include "chain/snapshot.h"
#include "cli/json.h"
#include "common/error.h"

namespace weightfs::cli {

template <class T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json error_or_null(const std::optional<Error>& error);
Json version_object(const Version& version);

}  // namespace weightfs::cli
