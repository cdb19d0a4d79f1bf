// SPDX-License-Identifier: Apache-2.0
// Text helpers: names made safe for terminals and logs, numbers in human units, and the strict
// parsing of sizes and counts.  quote() is what keeps a hostile tensor name from forging a log line
// or driving a terminal, so nothing that it lets through may end a line or start an escape sequence.
#include "common/text.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <utility>

#include "common/checked.h"

namespace weightfs {
namespace {

constexpr size_t kQuoteLimit = 200;

struct Character {
  size_t length = 0;  // bytes; 0: not well-formed UTF-8
  char32_t value = 0;
};

bool is_continuation(unsigned char byte) { return (byte & 0xC0) == 0x80; }

// Decodes the first character of a text that is not empty.
Character first_character(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {1, lead};
  if (lead < 0xC2 || lead > 0xF4) return {};  // a continuation, an overlong form, or beyond U+10FFFF
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  if (text.size() < length) return {};
  char32_t value = lead & (0xFFU >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if (!is_continuation(byte(i))) return {};
    value = (value << 6) | (byte(i) & 0x3FU);
  }
  const char32_t least = length == 2 ? 0x80 : length == 3 ? 0x800 : 0x10000;
  if (value < least || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) return {};
  return {length, value};
}

// Characters that could end a line, command a terminal, reverse the reading direction, or fake the
// end of the quotation.
bool needs_escape(char32_t c) {
  return c < 0x20 || (c >= 0x7F && c <= 0x9F) || c == '\'' || c == '\\' || c == 0x061C || c == 0x200E || c == 0x200F ||
         (c >= 0x2028 && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069) || c == 0xFEFF;
}

// Bytes per unit for "", "B", "K", "KB", "KiB", ... in any case; nothing for other texts.
std::optional<uint64_t> unit_bytes(std::string_view unit) {
  const auto upper = [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; };
  if (unit.empty()) return 1;
  if (unit.size() > 3) return std::nullopt;
  const char prefix = upper(unit.front());
  if (prefix == 'B') return unit.size() == 1 ? std::optional<uint64_t>(1) : std::nullopt;
  const size_t power = std::string_view("KMGTPE").find(prefix);
  if (power == std::string_view::npos) return std::nullopt;
  if (unit.size() == 2 && upper(unit[1]) != 'B') return std::nullopt;
  if (unit.size() == 3 && (upper(unit[1]) != 'I' || upper(unit[2]) != 'B')) return std::nullopt;
  return uint64_t{1} << (10 * (power + 1));
}

// `digits` after the decimal point, as bytes of `unit`, rounded down.
std::optional<uint64_t> fraction_bytes(std::string_view digits, uint64_t unit) {
  constexpr size_t kMaxDigits = 9;
  if (digits.size() > kMaxDigits) return std::nullopt;
  const auto numerator = parse_decimal(digits, true);
  if (!numerator) return std::nullopt;
  uint64_t scale = 1;
  for (size_t i = 0; i < digits.size(); ++i) scale *= 10;
  // numerator < scale <= 10^9, so splitting the unit keeps every product below 2^64.
  return unit / scale * *numerator + unit % scale * *numerator / scale;
}

}  // namespace

std::string quote(std::string_view raw) {
  std::string text = "'";
  size_t count = 0;
  while (!raw.empty() && count < kQuoteLimit) {
    const Character c = first_character(raw);
    const size_t length = std::max<size_t>(c.length, 1);
    if (c.length == 0 || needs_escape(c.value)) {
      for (const char byte : raw.substr(0, length)) {
        text += fmt::format("\\x{:02x}", static_cast<unsigned>(static_cast<unsigned char>(byte)));
      }
    } else {
      text += raw.substr(0, length);
    }
    raw.remove_prefix(length);
    ++count;
  }
  text += raw.empty() ? "'" : "'...";
  return text;
}

std::string human_bytes(uint64_t bytes) {
  constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (bytes < 1024) return fmt::format("{} B", bytes);
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  // 1023.95 would print as "1024.0": such a value belongs to the next unit.
  while (unit + 1 < kUnits.size() && value >= (unit == 0 ? 1024.0 : 1023.95)) {
    value /= 1024;
    ++unit;
  }
  const double tenths = std::round(value * 10);
  const bool whole = std::fmod(tenths, 10.0) == 0;
  return whole ? fmt::format("{:.0f} {}", tenths / 10, kUnits.at(unit))
               : fmt::format("{:.1f} {}", tenths / 10, kUnits.at(unit));
}

std::string human_seconds(double seconds) {
  if (!(seconds > 0)) return "0 s";
  if (seconds < 0.0009995) return fmt::format("{:.0f} us", seconds * 1e6);
  if (seconds < 0.9995) return fmt::format("{:.0f} ms", seconds * 1e3);
  if (seconds < 9.995) return fmt::format("{:.2f} s", seconds);
  if (seconds < 59.95) return fmt::format("{:.1f} s", seconds);
  const double rounded = std::min(std::round(seconds), 9e15);
  const auto whole = static_cast<uint64_t>(rounded);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

std::string human_share(double share) {
  if (!(share > 0)) return "0 %";
  if (share >= 1) return "100 %";
  // A share that is not exactly none or all must not read as if it were.
  if (share < 0.00005) return "< 0.01 %";
  if (share >= 0.99995) return "> 99.99 %";
  return fmt::format("{:.2f} %", share * 100);
}

std::optional<uint64_t> parse_size(std::string_view text) {
  const size_t end = text.find_first_not_of("0123456789.");
  std::string_view number = text.substr(0, end);
  std::string_view unit_text = end == std::string_view::npos ? std::string_view{} : text.substr(end);
  if (!unit_text.empty() && unit_text.front() == ' ') {
    unit_text.remove_prefix(1);
    if (unit_text.empty()) return std::nullopt;
  }
  const auto unit = unit_bytes(unit_text);
  const size_t point = number.find('.');
  const auto whole = parse_decimal(number.substr(0, point), true);
  if (!unit || !whole) return std::nullopt;
  const auto bytes = checked_mul(*whole, *unit);
  if (!bytes || point == std::string_view::npos) return bytes;
  if (*unit == 1) return std::nullopt;  // there is no half byte
  const auto fraction = fraction_bytes(number.substr(point + 1), *unit);
  return fraction ? checked_add(*bytes, *fraction) : std::nullopt;
}

std::optional<uint64_t> parse_decimal(std::string_view text, bool leading_zeros) {
  if (text.empty() || (!leading_zeros && text.size() > 1 && text.front() == '0')) return std::nullopt;
  if (!std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; })) return std::nullopt;
  uint64_t value = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || rest != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<std::vector<uint64_t>> parse_decimals(std::string_view text) {
  std::vector<uint64_t> values;
  for (;;) {
    const size_t space = text.find(' ');
    const auto value = parse_decimal(text.substr(0, space));
    if (!value) return std::nullopt;
    values.push_back(*value);
    if (space == std::string_view::npos) return values;
    text.remove_prefix(space + 1);
  }
}

bool is_plain_file_name(std::string_view name) {
  constexpr size_t kNameMax = 255;
  if (name.empty() || name.size() > kNameMax || name.front() == '.') return false;
  return std::none_of(name.begin(), name.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte < 0x20 || byte == 0x7F || c == '/' || c == '\\';
  });
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    // Headers are nearly all ASCII: eight bytes at a time.
    while (text.size() >= sizeof(uint64_t)) {
      uint64_t word = 0;
      std::memcpy(&word, text.data(), sizeof word);
      if ((word & 0x8080808080808080U) != 0) break;
      text.remove_prefix(sizeof word);
    }
    if (text.empty()) break;
    const size_t length = first_character(text).length;
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

}  // namespace weightfs
