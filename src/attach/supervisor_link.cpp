// SPDX-License-Identifier: Apache-2.0
// The daemon's side.  What must stay true: nothing here waits for a supervisor that does not answer, because readers
// wait for us; and records leave in the order in which they were said.
#include "attach/supervisor_link.h"

#include <cerrno>

#include "common/log.h"
#include "common/text.h"

namespace weightfs {
namespace {

constexpr auto kForever = std::chrono::milliseconds(-1);
constexpr auto kAnswerLimit = std::chrono::seconds(5);

Error unwanted() { return {ErrorCode::kMountFailed, "the supervisor has ended; nothing is served"}; }

}  // namespace

SupervisorLink::~SupervisorLink() {
  channel_.shut_down();
  if (listener_.joinable()) listener_.join();
}

Result<Orders> SupervisorLink::take_orders(std::function<void()> stop) {
  channel_.send(Message::of(Message::Kind::kLoaded, {}, WEIGHTFS_VERSION));
  Orders orders = TRY(collect());
  if (!orders.device || orders.init_request.empty() || !orders.board) {
    return Error{ErrorCode::kMountFailed, "the supervisor did not say what to serve; are both of one version?"};
  }
  listener_ = std::thread([this, stop = std::move(stop)] { listen(stop); });
  return orders;
}

Result<Orders> SupervisorLink::collect() const {
  Orders orders;
  for (;;) {
    auto next = channel_.receive(kForever);
    if (!next && channel_.is_closed()) return unwanted();
    if (!next) continue;
    if (next->kind == Message::Kind::kStop) return unwanted();
    if (next->kind == Message::Kind::kGo) return orders;
    if (next->kind == Message::Kind::kInherit) TRY(put(orders, *std::move(next)));
  }
}

Status SupervisorLink::put(Orders& orders, Message message) {
  const std::string& key = message.key;
  if (key == inherited::kDevice) {
    orders.device = std::move(message.file);
  } else if (key == inherited::kTmpfs) {
    orders.tmpfs = std::move(message.file);
  } else if (key == inherited::kMountId) {
    orders.mount_id = message.bytes;
  } else if (key == inherited::kMountedBy) {
    orders.mounted_by = message.bytes;
  } else if (key == inherited::kInitRequest) {
    orders.init_request = message.bytes;
  } else if (key == inherited::kInitReply) {
    orders.init_reply = message.bytes;
  } else if (key == inherited::kBoard) {
    orders.board = TRY(FlightBoard::open(std::move(message.file)));
  } else if (key == inherited::kRestarts) {
    orders.restarts = parse_decimal(message.bytes).value_or(0);
  } else if (key == inherited::kLastEnd) {
    orders.last_end = message.bytes;
  } else if (key.starts_with(inherited::kSuspectPrefix)) {
    const auto unique = parse_decimal(key.substr(inherited::kSuspectPrefix.size()));
    if (unique) orders.suspects[*unique] = message.bytes == inherited::kRefuse;
  } else {
    orders.kept.push_back({key, message.bytes, std::move(message.file)});
  }
  return {};
}

void SupervisorLink::listen(const std::function<void()>& stop) {
  bool stopped = false;
  for (;;) {
    auto next = channel_.receive(kForever);
    if (!next && channel_.is_closed()) break;
    if (!next) continue;
    if (next->kind == Message::Kind::kStop && !std::exchange(stopped, true)) stop();
    if (next->kind != Message::Kind::kAnswer) continue;
    const std::lock_guard lock(mutex_);
    const auto question = answers_.find(next->id);
    if (question != answers_.end()) question->second = std::move(next);
    changed_.notify_all();
  }
  const std::lock_guard lock(mutex_);
  lost_ = true;
  changed_.notify_all();
}

std::optional<Message> SupervisorLink::ask(Message question, int file) {
  std::unique_lock lock(mutex_);
  question.id = next_id_++;
  const auto place = answers_.emplace(question.id, std::nullopt).first;
  lock.unlock();
  const bool sent = channel_.send(question, file);
  lock.lock();
  if (sent) changed_.wait_for(lock, kAnswerLimit, [&] { return place->second || lost_; });
  auto answer = std::move(place->second);
  answers_.erase(place);
  return answer;
}

void SupervisorLink::attached(std::string_view init_reply) {
  channel_.send(Message::of(Message::Kind::kAttached, {}, init_reply));
}

void SupervisorLink::ready(std::string_view line) { channel_.send(Message::of(Message::Kind::kReady, {}, line)); }

void SupervisorLink::failed(std::string_view why) {
  channel_.send(Message::of(Message::Kind::kFailed, {}, why.substr(0, kMaxBytes)));
}

bool SupervisorLink::unmount() { return channel_.send(Message::of(Message::Kind::kUnmount)); }

void SupervisorLink::keep(std::string_view key, std::string_view bytes, int file) {
  if (key.size() > kMaxKey || bytes.size() > kMaxBytes) return forget(key);  // what was there is not true any more
  channel_.send(Message::of(Message::Kind::kKeep, key, bytes), file);
}

void SupervisorLink::forget(std::string_view key) { channel_.send(Message::of(Message::Kind::kForget, key, {})); }

int SupervisorLink::open_backing(int file) {
  const auto answer = ask(Message::of(Message::Kind::kOpenBacking), file);
  return answer ? static_cast<int>(answer->number) : -ECONNRESET;
}

void SupervisorLink::close_backing(int id) {
  Message wish = Message::of(Message::Kind::kCloseBacking);
  wish.number = id;
  channel_.send(wish);
}

ReadAhead SupervisorLink::set_read_ahead(uint64_t bytes) {
  Message wish = Message::of(Message::Kind::kReadAhead);
  wish.number = static_cast<int64_t>(bytes);
  const auto answer = ask(std::move(wish));
  if (!answer) return {0, "the supervisor does not answer"};
  return {static_cast<uint64_t>(answer->number), answer->bytes};
}

bool SupervisorLink::is_alive() const {
  const std::lock_guard lock(mutex_);
  return !lost_;
}

}  // namespace weightfs
