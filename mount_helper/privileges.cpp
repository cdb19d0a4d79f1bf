// SPDX-License-Identifier: Apache-2.0
// Giving up privileges.  What must stay true: a step that fails ends the start, because a daemon that decodes files of
// strangers with more privileges than intended is worse than none.
#include "privileges.h"

#include <fmt/format.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <initializer_list>

#include "common/text.h"

namespace weightfs::helper {
namespace {

/// Backing files and unmounting; signals to daemons of other users; starting them; marker and socket.
constexpr std::initializer_list<unsigned> kNeeded = {CAP_SYS_ADMIN,   CAP_KILL,         CAP_SETUID, CAP_SETGID,
                                                     CAP_SETPCAP,     CAP_DAC_OVERRIDE, CAP_CHOWN,  CAP_DAC_READ_SEARCH,
                                                     CAP_SYS_RESOURCE};

constexpr uint64_t bit(unsigned capability) { return uint64_t{1} << capability; }

uint64_t set_of(std::initializer_list<unsigned> capabilities) {
  uint64_t set = 0;
  for (const unsigned capability : capabilities) set |= bit(capability);
  return set;
}

Error failed(const char* what) {
  return {ErrorCode::kMountFailed, fmt::format("cannot give up privileges: {}: {}", what, std::strerror(errno))};
}

/// No program that is executed later can get any other.
Status bound_to(uint64_t wanted) {
  for (unsigned capability = 0;; ++capability) {
    const int there = ::prctl(PR_CAPBSET_READ, capability, 0, 0, 0);
    if (there < 0) return {};  // the last one that this kernel knows is behind us
    const bool keep = capability < 64 && (wanted & bit(capability)) != 0;
    if (there == 1 && !keep && ::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0) return failed("the bounding set");
  }
}

Status hold_only(uint64_t wanted) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> data{};
  if (::syscall(SYS_capget, &header, data.data()) != 0) return failed("capget");
  for (size_t word = 0; word < data.size(); ++word) {
    const auto mask = static_cast<uint32_t>(wanted >> (32 * word));
    data[word].permitted &= mask;
    data[word].effective = data[word].permitted;
    data[word].inheritable = 0;
  }
  if (::syscall(SYS_capset, &header, data.data()) != 0) return failed("capset");
  return {};
}

}  // namespace

Result<RunAs> find_user(const std::string& text) {
  const size_t colon = text.find(':');
  const std::string user = text.substr(0, colon);
  const auto no_such = [](const char* what, const std::string& name) {
    return Error{ErrorCode::kUsage, fmt::format("setuid={}: there is no such {}", quote(name), what)};
  };
  const auto number = parse_decimal(user);
  const passwd* const entry = number ? ::getpwuid(static_cast<uid_t>(*number)) : ::getpwnam(user.c_str());
  if (entry == nullptr && !number) return no_such("user", user);
  RunAs run_as;
  run_as.user = entry != nullptr ? entry->pw_uid : static_cast<uid_t>(*number);
  run_as.group = entry != nullptr ? entry->pw_gid : static_cast<gid_t>(*number);
  if (entry != nullptr) run_as.name = entry->pw_name;
  if (colon == std::string::npos) return run_as;
  const std::string group = text.substr(colon + 1);
  const auto group_number = parse_decimal(group);
  const struct group* const found = group_number ? nullptr : ::getgrnam(group.c_str());
  if (found == nullptr && !group_number) return no_such("group", group);
  run_as.group = found != nullptr ? found->gr_gid : static_cast<gid_t>(*group_number);
  return run_as;
}

Status keep_only_needed() {
  if (::geteuid() != 0) return {};
  TRY(bound_to(set_of(kNeeded)));
  return hold_only(set_of(kNeeded));
}

Status become_daemon_user(const std::optional<RunAs>& run_as) {
  if (::geteuid() == 0) {
    const bool stays_root = !run_as || run_as->user == 0;
    const uint64_t kept = stays_root ? bit(CAP_DAC_READ_SEARCH) : 0;
    TRY(bound_to(kept));
    if (run_as) {
      const int groups =
          run_as->name.empty() ? ::setgroups(0, nullptr) : ::initgroups(run_as->name.c_str(), run_as->group);
      if (groups != 0 || ::setgid(run_as->group) != 0 || ::setuid(run_as->user) != 0) return failed("setuid");
    }
    TRY(hold_only(kept));
  }
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return failed("no_new_privs");
  return {};
}

}  // namespace weightfs::helper
