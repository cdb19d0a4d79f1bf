// SPDX-License-Identifier: Apache-2.0
// The one thing weightfs wants to know from config.json.  A config is no weight file: a strange one
// must not keep a model from being mounted, so faults are read past instead of reported.
#include "model/model_config.h"

#include <string_view>
#include <utility>

#include "model/json_events.h"

namespace weightfs {
namespace {

class TieReader final : public JsonHandler {
 public:
  bool begin_object() override { return enter(); }
  bool end_object() override { return leave(); }
  bool begin_array() override { return enter(); }
  bool end_array() override { return leave(); }
  bool key(std::string& name) override {
    if (depth_ <= 2) name_ = std::move(name);
    return true;
  }
  bool text(std::string& /*value*/) override { return true; }
  bool count(uint64_t /*value*/) override { return true; }
  bool other(Other kind, std::string_view /*spelling*/) override {
    const bool here = depth_ == 1 || (depth_ == 2 && in_text_config_);
    if (here && name_ == "tie_word_embeddings") (depth_ == 1 ? top_ : text_) = kind == Other::kTrue;
    return true;
  }

  bool ties() const { return top_ || text_; }

 private:
  bool enter() {
    if (depth_++ == 1) in_text_config_ = name_ == "text_config";
    return true;
  }
  bool leave() {
    --depth_;
    return true;
  }

  size_t depth_ = 0;
  bool in_text_config_ = false;
  std::string name_;
  bool top_ = false;
  bool text_ = false;
};

// Python's json module writes NaN and Infinity into configs; JSON has no such words.
void blank_python_numbers(std::string& json) {
  bool in_text = false;
  for (size_t i = 0; i < json.size(); ++i) {
    if (json[i] == '"') in_text = !in_text;
    if (json[i] == '\\') ++i;
    if (in_text) continue;
    for (const std::string_view word : {"NaN", "Infinity"}) {
      if (i < json.size() && json.compare(i, word.size(), word) == 0) {
        json.replace(i, word.size(), "0" + std::string(word.size() - 1, ' '));
      }
    }
  }
}

}  // namespace

bool config_ties_word_embeddings(std::string json) {
  blank_python_numbers(json);
  TieReader reader;
  (void)parse_json_object(json, reader, ErrorCode::kInternal);
  return reader.ties();
}

}  // namespace weightfs
