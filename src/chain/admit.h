// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "chain/discover.h"
#include "chain/snapshot.h"
#include "delta/names.h"

namespace weightfs {

/// Opens every candidate (headers only) and applies the chain rules of its layout: a version whose
/// predecessor is missing or refused is refused too, until a full version starts the chain anew.
/// Returns one Version per candidate, in order; the base is not among them.
std::vector<Version> admit(const Files& files, const Discovery& discovery, const NameMap& names, bool verify);

}  // namespace weightfs
