// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "delta/delta.h"
#include "delta/names.h"

namespace weightfs::fuzz {

/// A folder in memory (where /dev/shm is there) with the base of the saved corpus; made once a process
/// and left to the end of it.
class Folder {
 public:
  Folder() {
    std::string pattern =
        (std::filesystem::exists("/dev/shm") ? "/dev/shm" : "/tmp") + std::string("/weightfs-fuzz-XXXXXX");
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    path_ = pattern;
    const std::string header =
        R"({"m.a":{"dtype":"BF16","shape":[4,3],"data_offsets":[0,24]},)"
        R"("m.b":{"dtype":"F32","shape":[5],"data_offsets":[24,44]},"m.e":{"dtype":"F32","shape":[0],"data_offsets":[44,44]}})";
    std::string file(8, '\0');
    file[0] = static_cast<char>(header.size() & 0xff);
    file[1] = static_cast<char>(header.size() >> 8);
    write("base/model.safetensors", file + header + std::string(44, 'b'));
    auto base = ModelFolder::open(files_, path_ + "/base");
    if (!base) std::abort();
    base_ = *std::move(base);
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  const Files& files() const { return files_; }
  const ModelFolder& base() const { return *base_; }
  std::string path(std::string_view name) const { return path_ + "/" + std::string(name); }
  void write(std::string_view name, std::string_view bytes) const {
    const std::string file = path(name);
    std::filesystem::create_directories(std::filesystem::path(file).parent_path());
    std::ofstream(file, std::ios::binary | std::ios::trunc) << bytes;
  }

  /// Decodes all that a delta holds, as reading it would.
  void read_all(const Delta& delta) const {
    for (const DeltaTensor& change : delta.tensors) {
      std::string bytes(base_->tensors()[change.tensor].bytes(), 'b');
      const MutableBytes out = std::as_writable_bytes(std::span(bytes));
      if (change.patch->dense()) {
        (void)change.patch->read_dense(0, out);
      } else {
        (void)change.patch->load_segments(0, [&](uint64_t, const Patch::Segment& segment) {
          segment->apply(0, out);
          return true;
        });
      }
    }
  }

 private:
  std::string path_;
  Files files_;
  std::shared_ptr<const ModelFolder> base_;
};

inline const Folder& folder() {
  static const Folder instance;
  return instance;
}

}  // namespace weightfs::fuzz
