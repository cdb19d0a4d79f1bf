// SPDX-License-Identifier: Apache-2.0
// Facts from /proc.  What must stay true: a process chooses its own name, and may vanish between any two system calls;
// neither may lead to a wrong fact.
#include "io/processes.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <vector>

#include "common/descriptor.h"

namespace weightfs {
namespace {

constexpr size_t kEnough = 4096;  // bytes; all that is looked for stands far in front of it
constexpr size_t kMaxSteps = 1024;

std::optional<std::string> front_of(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!file) return std::nullopt;
  std::string text(kEnough, '\0');
  size_t size = 0;
  while (size < text.size()) {
    const ssize_t got = ::read(file.get(), text.data() + size, text.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return std::nullopt;  // ESRCH: it ended after we opened the file
    if (got == 0) break;
    size += static_cast<size_t>(got);
  }
  text.resize(size);
  return text;
}

/// Takes the next word, between blanks, off the front of a text.
std::string_view next_word(std::string_view& text) {
  text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
  const std::string_view word = text.substr(0, text.find_first_of(" \t\n"));
  text.remove_prefix(word.size());
  return word;
}

std::optional<int32_t> next_number(std::string_view& text) {
  const std::string_view word = next_word(text);
  int32_t number = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
  if (error != std::errc() || end != word.data() + word.size()) return std::nullopt;
  return number;
}

/// The line is never the first one, which is the name; the kernel escapes line ends in that.
std::optional<int32_t> process_in_status(std::string_view status) {
  constexpr std::string_view kLine = "\nTgid:";
  const size_t at = status.find(kLine);
  if (at == std::string_view::npos) return std::nullopt;
  status.remove_prefix(at + kLine.size());
  return next_number(status);
}

/// The front of a stat file.
struct Stat {
  char state = 0;
  int32_t parent = 0;
  int32_t group = 0;
  int32_t session = 0;
  int32_t terminal = 0;
};

/// "id (name) state parent group session terminal ...": the name may hold anything, what follows it no parenthesis.
std::optional<Stat> parse_stat(std::string_view text) {
  const size_t end_of_name = text.rfind(')');
  if (end_of_name == std::string_view::npos) return std::nullopt;
  text.remove_prefix(end_of_name + 1);
  const std::string_view state = next_word(text);
  const auto parent = next_number(text);
  const auto group = next_number(text);
  const auto session = next_number(text);
  const auto terminal = next_number(text);
  if (state.size() != 1 || !parent || !group || !session || !terminal) return std::nullopt;
  return Stat{state[0], *parent, *group, *session, *terminal};
}

std::optional<Stat> stat_of(std::string_view process, const std::string& proc) {
  const auto text = front_of(fmt::format("{}/{}/stat", proc, process));
  return text ? parse_stat(*text) : std::nullopt;
}

bool leads_terminal(const ProcessFacts& facts) { return facts.has_terminal && facts.session == facts.process; }

}  // namespace

std::optional<ProcessFacts> facts_of(int32_t thread_or_process, const std::string& proc) {
  if (thread_or_process <= 0) return std::nullopt;
  const std::string id = std::to_string(thread_or_process);
  const auto stat = stat_of(id, proc);
  const auto status = stat ? front_of(fmt::format("{}/{}/status", proc, id)) : std::nullopt;
  const auto process = status ? process_in_status(*status) : std::nullopt;
  if (!process) return std::nullopt;
  return ProcessFacts{*process, stat->parent, stat->group, stat->session, stat->terminal != 0};
}

int32_t tree_root(int32_t process, const std::string& proc) {
  auto facts = facts_of(process, proc);
  if (!facts) return process;
  if (leads_terminal(*facts)) return facts->process;
  std::vector<int32_t> seen = {facts->process};
  while (seen.size() <= kMaxSteps && facts->parent > 1) {
    const auto parent = facts_of(facts->parent, proc);
    if (!parent) break;
    // A shell gives every job a group of its own; what leads a terminal without doing so is a program that was started
    // there itself, as by `docker run -it`.
    if (leads_terminal(*parent) && facts->group != parent->group) break;
    if (std::find(seen.begin(), seen.end(), parent->process) != seen.end()) break;
    seen.push_back(parent->process);
    facts = parent;
  }
  return facts->process;
}

bool has_living_member(int32_t group, const std::string& proc) {
  std::error_code error;
  std::filesystem::directory_iterator entry(proc, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const auto stat = stat_of(name, proc);
    if (stat && stat->group == group && stat->state != 'Z' && stat->state != 'X') return true;
  }
  return static_cast<bool>(error);
}

}  // namespace weightfs
