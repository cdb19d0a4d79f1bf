// SPDX-License-Identifier: Apache-2.0
// Native stores on disk: written with the container's own writer, from bytes that the test keeps.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "codec/block_codec.h"
#include "common/digest.h"
#include "delta/native_writer.h"
#include "support/fake_native.h"
#include "support/formats.h"

namespace weightfs::test {

class MadeStore {
 public:
  struct Made {
    FakeObjects objects;
    NativeManifest manifest;
  };
  struct Options {
    uint64_t block_bytes = 262144;
    uint64_t payload_file_bytes = 4ull << 30;
    bool full = false;
  };

  /// `folder`/store, and a base: the files of `folder`/model, or inside the store.
  MadeStore(const std::string& folder, FakeObjects base, bool by_reference = true)
      : path_(folder + "/store"), model_(folder + "/model") {
    write_file(path_ + "/store.json",
               "{\"format\":\"weightfs-store\",\"version\":1,\"id\":\"0123456789abcdef0123456789abcdef\"}\n");
    write_file(path_ + "/lock", "");
    std::filesystem::create_directories(path_ + "/nets");
    if (by_reference) {
      for (const auto& [path, content] : files_of(base)) write_file(model_ + "/" + path, content);
      NativeManifest manifest = manifest_of("base", NativeManifest::Kind::kReference, base);
      manifest.path = model_;
      std::filesystem::create_directories(folder_of("base"));
      const Status written = write_manifest(folder_of("base"), manifest);
      EXPECT_TRUE(written) << written.error().text();
      remember("base", std::move(base), std::move(manifest));
    } else {
      for (FakeObject& object : base) object.parent = NativeLayout::kNoParent;
      NativeManifest manifest = manifest_of("base", NativeManifest::Kind::kFull, base);
      write("base", folder_of("base"), std::move(manifest), std::move(base), nullptr, {});
    }
  }

  const std::string& path() const { return path_; }
  const std::string& model() const { return model_; }
  std::string folder_of(const std::string& name) const { return path_ + "/versions/" + name; }
  std::string payload_of(const std::string& name) const { return folder_of(name) + "/payload-00001.safetensors"; }
  /// Names in the order in which they were made, the base first.
  const std::vector<std::string>& names() const { return names_; }
  const FakeObjects& objects(const std::string& name) const { return made_.at(name).objects; }
  const NativeManifest& manifest(const std::string& name) const { return made_.at(name).manifest; }
  std::map<std::string, std::string> files(const std::string& name) const { return files_of(objects(name)); }

  /// The objects of a version as the next one's: each one's parent is itself.
  FakeObjects next(const std::string& name) const {
    FakeObjects objects = made_.at(name).objects;
    for (size_t i = 0; i < objects.size(); ++i) objects[i].parent = static_cast<uint32_t>(i);
    return objects;
  }

  void add(const std::string& name, const std::string& parent, FakeObjects objects, const Options& options) {
    const auto kind = options.full ? NativeManifest::Kind::kFull : NativeManifest::Kind::kDelta;
    NativeManifest manifest = manifest_of(name, kind, objects);
    manifest.parent = link_of(parent);
    manifest.root = made_.at("base").manifest.digest;
    if (options.full) {
      for (FakeObject& object : objects) object.parent = NativeLayout::kNoParent;
    }
    write(name, folder_of(name), std::move(manifest), std::move(objects), options.full ? nullptr : &made_.at(parent),
          options);
  }
  void add(const std::string& name, const std::string& parent, FakeObjects objects) {
    add(name, parent, std::move(objects), Options());
  }

  /// A net; `objects` are those of `to` with parents in `from`.  Returns its folder.
  std::string add_net(const std::string& from, const std::string& to, FakeObjects objects) {
    const std::string name = to + ".from." + from;
    NativeManifest manifest = manifest_of(name, NativeManifest::Kind::kNet, objects);
    manifest.parent = link_of(from);
    manifest.result = link_of(to);
    manifest.root = made_.at("base").manifest.digest;
    const std::string folder = path_ + "/nets/" + name;
    write("", folder, std::move(manifest), std::move(objects), &made_.at(from), {});
    return folder;
  }

