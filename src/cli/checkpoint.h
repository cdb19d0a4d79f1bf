// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/result.h"
#include "engine/engine.h"
#include "io/byte_source.h"
#include "io/files.h"
#include "model/safetensors_header.h"

namespace weightfs::cli {

/// A checkpoint to be read as a whole: a folder, or a version of a source.  Immutable once made; its sources
/// are thread-safe and keep alive what they need.
struct Checkpoint {
  enum class Kind { kPlain, kSafetensors, kEmptyFolder };

  struct File {
    std::string path;  ///< relative, '/'-separated
    Kind kind = Kind::kPlain;
    std::shared_ptr<const ByteSource> source;  ///< null for a folder
    uint64_t header_bytes = 0;                 ///< kSafetensors: what stands before its data area

    uint64_t size() const { return source == nullptr ? 0 : source->size(); }
  };

  struct Tensor {
    TensorInfo info;
    size_t file = 0;      ///< index into files
    uint64_t offset = 0;  ///< of its first byte in the file
  };

  std::string name;             ///< for people
  std::vector<File> files;      ///< by path, bytewise
  std::vector<Tensor> tensors;  ///< by file, then by rising offset

  Status read(const Tensor& tensor, uint64_t offset, MutableBytes out) const {
    return files[tensor.file].source->read_at(tensor.offset + offset, out);
  }
  uint64_t tensor_bytes() const;
};

/// Every *.safetensors file must have a sound header.  base.no_weights when there is none of them.
Result<Checkpoint> checkpoint_of_folder(const Files& files, const std::string& path);
/// Version `ordinal` of the engine's snapshot.
Result<Checkpoint> checkpoint_of_version(const std::shared_ptr<Engine>& engine, size_t ordinal);
/// What a person names: a folder, or SOURCE@VERSION (SOURCE may be a mount point; `base` and `verify` are those of
/// open_source()).
Result<Checkpoint> open_checkpoint(const Files& files, const std::string& argument, const std::string& base,
                                   bool verify);

}  // namespace weightfs::cli
