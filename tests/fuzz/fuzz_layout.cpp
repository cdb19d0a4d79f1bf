// SPDX-License-Identifier: Apache-2.0
// Any bytes as a stored layout: as the frame, and as the content of a good frame.  What is accepted comes
// back equal from its own stored form.
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "codec/zstd_frame.h"
#include "delta/native_layout.h"

namespace {

using namespace weightfs;

/// A tree with objects of a few shapes, for others to build on.
const TreeLayout& parent() {
  static const TreeLayout tree = [] {
    std::vector<TreeFile> files;
    for (uint64_t i = 0; i < 8; ++i) {
      TreeFile file;
      file.path = "p" + std::to_string(i);
      file.size = i % 4;
      files.push_back(file);
    }
    return TreeLayout::make(std::move(files), ErrorCode::kInternal).value();
  }();
  return tree;
}

void check(const NativeLayout& layout) {
  const auto& objects = layout.tree->objects();
  if (layout.parents.size() != objects.size()) std::abort();
  for (size_t i = 0; i < objects.size(); ++i) {
    if (layout.parents[i] == NativeLayout::kNoParent) continue;
    const TreeObject& from = parent().objects().at(layout.parents[i]);
    if (from.bytes != objects[i].bytes || from.element_bytes != objects[i].element_bytes) std::abort();
  }
  for (const TreeFile& file : layout.tree->files()) {
    uint64_t end = file.header.size();
    for (size_t i = file.first_object; i < file.first_object + file.object_count; ++i) {
      if (objects.at(i).offset != end) std::abort();
      end += objects[i].bytes;
    }
    if (end != file.size) std::abort();
  }
  const auto frame = serialise_layout(layout);
  if (!frame) std::abort();
  const auto again = parse_layout(*frame, "again", &parent());
  if (!again || !(*again->tree == *layout.tree) || again->parents != layout.parents) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto* const bytes = reinterpret_cast<const std::byte*>(data);
  if (const auto layout = parse_layout({bytes, bytes + size}, "input", &parent())) check(*layout);
  const auto frame = codec::compress_frame({bytes, size}, 1);
  if (!frame) std::abort();
  if (const auto layout = parse_layout(*frame, "content", &parent())) check(*layout);
  return 0;
}
