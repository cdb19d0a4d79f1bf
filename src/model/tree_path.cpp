// SPDX-License-Identifier: Apache-2.0
#include "model/tree_path.h"

#include <algorithm>

#include "common/text.h"

namespace weightfs {
namespace {

constexpr size_t kMaxComponentBytes = 255;

bool is_component(std::string_view name) {
  return !name.empty() && name.size() <= kMaxComponentBytes && name != "." && name != "..";
}

}  // namespace

bool is_tree_path(std::string_view path) {
  if (path.size() > kMaxPathBytes || path.find('\0') != std::string_view::npos || !is_utf8(path)) return false;
  size_t components = 0;
  for (size_t begin = 0; begin <= path.size(); ++components) {
    const size_t end = std::min(path.find('/', begin), path.size());
    if (!is_component(path.substr(begin, end - begin))) return false;
    begin = end + 1;
  }
  return components <= kMaxPathComponents;
}

}  // namespace weightfs
