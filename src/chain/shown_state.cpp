// SPDX-License-Identifier: Apache-2.0
// The text form.  It has no counts and no lengths: nothing in it can ask for more memory than it has bytes.
#include "chain/shown_state.h"

#include <array>
#include <charconv>
#include <optional>

#include "common/digest.h"
#include "common/text.h"

namespace weightfs {
namespace {

constexpr std::string_view kTitle = "weightfs-shown 1\n";
constexpr std::string_view kBase = "base ";
constexpr std::string_view kLatest = "latest ";
constexpr std::string_view kEnd = "end ";
constexpr size_t kDigits = 16;
/// What stands after an identity: the sets that it is in.
constexpr std::string_view kMarks = "asvo";

template <class State>
auto sets_of(State& state) {
  return std::array{&state.accepted, &state.shown, &state.verified, &state.served};
}

void append_hex(std::string& text, uint64_t value) {
  constexpr std::string_view kHex = "0123456789abcdef";
  for (size_t i = 0; i < kDigits; ++i) text += kHex[(value >> (4 * (kDigits - 1 - i))) & 15];
}

std::optional<uint64_t> parse_hex(std::string_view text) {
  uint64_t value = 0;
  if (text.size() != kDigits) return std::nullopt;
  const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (fault != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// "KEYWORD 0123456789abcdef".
std::optional<uint64_t> parse_entry(std::string_view keyword, std::string_view line) {
  return line.starts_with(keyword) ? parse_hex(line.substr(keyword.size())) : std::nullopt;
}

/// The next line without its end; takes it from `text`.  Nothing when it does not end.
std::optional<std::string_view> take_line(std::string_view& text) {
  const size_t end = text.find('\n');
  if (end == std::string_view::npos) return std::nullopt;
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(end + 1);
  return line;
}

std::optional<uint64_t> take_entry(std::string_view keyword, std::string_view& text) {
  const auto line = take_line(text);
  return line ? parse_entry(keyword, *line) : std::nullopt;
}

Error bad_state(std::string_view what) {
  return {ErrorCode::kInternal, "the record of what was shown cannot be used: " + std::string(what)};
}

void append_entry(std::string& text, std::string_view keyword, uint64_t value) {
  text += keyword;
  append_hex(text, value);
  text += '\n';
}

bool read_identity(std::string_view line, ShownState& state) {
  if (line.size() < kDigits + 2 || line[kDigits] != ' ') return false;
  const auto identity = parse_hex(line.substr(0, kDigits));
  if (!identity) return false;
  for (const char mark : line.substr(kDigits + 1)) {
    const size_t which = kMarks.find(mark);
    if (which == std::string_view::npos) return false;
    auto& set = *sets_of(state)[which];
    set.insert(set.end(), *identity);
  }
  return true;
}

}  // namespace

std::string ShownState::to_text() const {
  std::set<uint64_t> all;
  for (const auto* const set : sets_of(*this)) all.insert(set->begin(), set->end());
  std::string text(kTitle);
  append_entry(text, kBase, base);
  append_entry(text, kLatest, latest);
  for (const uint64_t identity : all) {
    append_hex(text, identity);
    text += ' ';
    for (size_t i = 0; i < kMarks.size(); ++i) {
      if (sets_of(*this)[i]->contains(identity)) text += kMarks[i];
    }
    text += '\n';
  }
  append_entry(text, kEnd, xxh3_64(as_bytes(text)));
  return text;
}

Result<ShownState> ShownState::parse(std::string_view text) {
  if (!text.starts_with(kTitle)) return bad_state("it is not one, or one of another version of weightfs");
  constexpr size_t kEndSize = kEnd.size() + kDigits + 1;
  if (text.size() < kTitle.size() + kEndSize || text.back() != '\n') return bad_state("it is cut off");
  std::string_view body = text.substr(0, text.size() - kEndSize);
  const auto digest = parse_entry(kEnd, text.substr(body.size(), kEndSize - 1));
  if (!digest || *digest != xxh3_64(as_bytes(body))) return bad_state("it is cut off or damaged");
  body.remove_prefix(kTitle.size());
  ShownState state;
  const auto base = take_entry(kBase, body);
  const auto latest = take_entry(kLatest, body);
  if (!base || !latest) return bad_state("it does not say what the base and `latest` were");
  state.base = *base;
  state.latest = *latest;
  while (!body.empty()) {
    const auto line = take_line(body);
    if (!line || !read_identity(*line, state)) return bad_state(quote(line.value_or(body)) + " is no identity");
  }
  return state;
}

}  // namespace weightfs
