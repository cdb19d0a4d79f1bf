// SPDX-License-Identifier: Apache-2.0
// Layouts on disk.  The frame is read as a stream and nothing is sized by a number in it, so that a small
// frame cannot make a reader hold much more than it really expands to.
#include "delta/native_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "codec/zstd_frame.h"
#include "codec/zstd_stream.h"
#include "common/text.h"
#include "common/varint.h"
#include "model/tree_path.h"

namespace weightfs {
namespace {

constexpr int kLevel = 12;
constexpr size_t kPieceBytes = 64u << 10;
constexpr uint64_t kMaxHeaderBytes = SafetensorsHeader::kLengthBytes + SafetensorsHeader::kMaxHeaderBytes;

Error bad_layout(std::string what) { return {ErrorCode::kNativeLayout, std::move(what)}; }

void put_bytes(std::vector<std::byte>& out, Bytes bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); }

/// True when object `i` of a layout may build on `parent`.
bool may_build_on(const TreeObject& object, const TreeObject& parent) {
  return object.bytes == parent.bytes && object.element_bytes == parent.element_bytes;
}

/// Reads numbers and bytes from the frame.
class LayoutStream {
 public:
  LayoutStream(codec::ZstdStream stream, const std::string& name) : stream_(std::move(stream)), name_(name) {}

  Error error(std::string_view what) const {
    return bad_layout(fmt::format("{}: layout, near byte {} of its content: {}", quote(name_), position(), what));
  }
  uint64_t position() const { return stream_.position() - (buffer_.size() - at_); }
  uint64_t left() const { return stream_.content_size() - position(); }

  Result<uint64_t> byte() {
    if (at_ == buffer_.size()) TRY(refill());
    return std::to_integer<uint64_t>(buffer_[at_++]);
  }

  Result<uint64_t> varint(std::string_view what) {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const uint64_t next = TRY(byte());
      if ((shift == 63 && next > 1) || (next == 0 && shift > 0)) break;
      value |= (next & 0x7f) << shift;
      if (next < 0x80) return value;
    }
    return error(fmt::format("{} is not a number in its shortest form", what));
  }

  /// Appends `count` bytes to `out`.
  Status take(uint64_t count, std::vector<std::byte>& out) {
    if (count > left()) return error(fmt::format("{} bytes are announced, {} are left", count, left()));
    while (count > 0) {
      if (at_ == buffer_.size()) TRY(refill());
      const auto part = static_cast<size_t>(std::min<uint64_t>(count, buffer_.size() - at_));
      put_bytes(out, Bytes(buffer_).subspan(at_, part));
      at_ += part;
      count -= part;
    }
    return {};
  }

  Status finish() {
    if (left() != 0) return error(fmt::format("{} bytes follow its end", left()));
    return check(stream_.finish());
  }

 private:
  Status check(Status status) const { return status ? status : bad_layout(status.error().message); }

  Status refill() {
    if (left() == 0) return error("it ends too early");
    buffer_.resize(static_cast<size_t>(std::min<uint64_t>(kPieceBytes, stream_.content_size() - stream_.position())));
    at_ = 0;
    return check(stream_.read(buffer_));
  }

  codec::ZstdStream stream_;
  const std::string& name_;
  std::vector<std::byte> buffer_;
  size_t at_ = 0;
};

Result<TreeFile> read_file(LayoutStream& in) {
  TreeFile file;
  const uint64_t length = TRY(in.varint("the length of a path"));
  if (length > kMaxPathBytes) return in.error(fmt::format("a path of {} bytes", length));
  std::vector<std::byte> path;
  TRY(in.take(length, path));
  file.path = as_text(path);
  file.size = TRY(in.varint("the size of a file"));
  const uint64_t kind = TRY(in.byte());
  if (kind > static_cast<uint64_t>(TreeFile::Kind::kEmptyFolder)) {
    return in.error(fmt::format("{} is of the unknown kind {}", quote(file.path), kind));
  }
  file.kind = static_cast<TreeFile::Kind>(kind);
  if (file.kind != TreeFile::Kind::kSafetensors) return file;
  const uint64_t header = TRY(in.varint("the length of a header"));
  if (header > kMaxHeaderBytes || header > file.size) {
    return in.error(fmt::format("{} of {} bytes has a header of {}", quote(file.path), file.size, header));
  }
  TRY(in.take(header, file.header));
  return file;
}

