// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace weightfs {

/// A name from a file, fit for a terminal or a log: in single quotes, control characters, quotes,
/// backslashes and invalid UTF-8 as \xNN, cut after 200 characters.
std::string quote(std::string_view raw);

/// "1.5 GiB", "512 B".
std::string human_bytes(uint64_t bytes);
/// "1.25 s", "3 min 20 s", "12 ms".
std::string human_seconds(double seconds);
/// A share in [0, 1] as "0.73 %".
std::string human_share(double share);

/// "256M", "1.5G", "1048576", "512 MiB" -> bytes; nothing when it is not a size.
std::optional<uint64_t> parse_size(std::string_view text);
/// Unsigned decimal without sign, space or leading zero (except "0" itself unless `leading_zeros`).
std::optional<uint64_t> parse_decimal(std::string_view text, bool leading_zeros = false);
/// At least one of them, each a single space after the one before; nothing when the text is not that.
std::optional<std::vector<uint64_t>> parse_decimals(std::string_view text);

/// A plain file name: not empty, no '/', '\\', NUL or control character, not starting with a dot, at most 255 bytes.
bool is_plain_file_name(std::string_view name);
/// Well-formed UTF-8 (no surrogates, no overlong forms, at most U+10FFFF).
bool is_utf8(std::string_view text);

}  // namespace weightfs
