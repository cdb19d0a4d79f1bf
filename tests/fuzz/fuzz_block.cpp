// SPDX-License-Identifier: Apache-2.0
// Any bytes as a parameter record and a coded block.  The input: byte 0 width (two bits), coding (two bits), what the
// parent looks like (three bits); bytes 1 and 2 elements; byte 3 length of the record; record; payload.  Every kernel
// level, in place and apart, must agree with the slow reader of the unit tests about bytes and refusals.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <tuple>

#include "codec/block_codec.h"
#include "unit/codec/block_made.h"
#include "unit/codec/block_reference.h"

namespace {

using weightfs::reference::Octets;

constexpr size_t kHead = 4;
constexpr size_t kMostElements = 1100;

/// The parent of a block, made once.
const Octets& parent_of(unsigned w, size_t elements, unsigned kind) {
  static std::map<std::tuple<unsigned, unsigned>, Octets> made;
  Octets& whole = made[{w, kind}];
  if (whole.empty()) {
    const auto values = static_cast<weightfs::reference::Values>(kind % 5);
    whole = weightfs::reference::make({.w = w, .elements = kMostElements, .values = values, .seed = kind}).parent;
  }
  static Octets part;
  part.assign(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(elements * w));
  return part;
}

weightfs::Bytes bytes_of(const Octets& octets) {
  return {reinterpret_cast<const std::byte*>(octets.data()), octets.size()};
}

void check_level(weightfs::codec::Level level, const weightfs::codec::BlockParams& params, unsigned coding,
                 const Octets& payload, const Octets& parent, const std::optional<Octets>& expected) {
  using namespace weightfs::codec;
  if (kernels_for(level) == nullptr) return;
  for (const bool in_place : {false, true}) {
    Octets out = in_place ? parent : Octets(parent.size());
    const weightfs::MutableBytes target(reinterpret_cast<std::byte*>(out.data()), out.size());
    const auto status = decode_block_at(level, params, static_cast<BlockCoding>(coding), bytes_of(payload),
                                        in_place ? weightfs::Bytes(target) : bytes_of(parent), target);
    if (status.has_value() != expected.has_value() || (expected && out != *expected)) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace weightfs::codec;
  if (size < kHead) return 0;
  const unsigned w = 1u << std::min(data[0] & 3, 2);
  const unsigned coding = data[0] >> 2 & 3;
  const size_t elements = (data[1] | static_cast<size_t>(data[2]) << 8) % (kMostElements + 1);
  const size_t record_size = std::min<size_t>(data[3] % 48, size - kHead);
  const Octets record(data + kHead, data + kHead + record_size);
  const Octets payload(data + kHead + record_size, data + size);
  const Octets& parent = parent_of(w, elements, data[0] >> 4 & 7);
  const auto params = BlockParams::parse(w, bytes_of(record));
  const auto expected = weightfs::reference::decode(w, record, coding, payload, parent, parent.size());
  if (!params) {
    if (expected) std::abort();
    return 0;
  }
  for (const Level level : {Level::kScalar, Level::kAvx2, Level::kAvx512}) {
    check_level(level, *params, coding, payload, parent, expected);
  }
  return 0;
}
