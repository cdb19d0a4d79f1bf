// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>

#include "common/result.h"
#include "delta/delta.h"
#include "model/model_folder.h"

namespace weightfs {

/// Matches the names that trainers publish with those of the base.  Immutable, hence thread-safe;
/// the base must outlive it.
class NameMap {
 public:
  explicit NameMap(const ModelFolder& base);

  /// The base's tensor of exactly that name, else delta.unknown_tensor.
  Result<size_t> exact(std::string_view name) const;
  /// For trainers that publish module names: the exact name; else without a leading "module."; else
  /// with one leading "model." added or removed; else the only base tensor of which the name is a
  /// dotted suffix, or which is a dotted suffix of the name.  Never a guess between two.
  Result<size_t> loose(std::string_view name) const;

  const ModelFolder& base() const { return *base_; }

 private:
  size_t by_suffix(std::string_view name) const;

  const ModelFolder* base_;
};

/// Adds, for every tied pair of which the delta changes only the input embedding, the same change of
/// the output embedding (only where config.json says that word embeddings are tied, and dtype and
/// shape agree).  Whether the base's bytes agree too is checked when the tensor is first read.
void add_tied_tensors(const ModelFolder& base, Delta& delta);

/// Input and output embeddings that may be taken for tied (config.json says so, dtype and shape agree), ascending;
/// empty without a pair.  A delta in which one of them changes is only unambiguous when it names all of them.
std::vector<size_t> tied_tensors(const ModelFolder& base);

/// Sorts the delta's tensors by base tensor; fails with delta.ambiguous_name when one occurs twice.
Status sort_tensors(const ModelFolder& base, Delta& delta);

}  // namespace weightfs
