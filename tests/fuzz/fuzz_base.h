// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "delta/delta.h"
#include "delta/names.h"

namespace weightfs::fuzz {

/// A folder in memory with a small base (tensors "a.weight" BF16 [6, 5] and "b" BF16 [7]), made once.
class Base {
 public:
  static const Base& get() {
    static const Base base;
    return base;
  }

  const std::string& folder() const { return folder_; }
  const NameMap& names() const { return *names_; }
  const Files& files() const { return files_; }
  const ModelFolder& model() const { return *model_; }

  static void write(const std::string& path, std::string_view bytes) {
    std::FILE* file = std::fopen(path.c_str(), "wb");
    if (file == nullptr || std::fwrite(bytes.data(), 1, bytes.size(), file) != bytes.size()) std::abort();
    std::fclose(file);
  }

 private:
  Base() : folder_("/dev/shm/weightfs-fuzz-" + std::to_string(::getpid())) {
    std::filesystem::create_directories(folder_ + "/base");
    std::string header = R"({"a.weight":{"dtype":"BF16","shape":[6,5],"data_offsets":[0,60]},)"
                         R"("b":{"dtype":"BF16","shape":[7],"data_offsets":[60,74]}})";
    std::string file(8, '\0');
    file[0] = static_cast<char>(header.size());
    write(folder_ + "/base/model.safetensors", file + header + std::string(74, 'x'));
    auto model = ModelFolder::open(files_, folder_ + "/base");
    if (!model) std::abort();
    model_ = *model;
    names_ = std::make_unique<NameMap>(*model_);
  }
  ~Base() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  Files files_;
  std::string folder_;
  std::shared_ptr<const ModelFolder> model_;
  std::unique_ptr<NameMap> names_;
};

/// Applies every patch of a delta that was opened; failures are fine, wrong memory is not.
inline void apply_all(const Delta& delta) {
  for (const DeltaTensor& change : delta.tensors) {
    std::vector<std::byte> bytes(Base::get().model().tensors()[change.tensor].bytes());
    if (change.patch->dense()) {
      (void)change.patch->read_dense(0, bytes);
      continue;
    }
    (void)change.patch->load_segments(0, [&](uint64_t index, const Patch::Segment& segment) {
      if (index != 0) std::abort();  // the tensors are smaller than a segment
      segment->apply(0, bytes);
      return true;
    });
  }
}

}  // namespace weightfs::fuzz
