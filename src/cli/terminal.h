// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>
#include <string>
#include <string_view>

namespace weightfs::cli {

enum class Colour { kNone, kGood, kBad, kWarning, kFaint };

/// How to write to one stream.
struct Terminal {
  bool interactive = false;  ///< a person watches: progress bars make sense
  bool colour = false;       ///< interactive, and NO_COLOR is not set
  size_t width = 0;          ///< columns; 0 = no limit

  /// `text` in a colour, or as it is.
  std::string paint(Colour with, std::string_view text) const;
  /// wrap() to this terminal, in a colour; ends in a newline.
  std::string remark(Colour with, std::string_view text, size_t indent = 4) const;
};

Terminal terminal_of(std::FILE* stream);

/// Columns that UTF-8 text takes (one a code point).
size_t display_width(std::string_view text);
/// A name from a file, fit for a terminal: quote() without the quotes.
std::string bare(std::string_view name);
/// Breaks text at spaces so that no line is wider than `width` (0 = no limit; a single long word
/// stays whole); each line starts with `indent` spaces and ends in a newline.
std::string wrap(std::string_view text, size_t indent, size_t width);
/// 1234567 -> "1,234,567".
std::string grouped(uint64_t number);

}  // namespace weightfs::cli
