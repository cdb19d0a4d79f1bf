// SPDX-License-Identifier: Apache-2.0
//
// What the commands need to know about a terminal, and the few text helpers that go with it.  Colour and
// width only ever change the looks: the words are the same in a pipe.
#include "cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "common/text.h"

namespace weightfs::cli {
namespace {

constexpr size_t kMinWidth = 40;  // narrower than this nothing is laid out sensibly

std::string_view escape_of(Colour colour) {
  switch (colour) {
    case Colour::kGood:
      return "\x1b[32m";
    case Colour::kBad:
      return "\x1b[31m";
    case Colour::kWarning:
      return "\x1b[33m";
    case Colour::kFaint:
      return "\x1b[2m";
    case Colour::kNone:
      break;
  }
  return "";
}

bool colour_wanted() {
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  return (no_color == nullptr || *no_color == '\0') && term != nullptr && std::string_view(term) != "dumb";
}

}  // namespace

std::string Terminal::paint(Colour with, std::string_view text) const {
  if (!colour || with == Colour::kNone) return std::string(text);
  return std::string(escape_of(with)).append(text).append("\x1b[0m");
}

std::string Terminal::remark(Colour with, std::string_view text, size_t indent) const {
  std::string lines = wrap(text, indent, width);
  lines.pop_back();  // the colour ends before the newline
  return paint(with, lines) + "\n";
}

Terminal terminal_of(std::FILE* stream) {
  Terminal terminal;
  const int descriptor = fileno(stream);
  if (descriptor < 0 || isatty(descriptor) == 0) return terminal;
  terminal.interactive = true;
  terminal.colour = colour_wanted();
  winsize size{};
  const bool known = ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  terminal.width = known ? std::max<size_t>(size.ws_col, kMinWidth) : 80;
  return terminal;
}

size_t display_width(std::string_view text) {
  size_t width = 0;
  for (const char c : text) width += (static_cast<unsigned char>(c) & 0xC0) != 0x80 ? 1 : 0;
  return width;
}

std::string bare(std::string_view name) {
  const std::string quoted = quote(name);
  const size_t last = quoted.rfind('\'');
  // What follows the closing quote marks a name that was cut.
  return quoted.substr(1, last - 1) + quoted.substr(last + 1);
}

std::string wrap(std::string_view text, size_t indent, size_t width) {
  std::string out;
  std::string line;
  const auto flush = [&] {
    out.append(indent, ' ').append(line).append("\n");
    line.clear();
  };
  while (!text.empty()) {
    const size_t space = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, space);
    text.remove_prefix(std::min(space + 1, text.size()));
    const size_t needed = indent + display_width(line) + 1 + display_width(word);
    if (!line.empty() && width != 0 && needed > width) flush();
    if (!line.empty()) line += ' ';
    line += word;
  }
  flush();
  return out;
}

std::string grouped(uint64_t number) {
  std::string digits = std::to_string(number);
  for (size_t i = digits.size(); i > 3; i -= 3) digits.insert(i - 3, ",");
  return digits;
}

}  // namespace weightfs::cli
