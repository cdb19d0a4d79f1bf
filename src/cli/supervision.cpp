// SPDX-License-Identifier: Apache-2.0
#include "cli/supervision.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"
#include "common/text.h"
#include "io/files.h"

namespace weightfs::cli {
namespace {

constexpr std::string_view kShownKey = "shown";
constexpr std::string_view kAdvanceKey = "advanced";
constexpr std::string_view kHookKey = "hook";
constexpr auto kBeat = std::chrono::milliseconds(200);
constexpr size_t kMaxState = 64u << 20;

std::string contents_of(const Descriptor& file) {
  struct stat status {};
  if (::fstat(file.get(), &status) != 0 || static_cast<size_t>(status.st_size) > kMaxState) return {};
  std::string text(static_cast<size_t>(status.st_size), '\0');
  const ssize_t got = ::pread(file.get(), text.data(), text.size(), 0);
  text.resize(got > 0 ? static_cast<size_t>(got) : 0);
  return text;
}

}  // namespace

Supervision::Supervision(int channel) : link_(std::make_shared<SupervisorLink>(Channel(Descriptor(channel)))) {
  ::fcntl(channel, F_SETFD, FD_CLOEXEC);  // hooks have no business with it
  ::prctl(PR_SET_NAME, "weightfs");       // executed by descriptor, we would be called by its number
}

Supervision::~Supervision() { end_beat(); }

void Supervision::end_beat() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  if (heart_.joinable()) heart_.join();
}

Status Supervision::take_orders(std::function<void()> stop) {
  orders_ = TRY(link_->take_orders(std::move(stop)));
  return {};
}

std::optional<ShownState> Supervision::former_state() {
  for (const Kept& kept : take_kept(orders_.kept, kShownKey)) {
    auto state = ShownState::parse(contents_of(kept.file));
    if (state) return *std::move(state);
    log::write(log::Level::kError, "restart.state_unreadable", state.error().text());
  }
  return std::nullopt;
}

std::optional<uint64_t> Supervision::former_advance() {
  for (const Kept& kept : take_kept(orders_.kept, kAdvanceKey)) return parse_decimal(kept.bytes);
  return std::nullopt;
}

std::shared_ptr<const LeftHook> Supervision::left_hook() {
  for (Kept& kept : take_kept(orders_.kept, kHookKey)) {
    const auto process = parse_decimal(kept.bytes);
    if (!process || *process < 2 || *process > INT32_MAX || !kept.file) continue;
    return std::make_shared<const LeftHook>(LeftHook{static_cast<pid_t>(*process), std::move(kept.file)});
  }
  return nullptr;
}

void Supervision::beat(std::function<void()> first, std::function<uint64_t()> work) {
  heart_ = std::thread([this, first = std::move(first), work = std::move(work)] {
    first();
    beat_until_the_end(work);
  });
}

void Supervision::beat_until_the_end(const std::function<uint64_t()>& work) {
  uint64_t before = 0;
  orders_.board->note_beat();
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, kBeat, [&] { return ending_; })) {
    orders_.board->note_beat();
    const uint64_t now = work();
    if (now != before || waits_for_files()) orders_.board->note_progress();
    before = now;
  }
}

/// A file, because a long run has more versions than a message has room.
void keep_state(Keeper& keeper, const ShownState& state) {
  const std::string text = state.to_text();
  const Descriptor file(::memfd_create("weightfs-shown", MFD_CLOEXEC));
  if (!file || ::pwrite(file.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
    log::event(log::Level::kError, "restart.state_not_kept", "no memory for {} bytes", text.size());
    return keeper.forget(kShownKey);
  }
  keeper.keep(kShownKey, {}, file.get());
}

/// In this order: one that ends in between leaves a command that has ended, and no version that is told of twice.
void keep_advance(Keeper& keeper, uint64_t identity) {
  keeper.keep(kAdvanceKey, std::to_string(identity));
  keeper.forget(kHookKey);
}

void keep_hook(Keeper& keeper, pid_t process, int handle) {
  if (handle >= 0) keeper.keep(kHookKey, std::to_string(process), handle);
}

}  // namespace weightfs::cli
