// SPDX-License-Identifier: Apache-2.0
// The only file that knows libmicrohttpd.  The socket is ours, so that we say why a port cannot be had, and before the
// mount appears.
#include "cli/metrics_http.h"

#include <fmt/format.h>
#include <microhttpd.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "common/log.h"

namespace weightfs::cli {
namespace {

constexpr unsigned kMaxConnections = 16;
constexpr unsigned kIdleSeconds = 5;
constexpr size_t kConnectionBytes = 16u << 10;  // request line and headers included
constexpr int kBacklog = 16;

Error cannot(const std::string& address, uint16_t port, const char* why) {
  const char* const form = address.find(':') == std::string::npos ? "{}:{}" : "[{}]:{}";
  return {ErrorCode::kMountFailed,
          fmt::format("metrics cannot be served at {}: {}; choose another --metrics ADDRESS:PORT",
                      fmt::format(fmt::runtime(form), address, port), why)};
}

void log_from_library(void*, const char* format, va_list arguments) {
  char line[256];
  std::vsnprintf(line, sizeof line, format, arguments);
  log::write(log::Level::kDebug, "metrics.library", {line, std::strcspn(line, "\n")});
}

MHD_Result reply(MHD_Connection* connection, unsigned status, std::string_view body, const char* type) {
  // The library copies the body, and only reads what it gets as void*.
  MHD_Response* const response =
      MHD_create_response_from_buffer(body.size(), const_cast<char*>(body.data()),
                                      MHD_RESPMEM_MUST_COPY);  // NOLINT(cppcoreguidelines-pro-type-const-cast)
  if (response == nullptr) return MHD_NO;
  MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
  const MHD_Result queued = MHD_queue_response(connection, status, response);
  MHD_destroy_response(response);
  return queued;
}

/// A body that comes with a request is never read: the answer is there before it, and ends the connection.
MHD_Result answer(void* server, MHD_Connection* connection, const char* path, const char* method, const char*,
                  const char*, size_t*, void**) {
  const std::string_view verb = method;
  const bool known = std::string_view(path) == "/metrics" && (verb == "GET" || verb == "HEAD");
  if (!known) return reply(connection, MHD_HTTP_NOT_FOUND, "only GET /metrics is here\n", "text/plain");
  try {
    return reply(connection, MHD_HTTP_OK, static_cast<const MetricsServer*>(server)->text(),
                 "text/plain; version=0.0.4; charset=utf-8");
  } catch (const std::exception& exception) {  // must not get into the library, which is C
    log::event(log::Level::kError, "metrics.internal_error", "{}", exception.what());
    return MHD_NO;
  }
}

}  // namespace

Result<std::unique_ptr<MetricsServer>> MetricsServer::bind(const std::string& address, uint16_t port) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = ::getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, &found); error != 0) {
    return cannot(address, port, ::gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> place(found, &::freeaddrinfo);
  const int socket = ::socket(place->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (socket < 0) return cannot(address, port, std::strerror(errno));
  std::unique_ptr<MetricsServer> server(new MetricsServer(socket));
  const int on = 1;
  ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);  // of connections that are over, not of who listens
  if (place->ai_family == AF_INET6) ::setsockopt(socket, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
  if (::bind(socket, place->ai_addr, place->ai_addrlen) != 0 || ::listen(socket, kBacklog) != 0) {
    return cannot(address, port, std::strerror(errno));
  }
  return server;
}

Status MetricsServer::start(std::function<std::string()> text) {
  text_ = std::move(text);
  const int socket = std::exchange(socket_, -1);  // the library closes it, also when it cannot start
  daemon_ = MHD_start_daemon(MHD_USE_AUTO_INTERNAL_THREAD | MHD_USE_ERROR_LOG, 0, nullptr, nullptr, &answer, this,
                             MHD_OPTION_EXTERNAL_LOGGER, &log_from_library, nullptr,  // first, or it hears not all
                             MHD_OPTION_LISTEN_SOCKET, socket, MHD_OPTION_CONNECTION_LIMIT, kMaxConnections,
                             MHD_OPTION_CONNECTION_TIMEOUT, kIdleSeconds, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                             kConnectionBytes, MHD_OPTION_END);
  if (daemon_ != nullptr) return {};
  return Error{ErrorCode::kMountFailed, "metrics are not served: libmicrohttpd cannot start a thread"};
}

void MetricsServer::stop() {
  if (daemon_ != nullptr) MHD_stop_daemon(std::exchange(daemon_, nullptr));
  if (socket_ >= 0) ::close(std::exchange(socket_, -1));
}

}  // namespace weightfs::cli
