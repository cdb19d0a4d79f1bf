// SPDX-License-Identifier: Apache-2.0
#include "cli/metrics_target.h"

#include <arpa/inet.h>

#include <optional>

#include "common/text.h"

namespace weightfs::cli {
namespace {

constexpr std::string_view kLocal = "127.0.0.1";
constexpr uint64_t kMaxPort = 65535;

bool is_address(int family, const std::string& text) {
  in6_addr room;  // fits both
  return ::inet_pton(family, text.c_str(), &room) == 1;
}

/// Without brackets; nothing when it is none.
std::optional<std::string> address_of(std::string_view text) {
  if (text.empty() || text == "localhost") return std::string(kLocal);
  if (text.front() == '[' && text.back() == ']') {
    const std::string inner(text.substr(1, text.size() - 2));
    return is_address(AF_INET6, inner) ? std::optional(inner) : std::nullopt;
  }
  return is_address(AF_INET, std::string(text)) ? std::optional<std::string>(text) : std::nullopt;
}

}  // namespace

Result<MetricsTarget> parse_metrics_target(std::string_view text) {
  if (text.ends_with('/')) return Error{ErrorCode::kUsage, quote(text) + " is a folder; name a file in it"};
  if (text.find('/') != std::string_view::npos || text.ends_with(".prom")) {
    return MetricsTarget{std::string(text), {}, 0};
  }
  const size_t colon = text.rfind(':');
  const auto port = colon == std::string_view::npos ? std::nullopt : parse_decimal(text.substr(colon + 1));
  const auto address = port ? address_of(text.substr(0, colon)) : std::nullopt;
  if (!address || *port == 0 || *port > kMaxPort) {
    return Error{ErrorCode::kUsage, quote(text) +
                                        " is neither ADDRESS:PORT, such as 127.0.0.1:9567, [::1]:9567 or :9567, nor a "
                                        "file (with a '/' in it, or ending in .prom)"};
  }
  return MetricsTarget{{}, *address, static_cast<uint16_t>(*port)};
}

}  // namespace weightfs::cli
