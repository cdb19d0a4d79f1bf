// SPDX-License-Identifier: Apache-2.0
#include "common/keeper.h"

#include <algorithm>
#include <iterator>

namespace weightfs {

std::vector<Kept> take_kept(std::vector<Kept>& all, std::string_view prefix) {
  const auto found =
      std::stable_partition(all.begin(), all.end(), [&](const Kept& kept) { return !kept.key.starts_with(prefix); });
  std::vector<Kept> taken(std::make_move_iterator(found), std::make_move_iterator(all.end()));
  all.erase(found, all.end());
  for (Kept& kept : taken) kept.key.erase(0, prefix.size());
  return taken;
}

}  // namespace weightfs
