// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "common/digest.h"
#include "delta/native_writer.h"
#include "model/tree_layout.h"
#include "support/formats.h"

namespace weightfs::test {

inline std::vector<std::byte> to_bytes(std::string_view text) {
  const Bytes bytes = as_bytes(text);
  return {bytes.begin(), bytes.end()};
}

/// The tree of files in memory: path -> content.  *.safetensors files must be good ones.
inline std::shared_ptr<const TreeLayout> tree_of(const std::map<std::string, std::string>& content) {
  std::vector<TreeFile> files;
  for (const auto& [path, bytes] : content) {
    TreeFile file;
    file.path = path;
    file.size = bytes.size();
    if (path.ends_with(".safetensors")) {
      file.kind = TreeFile::Kind::kSafetensors;
      uint64_t length = 0;
      for (size_t i = 8; i-- > 0;) length = length << 8 | static_cast<unsigned char>(bytes[i]);
      file.header = to_bytes(std::string_view(bytes).substr(0, 8 + length));
    }
    files.push_back(std::move(file));
  }
  auto tree = TreeLayout::make(std::move(files), ErrorCode::kInternal);
  if (!tree) throw std::runtime_error(tree.error().text());
  return std::make_shared<const TreeLayout>(std::move(*tree));
}

/// A manifest whose texts are in order; the writer fills in the rest.
inline NativeManifest draft_manifest(NativeManifest::Kind kind, const std::map<std::string, std::string>& content) {
  NativeManifest manifest;
  manifest.kind = kind;
  manifest.name = kind == NativeManifest::Kind::kNet ? "step-2.from.base" : "step-1";
  manifest.parent = NativeManifest::Link{"base", std::string(32, 'a')};
  manifest.root = std::string(32, 'a');
  if (kind == NativeManifest::Kind::kNet) manifest.result = NativeManifest::Link{"step-2", std::string(32, 'b')};
  manifest.created = "2026-11-25T06:46:28Z";
  manifest.tool = "weightfs 0.1.0";
  for (const auto& [path, bytes] : content) manifest.files.push_back({path, bytes.size(), xxh3_128_hex(bytes)});
  return manifest;
}

/// A block as it is, uncoded.
inline NativeWriter::Block raw_block(uint64_t index, std::string_view bytes, uint64_t changed) {
  NativeWriter::Block block;
  block.index = index;
  block.encoded.coding = codec::BlockCoding::kRaw;
  block.encoded.payload = to_bytes(bytes);
  block.encoded.changed = changed;
  block.digest = xxh3_64(as_bytes(bytes));
  return block;
}

/// The bytes of an object in the files of its tree.
inline std::string object_bytes(const TreeLayout& tree, size_t object,
                                const std::map<std::string, std::string>& content) {
  const TreeObject& found = tree.objects()[object];
  return content.at(tree.files()[found.file].path).substr(found.offset, found.bytes);
}

}  // namespace weightfs::test
