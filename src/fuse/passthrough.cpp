// SPDX-License-Identifier: Apache-2.0
// FUSE passthrough over libfuse 3.14, which does not know it: the reply to INIT is completed on its way out,
// the reply to OPEN is written here.  What must stay true: all opens of a node agree (the kernel fails the
// one that does not), and what we count as open includes all that the kernel has open, so that an id is closed
// only when no file uses it.  The keeper is called with the lock held: what is kept last of a node is what is so.
#include "fuse/passthrough.h"

#include <fmt/format.h>
#include <linux/fuse.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "attach/backing_file.h"
#include "common/log.h"
#include "common/text.h"

namespace weightfs {
namespace {

// From Linux 6.9's <linux/fuse.h>; older ones lack them.
constexpr uint32_t kInitExt = 1u << 30;
constexpr uint32_t kPassthroughFlag2 = 1u << (37 - 32);
constexpr uint32_t kOpenPassthrough = 1u << 7;
/// The backing files may not be stacked themselves: one more level is left for an overlayfs on top of us.
constexpr uint32_t kStackDepth = 1;

// fuse_init_out: major, minor, max_readahead, flags, ..., flags2, max_stack_depth (the first unused word of old).
constexpr size_t kReplyFlags = offsetof(fuse_init_out, flags);
constexpr size_t kReplyFlags2 = offsetof(fuse_init_out, flags2);
constexpr size_t kReplyStackDepth = kReplyFlags2 + sizeof(uint32_t);

static_assert(sizeof(PassthroughReply) == sizeof(fuse_open_out));

uint32_t load(std::span<const std::byte> message, size_t at) {
  uint32_t value = 0;
  std::memcpy(&value, message.data() + at, sizeof value);
  return value;
}

void store(std::span<std::byte> message, size_t at, uint32_t value) {
  std::memcpy(message.data() + at, &value, sizeof value);
}

constexpr std::string_view kPrefix = "open/";
constexpr std::string_view kOnKey = "on";  // beside the nodes: that nodes are kept at all
constexpr uint64_t kOurs = uint64_t{1} << 63;

/// Handles begin with bit 63, which control files' never have, and 31 bits of the time of day.
uint64_t fresh_handle_base() {
  const auto now = std::chrono::system_clock::now().time_since_epoch() / std::chrono::microseconds(1);
  return kOurs | (static_cast<uint64_t>(now) & 0x7FFFFFFFu) << 32;
}

std::string why_refused(int error) {
  switch (error) {
    case EPERM:
      return "it takes CAP_SYS_ADMIN";
    case ELOOP:
      return "the base lies on a file system that is stacked on another (overlayfs, FUSE)";
    case EOPNOTSUPP:
      return "the file system of the base does not support it";
    default:
      return std::strerror(error);
  }
}

}  // namespace

bool ask_for_passthrough(std::span<std::byte> init_reply) {
  if (init_reply.size() < kReplyStackDepth + sizeof(uint32_t)) return false;
  store(init_reply, kReplyFlags, load(init_reply, kReplyFlags) | kInitExt);
  store(init_reply, kReplyFlags2, load(init_reply, kReplyFlags2) | kPassthroughFlag2);
  store(init_reply, kReplyStackDepth, kStackDepth);
  return true;
}

PassthroughReply passthrough_reply(const Passthrough::Opened& opened) {
  return {opened.handle, kOpenPassthrough, opened.backing_id};
}

Passthrough::Kernel Passthrough::kernel_of(int device) {
  return {[device](int file) { return open_backing_file(device, file); },
          [device](int id) { close_backing_file(device, id); }};
}

Passthrough::Passthrough(std::shared_ptr<Keeper> keeper)
    : keeper_(std::move(keeper)), handle_base_(fresh_handle_base()) {}

void Passthrough::set_off(std::string reason) {
  const std::lock_guard lock(mutex_);
  reason_ = std::move(reason);
}

/// Nothing when the record tells of no open node.
std::optional<Passthrough::Node> Passthrough::parse(const Kept& record) {
  const auto values = parse_decimals(record.bytes);
  if (!values || values->size() != 3) return std::nullopt;
  const uint64_t id = (*values)[0];
  Node entry{.id = static_cast<int>(id), .opens = (*values)[1], .handle = (*values)[2], .file = nullptr};
  const bool is_handle = (entry.handle & kOurs) != 0 && static_cast<uint32_t>(entry.handle) == id;
  return id <= INT32_MAX && entry.opens != 0 && is_handle ? std::optional(std::move(entry)) : std::nullopt;
}

void Passthrough::restore(const std::vector<Kept>& records, const Lend& lend) {
  const std::lock_guard lock(mutex_);
  former_ = false;
  for (const Kept& record : records) {
    const auto node = parse_decimal(record.key);
    auto entry = node ? parse(record) : std::nullopt;
    if (!entry && record.key != kOnKey) {
      forget(record.key);
      continue;
    }
    former_ = true;
    if (!entry) continue;
    if (entry->id != 0) {
      if (auto file = lend(*node)) entry->file = *std::move(file);
    }
    nodes_.insert_or_assign(*node, *std::move(entry));
  }
}

void Passthrough::start(Kernel kernel, const LentFile& sample) {
  if (former_ == false) return set_off("it was off before weightfs started anew");
  if (!former_ && sample) {
    const int id = kernel.open_backing(*sample);
    if (id < 0) return set_off(why_refused(-id));
    kernel.close_backing(id);
  }
  kernel_ = std::move(kernel);
  if (keeper_) keeper_->keep(std::string(kPrefix).append(kOnKey), {});
  on_.store(true, std::memory_order_release);
}

std::string Passthrough::state() const {
  if (on()) return "on";
  const std::lock_guard lock(mutex_);
  return reason_;
}

int Passthrough::register_file(NodeId node, const LentFile& file) {
  const int id = kernel_.open_backing(*file);
  if (id > 0) return id;
  if (refused_++ == 0) {  // usually the first of many alike
    log::event(log::Level::kWarn, "passthrough.refused", "inode {}: {}; its reads are answered here", node,
               why_refused(-id));
  }
  return 0;
}

bool Passthrough::is_open(NodeId node) const {
  const std::lock_guard lock(mutex_);
  return nodes_.contains(node);
}

Result<Passthrough::Opened> Passthrough::open(NodeId node, const Result<LentFile>& file) {
  const std::lock_guard lock(mutex_);
  const auto [at, fresh] = nodes_.try_emplace(node);
  Node& entry = at->second;
  if (fresh && file && *file) entry.id = register_file(node, *file);
  if (fresh && entry.id != 0) entry.file = *file;
  if (fresh) entry.handle = handle_base_ | static_cast<uint32_t>(entry.id);
  if (!fresh && !file && entry.id != 0) return file.error();
  ++entry.opens;
  keep(node, entry);
  return Opened{entry.handle, entry.id};
}

/// Needs mutex_.
void Passthrough::keep(NodeId node, const Node& entry) {
  if (!keeper_) return;
  keeper_->keep(fmt::format("{}{}", kPrefix, node), fmt::format("{} {} {}", entry.id, entry.opens, entry.handle));
}

/// Needs mutex_.
void Passthrough::forget(std::string_view key) {
  if (keeper_) keeper_->forget(std::string(kPrefix).append(key));
}

void Passthrough::release(NodeId node, uint64_t handle) {
  LentFile closed;  // its end may be work: after the lock
  const std::lock_guard lock(mutex_);
  const auto at = nodes_.find(node);
  if (at == nodes_.end() || handle != at->second.handle) return;
  if (--at->second.opens != 0) return keep(node, at->second);
  forget(std::to_string(node));  // first: a successor would name an id that is gone
  if (at->second.id != 0) kernel_.close_backing(at->second.id);
  closed = std::move(at->second.file);
  nodes_.erase(at);
}

Passthrough::Counts Passthrough::counts() const {
  const std::lock_guard lock(mutex_);
  Counts counts{0, refused_};
  for (const auto& [node, entry] : nodes_) counts.open_nodes += entry.id != 0 ? 1 : 0;
  return counts;
}

}  // namespace weightfs
