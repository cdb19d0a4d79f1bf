// SPDX-License-Identifier: Apache-2.0
#include "cli/changes_report.h"

#include <string>
#include <utility>

#include "chain/changes.h"
#include "cli/json.h"

namespace weightfs::cli {

Result<Json> changes_report(const Snapshot& snapshot, std::optional<size_t> from, size_t to) {
  Changes changes = TRY(changes_between(snapshot, from, to));
  Json tensors = Json::array();
  size_t changed = 0;
  for (Changes::TensorChange& change : changes.tensors) {
    changed += change.what == "removed" ? 0 : 1;
    tensors.push_back({{"name", std::move(change.name)},
                       {"file", std::move(change.file)},
                       {"bytes", change.bytes},
                       {"what", std::move(change.what)}});
  }
  return Json{
      {"version", snapshot.admitted(to).name},  {"since", from ? Json(snapshot.admitted(*from).name) : Json(nullptr)},
      {"tensor_count", changes.tensor_count},   {"changed_tensors", changed},
      {"changed_bytes", changes.changed_bytes}, {"total_bytes", changes.total_bytes},
      {"tensors", std::move(tensors)},          {"files", std::move(changes.files)},
  };
}

}  // namespace weightfs::cli
