// SPDX-License-Identifier: Apache-2.0
#include "kept_records.h"

#include "common/keeper.h"

namespace weightfs::helper {

void KeptRecords::erase(const std::string& key) {
  const auto record = records_.find(key);
  if (record == records_.end()) return;
  if (record->second.file) --files_;
  records_.erase(record);
}

void KeptRecords::take(Message message) {
  erase(message.key);
  if (message.kind != Message::Kind::kKeep) return;
  const bool fits = message.key.size() <= Keeper::kMaxKey && message.bytes.size() <= Keeper::kMaxBytes;
  if (!fits || records_.size() >= kMostRecords || (message.file && files_ >= kMostFiles)) return;
  if (message.file) ++files_;
  records_[std::move(message.key)] = {std::move(message.bytes), std::move(message.file)};
}

void KeptRecords::forget_all(std::string_view prefix) {
  for (auto record = records_.lower_bound(std::string(prefix)); record != records_.end();) {
    if (!record->first.starts_with(prefix)) return;
    if (record->second.file) --files_;
    record = records_.erase(record);
  }
}

bool KeptRecords::hand_over(const Channel& channel) const {
  for (const auto& [key, record] : records_) {
    if (!channel.send(Message::of(Message::Kind::kInherit, key, record.bytes), record.file.get())) return false;
  }
  return true;
}

}  // namespace weightfs::helper
