// SPDX-License-Identifier: Apache-2.0
#include "cli/serving.h"

namespace weightfs::cli {

std::optional<size_t> Serving::find(std::string_view name) const {
  const Catalog::Shown* const found = catalog.find(name);
  if (found == nullptr) return std::nullopt;
  return static_cast<size_t>(found - catalog.shown().data());
}

std::shared_ptr<const Serving> serve_all(Catalog catalog, const std::shared_ptr<Engine>& engine) {
  Serving serving{std::move(catalog), {}, {}};
  for (const Catalog::Shown& shown : serving.catalog.shown()) serving.versions.push_back({engine, shown.ordinal});
  serving.verified.assign(serving.versions.size(), false);
  return std::make_shared<const Serving>(std::move(serving));
}

}  // namespace weightfs::cli
