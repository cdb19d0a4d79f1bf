// SPDX-License-Identifier: Apache-2.0
#include "order_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>

#include "attach/control_socket.h"

namespace weightfs::helper {
namespace {

constexpr int kOrderPatience = 100;  // milliseconds: an order is sent as soon as it is connected
constexpr size_t kMaxOrder = 64;

}  // namespace

Result<OrderSocket> OrderSocket::open(const std::string& path) { return OrderSocket(TRY(listen_at(path)), path); }

OrderSocket::~OrderSocket() {
  if (listener_) ::unlink(path_.c_str());
}

std::optional<std::string> OrderSocket::next() {
  Descriptor connection(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!connection || !may_command(connection.get())) return std::nullopt;
  pollfd ready{connection.get(), POLLIN, 0};
  std::array<char, kMaxOrder> order{};
  const ssize_t got =
      ::poll(&ready, 1, kOrderPatience) > 0 ? ::recv(connection.get(), order.data(), order.size(), MSG_DONTWAIT) : -1;
  if (got <= 0) return std::nullopt;
  std::string text(order.data(), static_cast<size_t>(got));
  if (asker_) {  // one that takes its time is being carried out
    constexpr std::string_view kBusy = "failed: another order is being carried out";
    ::send(connection.get(), kBusy.data(), kBusy.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    return std::nullopt;
  }
  asker_ = std::move(connection);
  return text;
}

void OrderSocket::answer(std::string_view text) {
  if (!asker_) return;
  ::send(asker_.get(), text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  asker_.reset();
}

}  // namespace weightfs::helper
