// SPDX-License-Identifier: Apache-2.0
// Writers of safetensors files, checkpoint folders, weight_v folders and TRL bucket files, written
// from the format descriptions.  They must stay free of code from src/.
#include "support/formats.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <xxhash.h>
#include <zlib.h>
#include <zstd.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace weightfs::test {
namespace {

std::string json_text(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out.push_back('\\');
    out.push_back(c);
  }
  return out + "\"";
}

std::string json_object(const Pairs& pairs) {
  std::string out = "{";
  for (const auto& [key, value] : pairs) {
    if (out.size() > 1) out += ",";
    out += json_text(key) + ":" + json_text(value);
  }
  return out + "}";
}

std::string hex(const unsigned char* bytes, size_t count) {
  std::string out;
  for (size_t i = 0; i < count; ++i) {
    std::array<char, 3> digits{};
    std::snprintf(digits.data(), digits.size(), "%02x", static_cast<unsigned>(bytes[i]));
    out += digits.data();
  }
  return out;
}

std::string numbered(const char* format, size_t a, size_t b) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), format, a, b);
  return text.data();
}

}  // namespace

size_t dtype_width(std::string_view dtype) {
  if (dtype == "F64" || dtype == "I64" || dtype == "U64" || dtype == "C64") return 8;
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  if (dtype == "BF16" || dtype == "F16" || dtype == "I16" || dtype == "U16") return 2;
  return 1;
}

MadeTensor MadeTensor::list(std::string name, std::string dtype, std::string bytes) {
  const uint64_t count = bytes.size() / dtype_width(dtype);
  return {std::move(name), std::move(dtype), {count}, std::move(bytes)};
}

std::string safetensors_raw(std::string_view header, std::string_view data) {
  std::string out;
  put<uint64_t>(out, header.size());
  return out.append(header).append(data);
}

std::string safetensors_file(const std::vector<MadeTensor>& tensors, const Pairs& metadata) {
  std::string header = "{";
  if (!metadata.empty()) header += "\"__metadata__\":" + json_object(metadata);
  std::string data;
  for (const MadeTensor& tensor : tensors) {
    std::string shape;
    for (const uint64_t extent : tensor.shape) shape += (shape.empty() ? "" : ",") + std::to_string(extent);
    if (header.size() > 1) header += ",";
    header += json_text(tensor.name) + ":{\"dtype\":\"" + tensor.dtype + "\",\"shape\":[" + shape +
              "],\"data_offsets\":[" + std::to_string(data.size()) + "," +
              std::to_string(data.size() + tensor.bytes.size()) + "]}";
    data += tensor.bytes;
  }
  header += "}";
  while (header.size() % 8 != 0) header += " ";
  return safetensors_raw(header, data);
}

std::string index_json(const Pairs& metadata, const Pairs& weight_map) {
  return "{\"metadata\":" + json_object(metadata) + ",\"weight_map\":" + json_object(weight_map) + "}";
}

std::string zstd_frame(std::string_view bytes) {
  std::string out(ZSTD_compressBound(bytes.size()), '\0');
  const size_t size = ZSTD_compress(out.data(), out.size(), bytes.data(), bytes.size(), 1);
  if (ZSTD_isError(size) != 0) throw std::runtime_error("ZSTD_compress failed");
  out.resize(size);
  return out;
}

std::string xxh3_128_hex(std::string_view bytes) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes.data(), bytes.size()));
  return hex(canonical.digest, sizeof canonical.digest);
}

std::string adler32_hex(std::string_view bytes) {
  const uLong sum = ::adler32_z(1, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size());
  std::array<char, 9> text{};
  std::snprintf(text.data(), text.size(), "%08lx", sum);
  return text.data();
}

void write_file(const std::string& path, std::string_view bytes) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

std::string read_whole(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void set_mtime(const std::string& path, int64_t seconds, int64_t nanoseconds) {
  const timespec time{seconds, nanoseconds};
  const timespec both[2] = {time, time};
  if (::utimensat(AT_FDCWD, path.c_str(), both, 0) != 0) throw std::runtime_error("cannot set the time of " + path);
}

void write_model(const std::string& folder, const std::vector<std::vector<MadeTensor>>& shards,
                 std::string_view config) {
  write_file(folder + "/config.json", config);
  if (shards.size() == 1) {
    write_file(folder + "/model.safetensors", safetensors_file(shards[0], {{"format", "pt"}}));
    return;
  }
  Pairs weight_map;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = numbered("model-%05zu-of-%05zu.safetensors", i + 1, shards.size());
    for (const MadeTensor& tensor : shards[i]) weight_map.emplace_back(tensor.name, name);
    write_file(folder + "/" + name, safetensors_file(shards[i], {{"format", "pt"}}));
  }
  write_file(folder + "/model.safetensors.index.json", index_json({}, weight_map));
}

// --- weight_v -----------------------------------------------------------------------------------

std::string six_digits(uint64_t number) { return numbered("%06zu", number, 0); }

std::string xor_payload(std::string_view before, std::string_view after) {
  std::string out(before.size(), '\0');
  for (size_t i = 0; i < before.size(); ++i) out[i] = static_cast<char>(before[i] ^ after[i]);
  return out;
}

