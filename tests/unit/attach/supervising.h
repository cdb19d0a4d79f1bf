// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "attach/supervisor_link.h"
#include "unit/support/in_child.h"

namespace weightfs::test {

/// The other end of a link: a supervisor that says what a test wants.
class FakeSupervisor {
 public:
  static constexpr auto kSoon = std::chrono::milliseconds(5000);

  FakeSupervisor() {
    auto pair = Channel::make_pair();
    if (!pair) return;
    link = std::make_unique<SupervisorLink>(std::move(pair->first));
    channel = std::make_unique<Channel>(std::move(pair->second));
    if (auto made = FlightBoard::make()) board = *std::move(made);
  }

  void say(Message::Kind kind, std::string_view key = {}, std::string_view bytes = {}, int file = -1) const {
    Message message;
    message.kind = kind;
    message.key = key;
    message.bytes = bytes;
    EXPECT_TRUE(channel->send(message, file));
  }
  void inherit(std::string_view key, std::string_view bytes, int file = -1) const {
    say(Message::Kind::kInherit, key, bytes, file);
  }
  /// As little as a daemon needs.
  void say_what_is_needed(int device) const {
    inherit(inherited::kDevice, {}, device);
    inherit(inherited::kInitRequest, "INIT");
    inherit(inherited::kBoard, {}, board->memory());
  }
  void answer(uint64_t id, int64_t number, std::string_view bytes = {}) const {
    Message message;
    message.kind = Message::Kind::kAnswer;
    message.id = id;
    message.number = number;
    message.bytes = bytes;
    EXPECT_TRUE(channel->send(message));
  }
  /// The daemon's next message; a kGo, which it never sends, when there is none.
  Message hear() const {
    auto message = channel->receive(kSoon);
    EXPECT_TRUE(message.has_value());
    return message ? *std::move(message) : Message();
  }
  void go() const { say(Message::Kind::kGo); }
  void leave() { channel.reset(); }

  std::unique_ptr<SupervisorLink> link;  // the daemon's
  std::unique_ptr<Channel> channel;
  std::shared_ptr<FlightBoard> board;
};

}  // namespace weightfs::test
