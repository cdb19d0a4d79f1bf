// SPDX-License-Identifier: Apache-2.0
// Any bytes as the manifest of a native version: as they are, and as what stands before a digest that is
// right, so that the rules behind the digest are reached.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "common/digest.h"
#include "common/text.h"
#include "delta/native_manifest.h"
#include "model/tree_path.h"

namespace {

using weightfs::NativeManifest;

void check(const NativeManifest& found) {
  NativeManifest manifest = found;
  const std::string text = manifest.serialise();
  auto again = NativeManifest::parse(text);
  if (!again || again->digest != manifest.digest || again->serialise() != text) std::abort();
  for (const auto& file : found.files) {
    if (!weightfs::is_tree_path(file.path)) std::abort();
  }
  for (const auto& file : found.payload) {
    if (!weightfs::is_plain_file_name(file.file) || file.at > file.bytes || file.blocks > file.bytes - file.at) {
      std::abort();
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  if (const auto manifest = NativeManifest::parse(input)) check(*manifest);
  const std::string body = input.substr(0, input.rfind(",\"digest\":\""));
  const auto hasher = weightfs::make_hasher(weightfs::DigestKind::kXxh3_128);
  hasher->update(weightfs::as_bytes(body));
  if (const auto manifest = NativeManifest::parse(body + ",\"digest\":\"" + hasher->finish() + "\"}\n")) {
    check(*manifest);
  }
  return 0;
}
