// SPDX-License-Identifier: Apache-2.0
//
// The answer of `weightfs diff`, as a document and as a table.
#include "cli/diff_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>

#include "cli/json.h"
#include "cli/table.h"
#include "common/text.h"

namespace weightfs::cli {
namespace {

using Kind = TensorDiff::Kind;

std::string_view kind_name(Kind kind) {
  switch (kind) {
    case Kind::kSame:
      return "same";
    case Kind::kChanged:
      return "changed";
    case Kind::kReshaped:
      return "reshaped";
    case Kind::kAdded:
      return "added";
    case Kind::kRemoved:
      return "removed";
    case Kind::kRenamed:
      return "renamed";
  }
  return "";
}

std::string_view kind_name(FileDiff::Kind kind) {
  return kind == FileDiff::Kind::kAdded ? "added" : kind == FileDiff::Kind::kRemoved ? "removed" : "changed";
}

std::string_view kind_name(Checkpoint::Kind kind) {
  return kind == Checkpoint::Kind::kPlain ? "file" : kind == Checkpoint::Kind::kSafetensors ? "safetensors" : "folder";
}

double share(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

bool is_number(Dtype dtype) { return element_format(dtype).number != codec::FloatFormat::kNone; }

struct Totals {
  std::map<Kind, size_t> count;
  size_t moved = 0;
  codec::ElementChanges changes;

  explicit Totals(const CheckpointDiff& diff) {
    for (const auto& tensor : diff.tensors) {
      ++count[tensor.kind];
      moved += tensor.moved ? 1 : 0;
      if (tensor.changes) changes.add(*tensor.changes);
    }
  }
  size_t of(Kind kind) const {
    const auto found = count.find(kind);
    return found == count.end() ? 0 : found->second;
  }
};

Json tensor_side(const Checkpoint& checkpoint, size_t index) {
  if (index == TensorDiff::npos) return nullptr;
  const auto& tensor = checkpoint.tensors[index];
  return {{"name", tensor.info.name},
          {"dtype", dtype_name(tensor.info.dtype)},
          {"shape", tensor.info.shape},
          {"file", checkpoint.files[tensor.file].path},
          {"bytes", tensor.info.bytes()}};
}

void add_counts(Json& object, const codec::ElementChanges& changes) {
  object["elements"] = changes.elements;
  object["changed_elements"] = changes.changed;
  object["changed_share"] = share(changes.changed, changes.elements);
  object["one_ulp_elements"] = changes.one_ulp;
  object["one_ulp_share"] = share(changes.one_ulp, changes.changed);
}

Json tensor_object(const Checkpoint& before, const Checkpoint& after, const TensorDiff& diff) {
  const auto& shown = diff.after != TensorDiff::npos ? after.tensors[diff.after] : before.tensors[diff.before];
  Json object = {{"name", shown.info.name},
                 {"status", kind_name(diff.kind)},
                 {"moved", diff.moved},
                 {"old", tensor_side(before, diff.before)},
                 {"new", tensor_side(after, diff.after)},
                 {"change", nullptr}};
  if (!diff.changes) return object;
  const auto& changes = *diff.changes;
  Json change;
  add_counts(change, changes);
  change["max_distance"] = changes.max_distance;
  const bool number = is_number(shown.info.dtype);
  change["max_difference"] = number ? Json(changes.max_difference) : Json(nullptr);
  change["not_finite"] = number ? Json(changes.not_finite) : Json(nullptr);
  object["change"] = std::move(change);
  return object;
}

Json file_object(const Checkpoint& before, const Checkpoint& after, const FileDiff& diff) {
  const auto& shown = diff.after != TensorDiff::npos ? after.files[diff.after] : before.files[diff.before];
  return {{"path", diff.path},
          {"status", kind_name(diff.kind)},
          {"kind", kind_name(shown.kind)},
          {"old_bytes", diff.before != TensorDiff::npos ? Json(before.files[diff.before].size()) : Json(nullptr)},
          {"new_bytes", diff.after != TensorDiff::npos ? Json(after.files[diff.after].size()) : Json(nullptr)}};
}

Json summary_object(const Totals& totals, const CheckpointDiff& diff) {
  Json summary;
  for (const Kind kind : {Kind::kSame, Kind::kChanged, Kind::kReshaped, Kind::kAdded, Kind::kRemoved, Kind::kRenamed}) {
    summary[std::string(kind_name(kind))] = totals.of(kind);
  }
  summary["moved"] = totals.moved;
  summary["files"] = diff.files.size();
  add_counts(summary, totals.changes);
  return summary;
}

// --- for people -----------------------------------------------------------------------------------

std::string remark_of(const Checkpoint& before, const Checkpoint& after, const TensorDiff& diff) {
  if (diff.before == TensorDiff::npos || diff.after == TensorDiff::npos) return {};
  const auto& old_tensor = before.tensors[diff.before];
  const auto& new_tensor = after.tensors[diff.after];
  std::vector<std::string> was;
  if (old_tensor.info.name != new_tensor.info.name) was.push_back(bare(old_tensor.info.name));
  if (old_tensor.info.dtype != new_tensor.info.dtype) was.emplace_back(dtype_name(old_tensor.info.dtype));
  if (old_tensor.info.shape != new_tensor.info.shape) was.push_back(old_tensor.info.shape_text());
  if (diff.moved) was.push_back("in " + bare(before.files[old_tensor.file].path));
  return was.empty() ? "" : fmt::format("was {}", fmt::join(was, " "));
}

void add_row(Table& table, const Checkpoint& before, const Checkpoint& after, const TensorDiff& diff) {
  const auto& side = diff.after != TensorDiff::npos ? after : before;
  const auto& shown = side.tensors[diff.after != TensorDiff::npos ? diff.after : diff.before];
  std::string changed;
  std::string ulp;
  std::string distance;
  std::string difference;
  if (diff.changes && diff.changes->changed > 0) {
    changed = human_share(share(diff.changes->changed, diff.changes->elements));
    ulp = human_share(share(diff.changes->one_ulp, diff.changes->changed));
    distance = grouped(diff.changes->max_distance);
    if (is_number(shown.info.dtype)) difference = fmt::format("{:.3g}", diff.changes->max_difference);
  }
  std::string status(kind_name(diff.kind));
  if (diff.moved) status = diff.kind == Kind::kSame ? "moved" : status + ", moved";
  table.add({{bare(shown.info.name)},
             {std::string(dtype_name(shown.info.dtype))},
             {shown.info.shape_text()},
             {bare(side.files[shown.file].path)},
             {status},
             {changed},
             {ulp},
             {distance},
             {difference},
             {remark_of(before, after, diff)}});
  if (is_number(shown.info.dtype) && diff.changes && diff.changes->not_finite > 0) {
    table.note(
        fmt::format("{} of the changed elements are or were infinite or no number", grouped(diff.changes->not_finite)),
        Colour::kWarning);
  }
}

std::string heading(std::string_view side, const Checkpoint& checkpoint) {
  return fmt::format("{}: {}, {} tensors, {}\n", side, bare(checkpoint.name), checkpoint.tensors.size(),
                     human_bytes(checkpoint.tensor_bytes()));
}

std::string tensor_table(const Checkpoint& before, const Checkpoint& after, const CheckpointDiff& diff,
                         const Terminal& terminal) {
  Table table({{"TENSOR"},
               {"DTYPE", false, 4},
               {"SHAPE", false, 5},
               {"FILE", false, 7},
               {"STATUS"},
               {"CHANGED", true, 1},
               {"+-1 ULP", true, 2},
               {"MAX ULP", true, 3},
               {"MAX DIFF", true, 3},
               {"REMARK", false, 6}});
  bool any = false;
  for (const auto& tensor : diff.tensors) {
    if (tensor.kind == Kind::kSame && !tensor.moved) continue;
    add_row(table, before, after, tensor);
    any = true;
  }
  return any ? "\n" + table.text(terminal) : "";
}

std::string file_table(const Checkpoint& before, const Checkpoint& after, const CheckpointDiff& diff,
                       const Terminal& terminal) {
  if (diff.files.empty()) return {};
  Table table({{"FILE"}, {"STATUS"}, {"OLD", true, 1}, {"NEW", true, 1}});
  for (const auto& file : diff.files) {
    const auto& shown = file.after != TensorDiff::npos ? after.files[file.after] : before.files[file.before];
    const bool header = file.kind == FileDiff::Kind::kChanged && shown.kind == Checkpoint::Kind::kSafetensors;
    table.add({{bare(file.path) + (shown.kind == Checkpoint::Kind::kEmptyFolder ? "/" : "")},
               {header ? "header changed" : std::string(kind_name(file.kind))},
               {file.before == TensorDiff::npos ? "" : human_bytes(before.files[file.before].size())},
               {file.after == TensorDiff::npos ? "" : human_bytes(after.files[file.after].size())}});
  }
  return "\n" + table.text(terminal);
}

std::string summary_text(const Totals& totals, const CheckpointDiff& diff) {
  if (diff.equal()) return "\nequal: the same files with the same bytes\n";
  std::vector<std::string> parts;
  for (const Kind kind : {Kind::kChanged, Kind::kReshaped, Kind::kAdded, Kind::kRemoved, Kind::kRenamed}) {
    if (totals.of(kind) > 0) parts.push_back(fmt::format("{} {}", totals.of(kind), kind_name(kind)));
  }
  if (totals.moved > 0) parts.push_back(fmt::format("{} moved", totals.moved));
  if (totals.of(Kind::kSame) > 0) parts.push_back(fmt::format("{} the same", totals.of(Kind::kSame)));
  std::string text = parts.empty() ? "\n" : fmt::format("\ntensors: {}\n", fmt::join(parts, ", "));
  const auto& changes = totals.changes;
  if (changes.changed > 0) {
    text += fmt::format("{} of {} elements changed ({}), {} of those by one unit in the last place\n",
                        grouped(changes.changed), grouped(changes.elements),
                        human_share(share(changes.changed, changes.elements)),
                        human_share(share(changes.one_ulp, changes.changed)));
  }
  return text;
}

}  // namespace

Json diff_json(const Checkpoint& before, const Checkpoint& after, const CheckpointDiff& diff) {
  Json tensors = Json::array();
  for (const auto& tensor : diff.tensors) tensors.push_back(tensor_object(before, after, tensor));
  Json files = Json::array();
  for (const auto& file : diff.files) files.push_back(file_object(before, after, file));
  return {{"old", before.name},
          {"new", after.name},
          {"equal", diff.equal()},
          {"summary", summary_object(Totals(diff), diff)},
          {"tensors", std::move(tensors)},
          {"files", std::move(files)}};
}

std::string diff_text(const Checkpoint& before, const Checkpoint& after, const CheckpointDiff& diff,
                      const Terminal& terminal) {
  return heading("old", before) + heading("new", after) + tensor_table(before, after, diff, terminal) +
         file_table(before, after, diff, terminal) + summary_text(Totals(diff), diff);
}

}  // namespace weightfs::cli
