// SPDX-License-Identifier: Apache-2.0
//
// The C++ interface of weightfs: stores of model versions.  Everything here throws weightfs::api::Error; nothing else
// escapes but std::bad_alloc.  Link with weightfs::weightfs (find_package(weightfs)).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace weightfs::api {

/// What went wrong.  what() is one line for a person.
class Error : public std::runtime_error {
 public:
  Error(std::string code, const std::string& message) : std::runtime_error(message), code_(std::move(code)) {}
  /// Stable id, e.g. "store.busy" or "version.not_found"; weightfs(1) lists them.
  const std::string& code() const noexcept { return code_; }

 private:
  std::string code_;
};

struct File {
  std::string path;  ///< relative, '/'-separated
  uint64_t bytes = 0;
  std::string digest;  ///< xxh3-128 of the content, 32 hex digits
};

struct Version {
  std::string name;
  std::string kind;     ///< "reference", "full" or "delta"
  std::string parent;   ///< empty for a base
  std::string created;  ///< UTC, "2026-11-25T06:46:28Z"
  std::string message;
  std::string digest;               ///< of its manifest: its identity
  std::optional<uint64_t> changed;  ///< elements that differ from the parent
  uint64_t stored_bytes = 0;        ///< of its own files in the store
  std::vector<File> files;
};

struct CommitOptions {
  std::string parent = "latest";
  std::string name{};  ///< empty: v000001, v000002 ...
  std::string message{};
  bool full = false;                ///< needs no other version to be read; not for commits from memory
  uint64_t block_bytes = 0;         ///< 65536, 262144, 1048576; 0: chosen
  unsigned threads = 0;             ///< 0: all processors
  std::function<bool()> stopped{};  ///< asked from several threads; true: give up, nothing is left behind
};

/// A version in the making, from tensors in memory.  Holds the store's lock while it lives; destroyed without
/// finish(), nothing happened.  Not for several threads at once; uses all of them itself.
class Commit {
 public:
  ~Commit();
  Commit(Commit&&) noexcept;
  Commit& operator=(Commit&&) noexcept;

  /// The whole new bytes of a tensor that the parent has; dtype and shape stay.  Coded at once: the memory may be
  /// reused when it returns.  Tensors that are not given stay as they are.
  void put_tensor(std::string_view name, std::span<const std::byte> bytes);
  /// The whole content of a file that holds no tensors, e.g. "config.json"; it may be new.
  void set_file(const std::string& path, std::span<const std::byte> bytes);
  /// Makes the version visible: complete and on disk.  Call it once.
  Version finish();

 private:
  friend class Store;
  struct Impl;
  explicit Commit(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// A store, opened.  versions() and read() may be called from several threads; what other processes commit is seen
/// after refresh().
class Store {
 public:
  /// Makes a store whose base is the model folder `base`: by reference, or (`full`) kept inside, compressed.
  static Store create(const std::string& path, const std::string& base, bool full = false);
  static Store open(const std::string& path);
  ~Store();
  Store(Store&&) noexcept;
  Store& operator=(Store&&) noexcept;

  const std::string& path() const;
  /// The base first, parents before their children; the last one is "latest".
  std::vector<Version> versions() const;
  /// One of them; "latest" is understood.
  Version version(const std::string& name) const;
  /// Fills `out` with the bytes from `offset` on of a file of a version; the range lies inside the file.
  void read(const std::string& version, const std::string& path, uint64_t offset, std::span<std::byte> out) const;
  /// Adds a checkpoint folder as one more version.
  Version commit(const std::string& checkpoint, const CommitOptions& options = {});
  /// Begins a version from memory.  The Commit does not need the Store any more.
  Commit begin(const CommitOptions& options = {});
  /// Looks at the disk again.
  void refresh();

 private:
  struct Impl;
  explicit Store(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace weightfs::api
