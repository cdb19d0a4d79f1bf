// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <iterator>
#include <string>
#include <string_view>

#include "common/descriptor.h"

namespace weightfs::test {

/// A process of its own, which does `body` and ends with what that returns.  Checks of gtest are not heard in it.
inline pid_t start_child(const std::function<int()>& body) {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  return child;
}

/// Its wait status.
inline int wait_for(pid_t child) {
  int status = 0;
  return ::waitpid(child, &status, 0) == child ? status : -1;
}

/// Runs `body` in a process of its own; its exit status, or minus the signal that ended it.
inline int in_child(const std::function<int()>& body) {
  const int status = wait_for(start_child(body));
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/// How many descriptors this process has open.
inline size_t open_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

/// A file without a name that holds `text`.
inline Descriptor file_with(std::string_view text) {
  std::FILE* const file = std::tmpfile();
  if (file == nullptr) return {};
  std::fwrite(text.data(), 1, text.size(), file);
  std::fflush(file);
  Descriptor copy(::dup(::fileno(file)));
  std::fclose(file);
  return copy;
}

/// What a file holds, from its start.
inline std::string text_of(int file) {
  std::string text(4096, '\0');
  const ssize_t got = ::pread(file, text.data(), text.size(), 0);
  text.resize(got > 0 ? static_cast<size_t>(got) : 0);
  return text;
}

}  // namespace weightfs::test