  void remove(const std::string& name) const { std::filesystem::remove_all(folder_of(name)); }

  /// Writes a version's manifest anew after `change`, with a digest that fits.
  void edit_manifest(const std::string& name, const std::function<void(NativeManifest&)>& change) const {
    NativeManifest manifest = made_.at(name).manifest;
    change(manifest);
    write_file(folder_of(name) + "/manifest.json", manifest.serialise());
  }

 private:
  NativeManifest::Link link_of(const std::string& name) const { return {name, made_.at(name).manifest.digest}; }

  NativeManifest manifest_of(const std::string& name, NativeManifest::Kind kind, const FakeObjects& objects) {
    NativeManifest manifest;
    manifest.kind = kind;
    manifest.name = name;
    manifest.created = "2026-11-25T06:00:" + std::string(clock_ < 10 ? "0" : "") + std::to_string(clock_) + "Z";
    clock_ = (clock_ + 1) % 60;
    manifest.tool = "a test";
    for (const auto& [path, content] : files_of(objects)) {
      manifest.files.push_back({path, content.size(), xxh3_128_hex(content)});
    }
    return manifest;
  }

  void remember(const std::string& name, FakeObjects objects, NativeManifest manifest) {
    if (name.empty()) return;
    names_.push_back(name);
    made_[name] = {std::move(objects), std::move(manifest)};
  }

  void write(const std::string& name, const std::string& folder, NativeManifest manifest, FakeObjects objects,
             const Made* parent, const Options& options) {
    std::filesystem::create_directories(folder);
    auto writer = NativeWriter::create(folder, {options.block_bytes, options.payload_file_bytes});
    ASSERT_TRUE(writer) << writer.error().text();
    const auto tree = tree_of(objects);
    NativeLayout layout{tree, {}};
    bool same = parent != nullptr && *tree == *tree_of(parent->objects);
    for (size_t i = 0; i < objects.size(); ++i) {
      layout.parents.push_back(objects[i].parent);
      same = same && objects[i].parent == i;
      const bool has_parent = parent != nullptr && objects[i].parent != NativeLayout::kNoParent;
      const std::string before = has_parent ? parent->objects[objects[i].parent].bytes : std::string();
      code(**writer, i, tree->objects()[i].element_bytes, has_parent ? &before : nullptr, objects[i].bytes,
           options.block_bytes);
    }
    auto finished = (*writer)->finish(std::move(manifest), objects.size(), same ? nullptr : &layout, parent != nullptr);
    ASSERT_TRUE(finished) << finished.error().text();
    remember(name, std::move(objects), *std::move(finished));
  }

  static void code(NativeWriter& writer, size_t object, unsigned element_bytes, const std::string* before,
                   const std::string& after, uint64_t block_bytes) {
    codec::BlockFitter fitter(element_bytes);
    const auto each = [&](const auto& visit) {
      for (uint64_t at = 0; at < after.size(); at += block_bytes) {
        const uint64_t size = std::min<uint64_t>(block_bytes, after.size() - at);
        visit(at / block_bytes, before != nullptr ? as_bytes(*before).subspan(at, size) : Bytes(),
              as_bytes(after).subspan(at, size));
      }
    };
    if (before != nullptr) each([&](uint64_t, Bytes was, Bytes now) { fitter.add(was, now); });
    const codec::BlockParams params = before != nullptr ? fitter.fit() : codec::BlockParams(element_bytes);
    std::vector<NativeWriter::Block> blocks;
    each([&](uint64_t index, Bytes was, Bytes now) {
      auto encoded = codec::encode_block(params, was, now);
      if (encoded) blocks.push_back({index, *std::move(encoded), xxh3_64(now)});
    });
    if (blocks.empty()) return;
    const Status added = writer.add(object, params, std::move(blocks));
    EXPECT_TRUE(added) << added.error().text();
  }

  std::string path_;
  std::string model_;
  std::vector<std::string> names_;
  std::map<std::string, Made> made_;
  int clock_ = 0;
};

}  // namespace weightfs::test
