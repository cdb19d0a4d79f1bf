// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace weightfs {

/// True when a config.json says `"tie_word_embeddings": true`, at the top or in "text_config".
/// Tolerant: a text that cannot be parsed to its end counts for what stands before the fault.
bool config_ties_word_embeddings(std::string json);

}  // namespace weightfs
