// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/result.h"

namespace weightfs {

/// Receives the pieces of a JSON text in order.  Each call returns true to go on, or false after fail()
/// has said why; then nothing more arrives.
class JsonHandler {
 public:
  /// Values that a handler may want to tell apart but that carry no text or count.
  enum class Other { kNull, kTrue, kFalse, kNumber };

  virtual ~JsonHandler() = default;
  virtual bool begin_object() = 0;
  virtual bool end_object() = 0;
  virtual bool begin_array() = 0;
  virtual bool end_array() = 0;
  /// May be moved from, like the text of text().
  virtual bool key(std::string& name) = 0;
  virtual bool text(std::string& value) = 0;
  /// An integer of the form 0 or [1-9][0-9]* that fits 64 bits.
  virtual bool count(uint64_t value) = 0;
  /// null, true, false, or any other number (negative, with fraction or exponent, too large), as spelt.
  virtual bool other(Other kind, std::string_view spelling) = 0;

  const std::optional<Error>& error() const { return error_; }

 protected:
  bool fail(ErrorCode code, std::string message) {
    error_ = Error{code, std::move(message)};
    return false;
  }

 private:
  std::optional<Error> error_;
};

/// Feeds one JSON object to a handler without building a tree.  Strict: UTF-8 throughout, space, tab,
/// CR and LF around the object and nothing else, fewer than 128 levels of nesting, no byte order mark, no
/// comments.  What is not such a text fails with `malformed`, wherever the fault is; only then does what
/// the handler refuses count.
Status parse_json_object(std::string_view json, JsonHandler& handler, ErrorCode malformed);

}  // namespace weightfs
