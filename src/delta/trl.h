// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "delta/delta.h"
#include "delta/names.h"

namespace weightfs {

/// Opens one file of a Hugging Face TRL delta bucket: anchors/step_NNNNNN.safetensors or
/// deltas/step_NNNNNN.safetensors.  Reads the header only.
///
/// Generations T0 and T1 (`<name>.indices` I32, `<name>.values`) and T2 (`<name>.idx`, `<name>.val`,
/// metadata key `encoding`) are told apart by their metadata; dense and sparse by the key `sparse`,
/// never by the folder.  `nvcomp_cascaded` is refused.  Values are absolute: they replace.
/// Source: huggingface/trl, branches delta-weight-sync, -v2 and -v3.
Result<Delta> open_trl_file(const Files& files, const std::string& path, uint64_t number, const NameMap& names);

}  // namespace weightfs
