// SPDX-License-Identifier: Apache-2.0
// Which base tensor a published name means.  Trainers that export checkpoint names match exactly;
// TRL publishes module names, which differ by a prefix for some architectures.  A rule is applied
// only when it leaves exactly one candidate, and what it mapped is shown by `weightfs show`.
#include "delta/names.h"

#include <algorithm>
#include <array>

#include "common/text.h"

namespace weightfs {
namespace {

constexpr std::string_view kModule = "module.";
constexpr std::string_view kModel = "model.";

bool is_dotted_suffix(std::string_view suffix, std::string_view name) {
  return name.size() > suffix.size() && name.ends_with(suffix) && name[name.size() - suffix.size() - 1] == '.';
}

bool ends_with_any(std::string_view name, std::initializer_list<std::string_view> ends) {
  return std::any_of(ends.begin(), ends.end(),
                     [&](std::string_view end) { return name == end || is_dotted_suffix(end, name); });
}

bool is_output_embedding(std::string_view name) { return ends_with_any(name, {"lm_head.weight", "embed_out.weight"}); }

bool is_input_embedding(std::string_view name) {
  return ends_with_any(name, {"embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight",
                              "tok_embeddings.weight"});
}

}  // namespace

NameMap::NameMap(const ModelFolder& base) : base_(&base) {}

Result<size_t> NameMap::exact(std::string_view name) const {
  if (const size_t found = base_->find_tensor(name); found != ModelFolder::npos) return found;
  return Error{ErrorCode::kUnknownTensor, "tensor " + quote(name) + " is not in the base " + base_->path() +
                                              "; is this the base that the run started from?"};
}

Result<size_t> NameMap::loose(std::string_view name) const {
  std::string_view stripped = name;
  if (stripped.starts_with(kModule)) stripped.remove_prefix(kModule.size());
  for (std::string_view candidate : {name, stripped}) {
    if (const size_t found = base_->find_tensor(candidate); found != ModelFolder::npos) return found;
  }
  const std::string toggled = stripped.starts_with(kModel) ? std::string(stripped.substr(kModel.size()))
                                                           : std::string(kModel) + std::string(stripped);
  if (const size_t found = base_->find_tensor(toggled); found != ModelFolder::npos) return found;
  if (const size_t found = by_suffix(stripped); found != ModelFolder::npos) return found;
  return exact(name);
}

size_t NameMap::by_suffix(std::string_view name) const {
  size_t found = ModelFolder::npos;
  if (name.empty()) return found;
  const auto& tensors = base_->tensors();
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::string& candidate = tensors[i].info.name;
    const bool matches = is_dotted_suffix(name, candidate) || (!candidate.empty() && is_dotted_suffix(candidate, name));
    if (!matches) continue;
    if (found != ModelFolder::npos) return ModelFolder::npos;
    found = i;
  }
  return found;
}

void add_tied_tensors(const ModelFolder& base, Delta& delta) {
  if (!base.ties_word_embeddings()) return;
  const auto listed = [&](size_t tensor) {
    return std::any_of(delta.tensors.begin(), delta.tensors.end(), [&](const auto& t) { return t.tensor == tensor; });
  };
  for (size_t i = 0; i < base.tensors().size(); ++i) {
    const TensorInfo& output = base.tensors()[i].info;
    if (!is_output_embedding(output.name) || listed(i)) continue;
    const auto input = std::find_if(delta.tensors.begin(), delta.tensors.end(), [&](const DeltaTensor& t) {
      const TensorInfo& info = base.tensors()[t.tensor].info;
      return is_input_embedding(info.name) && info.dtype == output.dtype && info.shape == output.shape;
    });
    if (input == delta.tensors.end()) continue;
    DeltaTensor tied = *input;
    tied.tensor = i;
    tied.tied_to = input->tensor;
    tied.stored_bytes = 0;
    delta.tensors.push_back(std::move(tied));
  }
}

std::vector<size_t> tied_tensors(const ModelFolder& base) {
  std::vector<size_t> tied;
  if (!base.ties_word_embeddings()) return tied;
  const auto& tensors = base.tensors();
  const auto is_pair = [&](const TensorInfo& a, const TensorInfo& b) {
    return is_input_embedding(a.name) && is_output_embedding(b.name) && a.dtype == b.dtype && a.shape == b.shape;
  };
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo& info = tensors[i].info;
    if (!is_input_embedding(info.name) && !is_output_embedding(info.name)) continue;
    const bool has_partner = std::any_of(tensors.begin(), tensors.end(), [&](const auto& other) {
      return is_pair(info, other.info) || is_pair(other.info, info);
    });
    if (has_partner) tied.push_back(i);
  }
  return tied;
}

Status sort_tensors(const ModelFolder& base, Delta& delta) {
  const auto by_tensor = [](const DeltaTensor& a, const DeltaTensor& b) { return a.tensor < b.tensor; };
  std::stable_sort(delta.tensors.begin(), delta.tensors.end(), by_tensor);
  const auto twice = std::adjacent_find(delta.tensors.begin(), delta.tensors.end(),
                                        [](const auto& a, const auto& b) { return a.tensor == b.tensor; });
  if (twice == delta.tensors.end()) return {};
  return Error{ErrorCode::kAmbiguousName,
               twice->file + ": " + quote(twice->published_name) + " and " + quote(std::next(twice)->published_name) +
                   " both mean the base's tensor " + quote(base.tensors()[twice->tensor].info.name)};
}

}  // namespace weightfs