std::string overwrite_payload(std::string_view before, std::string_view after) {
  std::string positions;
  std::string values;
  for (size_t i = 0; i < before.size(); ++i) {
    if (before[i] == after[i]) continue;
    put<uint32_t>(positions, static_cast<uint32_t>(i));
    values.push_back(after[i]);
  }
  std::string out;
  put<uint32_t>(out, static_cast<uint32_t>(values.size()));
  return out + positions + values;
}

std::map<std::string, std::string> weight_v_files(const WeightVOptions& options,
                                                  const std::vector<ByteChange>& changes) {
  std::map<std::string, std::string> files;
  Pairs weight_map;
  const size_t shards = std::min(options.shards, changes.size());
  for (size_t shard = 0; shard < shards; ++shard) {
    const std::string name = numbered("model-%05zu-of-%05zu.safetensors", shard, shards);
    std::vector<MadeTensor> tensors;
    Pairs digests;
    for (size_t i = shard; i < changes.size(); i += shards) {
      const ByteChange& change = changes[i];
      const std::string payload = options.encoding == "xor" ? xor_payload(change.before, change.after)
                                                            : overwrite_payload(change.before, change.after);
      tensors.push_back(MadeTensor::list(change.name, "U8", zstd_frame(payload)));
      digests.emplace_back(change.name,
                           options.checksum == "adler32" ? adler32_hex(change.after) : xxh3_128_hex(change.after));
      weight_map.emplace_back(change.name, name);
    }
    files[name] = safetensors_file(tensors, digests);
  }
  files["model.safetensors.index.json"] = index_json({{"version", six_digits(options.version)},
                                                      {"base_version", six_digits(options.base_version)},
                                                      {"delta_encoding", options.encoding},
                                                      {"compression_format", "zstd"},
                                                      {"checksum_format", options.checksum}},
                                                     weight_map);
  return files;
}

std::string write_weight_v(const std::string& root, const WeightVOptions& options,
                           const std::vector<ByteChange>& changes) {
  const std::string folder = root + "/weight_v" + six_digits(options.version);
  for (const auto& [name, bytes] : weight_v_files(options, changes)) write_file(folder + "/" + name, bytes);
  return folder;
}

// --- TRL ----------------------------------------------------------------------------------------

std::string trl_anchor(TrlKind kind, uint64_t number, const std::vector<MadeTensor>& tensors) {
  Pairs metadata{{"format", kind == TrlKind::kT0 ? "anchor_checkpoint" : "sparse_weight_patch"},
                 {"version", "1"},
                 {"model_version", std::to_string(number)}};
  if (kind != TrlKind::kT0) metadata.emplace_back("sparse", "False");
  if (kind == TrlKind::kT2Raw) metadata.emplace_back("encoding", "raw");
  if (kind == TrlKind::kT2Gap) metadata.emplace_back("encoding", "gap_delta");
  return safetensors_file(tensors, metadata);
}

std::string trl_delta(TrlKind kind, uint64_t number, const std::vector<ElementChange>& changes) {
  const bool old = kind == TrlKind::kT0 || kind == TrlKind::kT1;
  Pairs metadata{{"format", "sparse_weight_patch"}, {"version", "1"}, {"model_version", std::to_string(number)}};
  if (kind != TrlKind::kT0) metadata.emplace_back("sparse", "True");
  if (kind == TrlKind::kT2Raw) metadata.emplace_back("encoding", "raw");
  if (kind == TrlKind::kT2Gap) metadata.emplace_back("encoding", "gap_delta");
  std::string names;
  std::vector<MadeTensor> tensors;
  for (const ElementChange& change : changes) {
    names += (names.empty() ? "" : ", ") + json_text(change.name);
    uint64_t widest = 0;
    uint64_t next = 0;
    for (const uint64_t position : change.positions) {
      widest = std::max(widest, position - next);
      next = position + 1;
    }
    const bool narrow = kind == TrlKind::kT2Gap && widest <= 0xffff;
    std::string positions;
    next = 0;
    for (const uint64_t position : change.positions) {
      if (narrow) put<uint16_t>(positions, static_cast<uint16_t>(position - next));
      if (!narrow)
        put<uint32_t>(positions, static_cast<uint32_t>(kind == TrlKind::kT2Gap ? position - next : position));
      next = position + 1;
    }
    const std::string dtype = kind != TrlKind::kT2Gap ? "I32" : narrow ? "U16" : "U32";
    tensors.push_back(MadeTensor::list(change.name + (old ? ".indices" : ".idx"), dtype, positions));
    tensors.push_back(MadeTensor::list(change.name + (old ? ".values" : ".val"), change.dtype, change.values));
  }
  if (old) metadata.emplace_back("changed_params", "[" + names + "]");
  if (kind == TrlKind::kT0 && changes.empty()) {
    tensors.push_back(MadeTensor::list("__empty_delta__", "I32", std::string(4, '\0')));
  }
  return safetensors_file(tensors, metadata);
}

std::string trl_path(const std::string& root, bool anchor, uint64_t number) {
  return root + (anchor ? "/anchors/step_" : "/deltas/step_") + six_digits(number) + ".safetensors";
}

}  // namespace weightfs::test
