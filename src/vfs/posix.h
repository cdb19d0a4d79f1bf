// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <utility>

namespace weightfs {

/// What a system call may answer with instead of a value.
struct Errno {
  int value = 0;
};

/// A value or an errno: the vocabulary of file system operations.  The reason behind an errno was
/// logged where it was understood.
template <class T>
class [[nodiscard]] Posix {
 public:
  Posix(T value) : value_(std::move(value)) {}  // NOLINT(google-explicit-constructor)
  Posix(Errno error) : error_(error.value) {}   // NOLINT(google-explicit-constructor)

  explicit operator bool() const { return value_.has_value(); }
  const T& operator*() const { return value_.value(); }
  const T* operator->() const { return &value_.value(); }
  /// 0 when there is a value.
  int error() const { return error_; }

 private:
  std::optional<T> value_;
  int error_ = 0;
};

}  // namespace weightfs
