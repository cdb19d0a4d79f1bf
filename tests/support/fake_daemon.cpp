// SPDX-License-Identifier: Apache-2.0
// Stands in for weightfs beside the test of mount.weightfs that starts daemons: says through its channel what it finds,
// then does what its arguments want.
#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "attach/channel.h"

extern char** environ;

namespace weightfs {
namespace {

void say(const Channel& channel, std::string_view key, std::string_view bytes) {
  Message message;
  message.kind = Message::Kind::kKeep;
  message.key = key;
  message.bytes = bytes;
  channel.send(message);
}

void say_descriptors(const Channel& channel) {
  std::string numbers;
  for (int number = 0; number < 1024; ++number) {
    if (::fcntl(number, F_GETFD) >= 0) numbers += std::to_string(number) + " ";
  }
  say(channel, "descriptors", numbers);
}

void say_status(const Channel& channel) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(":\t");
    if (colon != std::string::npos) say(channel, "status/" + line.substr(0, colon), line.substr(colon + 2));
  }
}

int run(const std::vector<std::string_view>& arguments) {
  const Channel channel(Descriptor(3));
  say_descriptors(channel);
  for (const std::string_view argument : arguments) say(channel, "argument", argument);
  for (char** entry = environ; *entry != nullptr; ++entry) say(channel, "environment", *entry);
  say(channel, "session", std::to_string(::getsid(0)));
  say_status(channel);
  Message message;
  message.kind = Message::Kind::kReady;
  channel.send(message);
  const std::string_view wish = arguments.size() > 1 ? arguments[1] : "";
  if (wish == "abort") std::abort();
  if (wish == "write") static_cast<void>(::write(STDOUT_FILENO, "out", 3) + ::write(STDERR_FILENO, "err", 3));
  if (wish == "wait") {
    while (!channel.is_closed()) channel.receive(std::chrono::milliseconds(-1));
  }
  return wish == "fail" ? 3 : 0;
}

}  // namespace
}  // namespace weightfs

int main(int argc, char** argv) { return weightfs::run({argv, argv + argc}); }