/// The object that the number in front of an object names; `next` is the one that number 1 means.
Result<uint32_t> read_parent(LayoutStream& in, const TreeObject& object, const TreeLayout* parent, uint64_t& next) {
  const uint64_t coded = TRY(in.varint("a parent object"));
  if (coded == 0) return NativeLayout::kNoParent;
  const uint64_t index = next + static_cast<uint64_t>(unzigzag(coded - 1));  // wraps to something out of range
  if (parent == nullptr || index >= parent->objects().size()) {
    return in.error(fmt::format("an object builds on object {} of the parent, which has {}", index,
                                parent == nullptr ? 0 : parent->objects().size()));
  }
  if (!may_build_on(object, parent->objects()[index])) {
    return in.error(fmt::format("an object of {} bytes builds on one of {}, or on other elements", object.bytes,
                                parent->objects()[index].bytes));
  }
  next = index + 1;
  return static_cast<uint32_t>(index);
}

Result<NativeLayout> read_layout(LayoutStream& in, const TreeLayout* parent) {
  std::vector<std::byte> magic;
  TRY(in.take(sizeof kLayoutMagic, magic));
  if (load_le<uint32_t>(magic.data()) != kLayoutMagic) return in.error("it does not begin with the magic number WFL1");
  const uint64_t count = TRY(in.varint("the number of files"));
  if (count > kMaxTreeFiles) return in.error(fmt::format("{} files; at most {} are allowed", count, kMaxTreeFiles));
  std::vector<TreeFile> files;
  for (uint64_t i = 0; i < count; ++i) files.push_back(TRY(read_file(in)));
  auto tree = TreeLayout::make(std::move(files), ErrorCode::kNativeLayout);
  if (!tree) return in.error(tree.error().message);
  NativeLayout layout;
  layout.tree = std::make_shared<const TreeLayout>(std::move(*tree));
  const uint64_t objects = TRY(in.varint("the number of objects"));
  if (objects != layout.tree->objects().size()) {
    return in.error(fmt::format("{} objects are announced, the files hold {}", objects, layout.tree->objects().size()));
  }
  layout.parents.reserve(objects);
  uint64_t next = 0;
  for (const TreeObject& object : layout.tree->objects()) {
    layout.parents.push_back(TRY(read_parent(in, object, parent, next)));
  }
  TRY(in.finish());
  return layout;
}

void put_file(std::vector<std::byte>& out, const TreeFile& file) {
  put_varint(out, file.path.size());
  put_bytes(out, as_bytes(file.path));
  put_varint(out, file.size);
  out.push_back(static_cast<std::byte>(file.kind));
  if (file.kind != TreeFile::Kind::kSafetensors) return;
  put_varint(out, file.header.size());
  put_bytes(out, file.header);
}

}  // namespace

Result<std::vector<std::byte>> serialise_layout(const NativeLayout& layout) {
  const TreeLayout& tree = *layout.tree;
  if (layout.parents.size() != tree.objects().size()) {
    return Error{ErrorCode::kInternal, fmt::format("a layout of {} objects has {} parent objects",
                                                   tree.objects().size(), layout.parents.size())};
  }
  std::vector<std::byte> content(sizeof kLayoutMagic);
  store_le(content.data(), kLayoutMagic);
  put_varint(content, tree.files().size());
  for (const TreeFile& file : tree.files()) put_file(content, file);
  put_varint(content, tree.objects().size());
  int64_t next = 0;
  for (const uint32_t parent : layout.parents) {
    put_varint(content, parent == NativeLayout::kNoParent ? 0 : 1 + zigzag(int64_t{parent} - next));
    if (parent != NativeLayout::kNoParent) next = int64_t{parent} + 1;
  }
  if (content.size() > kMaxLayoutBytes) {
    return bad_layout(fmt::format("the layout has {} bytes; at most {} are read", content.size(), kMaxLayoutBytes));
  }
  return codec::compress_frame(content, kLevel);
}

Result<NativeLayout> parse_layout(std::vector<std::byte> frame, const std::string& name, const TreeLayout* parent) {
  const MemorySource source(name, std::move(frame));
  auto stream = codec::ZstdStream::open(source, 0, source.size());
  if (!stream) return bad_layout(stream.error().message);
  if (stream->content_size() > kMaxLayoutBytes) {
    return bad_layout(fmt::format("{}: a layout of {} bytes; at most {} are read", quote(name), stream->content_size(),
                                  kMaxLayoutBytes));
  }
  LayoutStream in(std::move(*stream), name);
  return read_layout(in, parent);
}

Status check_result_files(const NativeManifest& manifest, const TreeLayout& tree) {
  auto expected = manifest.files.begin();
  for (const TreeFile& file : tree.files()) {
    if (file.kind == TreeFile::Kind::kEmptyFolder) continue;
    if (expected == manifest.files.end() || expected->path != file.path || expected->bytes != file.size) {
      return bad_layout(
          fmt::format("file {} of {} bytes is in the layout, but not so in the manifest", quote(file.path), file.size));
    }
    ++expected;
  }
  if (expected == manifest.files.end()) return {};
  return bad_layout(fmt::format("file {} is in the manifest, but not in the layout", quote(expected->path)));
}

}  // namespace weightfs
