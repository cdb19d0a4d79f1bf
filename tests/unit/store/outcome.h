// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include "common/result.h"

namespace weightfs::test {

#define ASSERT_OK(...)                                            \
  do {                                                            \
    const auto& outcome_ = (__VA_ARGS__);                         \
    ASSERT_TRUE(outcome_.has_value()) << outcome_.error().text(); \
  } while (false)

template <class T>
ErrorCode code_of(const Result<T>& result) {
  if (result) ADD_FAILURE() << "expected an error";
  return result ? ErrorCode::kInternal : result.error().code;
}

}  // namespace weightfs::test
