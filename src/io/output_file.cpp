// SPDX-License-Identifier: Apache-2.0
// Files that are written once.  close() is looked at, because that is where a network file system reports
// what it could not write.
#include "io/output_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "common/text.h"

namespace weightfs {
namespace {

constexpr size_t kGatherBytes = 1u << 20;

Error write_failed(const std::string& path, int number) {
  return {ErrorCode::kIoWrite, fmt::format("{}: {}", quote(path), std::strerror(number))};
}

Status write_all(int descriptor, const std::string& path, uint64_t offset, Bytes bytes) {
  while (!bytes.empty()) {
    const ssize_t wrote = ::pwrite(descriptor, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return write_failed(path, errno);
    offset += static_cast<uint64_t>(wrote);
    bytes = bytes.subspan(static_cast<size_t>(wrote));
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<OutputFile>> OutputFile::create(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
  if (descriptor < 0) return write_failed(path, errno);
  return std::unique_ptr<OutputFile>(new OutputFile(path, descriptor));
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Status OutputFile::append(Bytes bytes) {
  pending_.insert(pending_.end(), bytes.begin(), bytes.end());
  return pending_.size() < kGatherBytes ? Status() : flush();
}

Status OutputFile::overwrite(uint64_t offset, Bytes bytes) {
  if (offset > size() || bytes.size() > size() - offset) {
    return Error{ErrorCode::kInternal, fmt::format("{}: nothing was written at byte {} yet", quote(path_), offset)};
  }
  TRY(flush());
  return write_all(descriptor_, path_, offset, bytes);
}

Status OutputFile::flush() {
  TRY(write_all(descriptor_, path_, written_, pending_));
  written_ += pending_.size();
  pending_.clear();
  return {};
}

Status OutputFile::finish() {
  TRY(flush());
  if (::fsync(descriptor_) != 0) return write_failed(path_, errno);
  if (::close(std::exchange(descriptor_, -1)) != 0) return write_failed(path_, errno);
  return {};
}

Status sync_folder(const std::string& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return write_failed(folder, errno);
  const int failure = ::fsync(descriptor) == 0 ? 0 : errno;
  ::close(descriptor);
  // Some file systems cannot sync folders and say EINVAL; there is nothing better to do on them.
  if (failure != 0 && failure != EINVAL) return write_failed(folder, failure);
  return {};
}

Status write_file_whole(const std::string& folder, const std::string& name, Bytes content) {
  const std::string temporary = folder + "/.tmp-" + name;
  const std::string path = folder + "/" + name;
  ::unlink(temporary.c_str());  // what an interrupted writer may have left
  const auto file = TRY(OutputFile::create(temporary));
  Status status = file->append(content);
  if (status) status = file->finish();
  if (status && std::rename(temporary.c_str(), path.c_str()) != 0) status = write_failed(path, errno);
  if (!status) {
    ::unlink(temporary.c_str());
    return status;
  }
  return sync_folder(folder);
}

}  // namespace weightfs
