// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include "common/error.h"
#include "io/files.h"

namespace weightfs {

/// Recognises a folder in a delta format that weightfs does not read, some of which look like full
/// checkpoints: SkyRL, miles GPU delta, grail, prime-rl, open-rl, PEFT LoRA, slime 0.3.0 flush files,
/// Fireworks ARC.  Returns the format's name for people.  Reads small JSON files and headers.
std::optional<std::string> identify_foreign_folder(const Files& files, const std::string& path);

/// The delta.unsupported_format error for a recognised folder.
Error unsupported_format(const std::string& path, const std::string& format);

}  // namespace weightfs
