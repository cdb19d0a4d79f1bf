// SPDX-License-Identifier: Apache-2.0
#include "common/crash_stack.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstddef>

namespace weightfs {
namespace {

constexpr size_t kLeast = size_t{32} << 10;

/// What the kernel stores of the processor's registers alone may be 11 KiB (AVX-512, AMX), so it is asked.
size_t size_wanted() {
  const long demanded = ::sysconf(_SC_SIGSTKSZ);
  return demanded > 0 ? std::max(kLeast, static_cast<size_t>(demanded)) : kLeast;
}

class CrashStack {
 public:
  CrashStack() {
    stack_t there{};
    if (::sigaltstack(nullptr, &there) != 0 || (there.ss_flags & SS_DISABLE) == 0) return;
    const size_t size = size_wanted();
    void* const memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return;
    stack_.ss_sp = memory;
    stack_.ss_size = size;
    if (::sigaltstack(&stack_, nullptr) != 0) give_back();
  }
  ~CrashStack() {
    if (stack_.ss_sp == nullptr) return;
    stack_t none{};
    none.ss_flags = SS_DISABLE;
    if (::sigaltstack(&none, nullptr) == 0) give_back();
  }
  CrashStack(const CrashStack&) = delete;
  CrashStack& operator=(const CrashStack&) = delete;

 private:
  void give_back() {
    ::munmap(stack_.ss_sp, stack_.ss_size);
    stack_.ss_sp = nullptr;
  }

  stack_t stack_{};  // ss_sp: ours, or null
};

}  // namespace

void have_crash_stack() { [[maybe_unused]] static thread_local const CrashStack stack; }

}  // namespace weightfs
