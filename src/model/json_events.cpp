// SPDX-License-Identifier: Apache-2.0
// Strict JSON as events, over nlohmann's SAX parser.  That parser is lenient in places where a
// second reader of the same file would disagree: it skips a byte order mark, takes NUL for the end
// of the text and has no limit on nesting.  Those are refused here, before or beside it.
#include "model/json_events.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "common/text.h"

namespace weightfs {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxDepth = 127;  // serde_json, the reference reader's parser, gives up at 128
constexpr std::string_view kWhiteSpace = " \t\r\n";

class SaxAdapter {
 public:
  using number_integer_t = Json::number_integer_t;
  using number_unsigned_t = Json::number_unsigned_t;
  using number_float_t = Json::number_float_t;
  using string_t = Json::string_t;
  using binary_t = Json::binary_t;

  explicit SaxAdapter(JsonHandler& handler) : handler_(handler) {}

  bool null() { return other(JsonHandler::Other::kNull, "null"); }
  bool boolean(bool value) {
    return value ? other(JsonHandler::Other::kTrue, "true") : other(JsonHandler::Other::kFalse, "false");
  }
  // Called for a number with a minus sign; "-0" arrives as 0.
  bool number_integer(number_integer_t value) {
    return other(JsonHandler::Other::kNumber, value == 0 ? "-0" : std::to_string(value));
  }
  bool number_unsigned(number_unsigned_t value) { return refused_ || pass(handler_.count(value)); }
  bool number_float(number_float_t /*value*/, const string_t& spelling) {
    return other(JsonHandler::Other::kNumber, spelling);
  }
  bool string(string_t& value) { return refused_ || pass(handler_.text(value)); }
  bool binary(binary_t& /*value*/) { return false; }
  bool start_object(size_t /*elements*/) { return deeper() && (refused_ || pass(handler_.begin_object())); }
  bool key(string_t& name) { return refused_ || pass(handler_.key(name)); }
  bool end_object() {
    --depth_;
    return refused_ || pass(handler_.end_object());
  }
  bool start_array(size_t /*elements*/) { return deeper() && (refused_ || pass(handler_.begin_array())); }
  bool end_array() {
    --depth_;
    return refused_ || pass(handler_.end_array());
  }
  bool parse_error(size_t position, const std::string& /*token*/, const Json::exception& /*what*/) {
    broken_at_ = position;
    return false;
  }

  bool too_deep() const { return depth_ > kMaxDepth; }
  size_t broken_at() const { return broken_at_; }

 private:
  bool deeper() { return ++depth_ <= kMaxDepth; }
  bool other(JsonHandler::Other kind, std::string_view spelling) {
    return refused_ || pass(handler_.other(kind, spelling));
  }
  // After the handler has refused the text, the rest is still checked for being JSON at all.
  bool pass(bool accepted) {
    refused_ = !accepted;
    return true;
  }

  JsonHandler& handler_;
  bool refused_ = false;
  size_t depth_ = 0;
  size_t broken_at_ = 0;
};

Status check_frame(std::string_view json, ErrorCode malformed) {
  const size_t first = json.find_first_not_of(kWhiteSpace);
  if (first == std::string_view::npos) return Error{malformed, "the JSON text is empty"};
  if (json[first] != '{') {
    return Error{malformed,
                 fmt::format("the JSON text must begin with '{{', not with {}", quote(json.substr(first, 1)))};
  }
  const size_t nul = json.find('\0');
  if (nul != std::string_view::npos) return Error{malformed, fmt::format("NUL byte at byte {} of the JSON text", nul)};
  if (!is_utf8(json)) return Error{malformed, "the JSON text is not UTF-8"};
  return {};
}

}  // namespace

Status parse_json_object(std::string_view json, JsonHandler& handler, ErrorCode malformed) {
  TRY(check_frame(json, malformed));
  SaxAdapter adapter(handler);
  if (Json::sax_parse(json.data(), json.data() + json.size(), &adapter)) {
    return handler.error() ? Status(*handler.error()) : Status();
  }
  if (adapter.too_deep()) {
    return Error{malformed, fmt::format("the JSON text is nested deeper than {} levels", kMaxDepth)};
  }
  return Error{malformed, fmt::format("not well-formed JSON near byte {}", adapter.broken_at())};
}

}  // namespace weightfs
