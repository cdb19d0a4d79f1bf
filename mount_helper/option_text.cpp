// SPDX-License-Identifier: Apache-2.0
// Taking `-o a,b=c,d="e,f"` apart.  What must stay true: there is one reading of a text, or it is refused.
// A quote in the middle, an escape that means nothing here, or an odd character in a name could be read
// in another way by mount(8), which sorts the options before we see them; none of them gets through.  \, is the
// exception: the mount(8) of util-linux 2.38 ends the option there and puts it together again, but takes out what
// it knows: of base=/a\,ro,follow we see ro,base=/a\,follow.  So the help speaks of double quotes only.
#include "option_text.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/text.h"

namespace weightfs::helper {
namespace {

bool is_control(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; }

bool is_name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.';
}

/// Reads one text from front to back.
class OptionReader {
 public:
  explicit OptionReader(std::string_view text) : text_(text) {}

  Result<std::vector<MountOption>> read() {
    std::vector<MountOption> options;
    while (!at_end()) {
      if (skip(',')) continue;
      options.push_back(TRY(read_option()));
      if (!at_end() && !skip(',')) return wrong(options.back().name, "something follows the closing double quote");
    }
    return options;
  }

 private:
  bool at_end() const { return next_ == text_.size(); }
  bool skip(char c) {
    const bool there = !at_end() && text_[next_] == c;
    if (there) ++next_;
    return there;
  }

  Result<MountOption> read_option() {
    const size_t start = next_;
    while (!at_end() && is_name_character(text_[next_])) ++next_;
    MountOption option{std::string(text_.substr(start, next_ - start)), std::nullopt};
    if (at_end() || text_[next_] == ',') return option;
    if (option.name.empty() || !skip('=')) {
      return Error{ErrorCode::kUsage,
                   fmt::format("the name of option {} may hold letters, digits, '_', '-' and '.' only",
                               quote(text_.substr(start, text_.find(',', start) - start)))};
    }
    option.value = TRY(skip('"') ? read_quoted(option.name) : read_plain(option.name));
    return option;
  }

  Result<std::string> read_quoted(const std::string& name) {
    std::string value;
    while (!skip('"')) {
      if (at_end()) return wrong(name, "its double quote is never closed");
      TRY(read_character(name, value));
    }
    return value;
  }

  Result<std::string> read_plain(const std::string& name) {
    std::string value;
    while (!at_end() && text_[next_] != ',') {
      if (text_[next_] == '"') {
        return wrong(name, "put the whole value in double quotes, and write a double quote in it as \\\"");
      }
      TRY(read_character(name, value));
    }
    return value;
  }

  Status read_character(const std::string& name, std::string& value) {
    if (skip('\\') && (at_end() || std::string_view(",\\\"").find(text_[next_]) == std::string_view::npos)) {
      return wrong(name,
                   "a backslash may stand before a comma, a double quote or a backslash only; write \\\\ for one");
    }
    value += text_[next_++];
    return {};
  }

  static Error wrong(const std::string& name, std::string_view what) {
    return {ErrorCode::kUsage, fmt::format("option {}: {}", quote(name), what)};
  }

  std::string_view text_;
  size_t next_ = 0;
};

}  // namespace

bool has_control_character(std::string_view text) { return std::any_of(text.begin(), text.end(), is_control); }

Result<std::vector<MountOption>> split_mount_options(std::string_view text) {
  if (has_control_character(text)) {
    return Error{ErrorCode::kUsage,
                 fmt::format("the options {} hold a control character; none may stand there", quote(text))};
  }
  return OptionReader(text).read();
}

}  // namespace weightfs::helper
