// SPDX-License-Identifier: Apache-2.0
#include "vfs/control_handles.h"

#include <gtest/gtest.h>

#include <set>
#include <thread>
#include <vector>

namespace weightfs {
namespace {

std::string must_not_render() {
  ADD_FAILURE() << "rendered again";
  return {};
}

TEST(ControlHandles, KeepARenderingForItsReader) {
  ControlHandles handles;
  const uint64_t first = handles.add(4, "first");
  const uint64_t second = handles.add(4, "second");
  EXPECT_NE(first, second);
  EXPECT_EQ(*handles.get(4, first, 0, must_not_render), "first");
  EXPECT_EQ(*handles.get(4, second, 0, must_not_render), "second");
}

TEST(ControlHandles, ForgetTheOldestAndRenderAnew) {
  ControlHandles handles;
  const uint64_t old = handles.add(4, "old");
  uint64_t newest = 0;
  for (size_t i = 0; i < ControlHandles::kKept; ++i) newest = handles.add(4, "text " + std::to_string(i));
  EXPECT_EQ(*handles.get(4, newest, 0, must_not_render), "text 31");
  EXPECT_EQ(*handles.get(4, old, 0, [] { return std::string("anew"); }), "anew");
  EXPECT_EQ(*handles.get(4, old, 2, must_not_render), "anew") << "the rest of the file must come from the same text";
}

TEST(ControlHandles, ServeNumbersOfAFormerProcess) {
  ControlHandles before;
  const uint64_t handle = before.add(4, "before");
  ControlHandles after;
  EXPECT_EQ(*after.get(4, handle, 0, [] { return std::string("after"); }), "after");
}

TEST(ControlHandles, GoOnWithinTheirOwnTextOnly) {
  ControlHandles before;
  const uint64_t handle = before.add(4, "before");
  EXPECT_EQ(*before.get(4, handle, 3, must_not_render), "before");
  EXPECT_EQ(*before.get(4, handle, 99, must_not_render), "before");
  ControlHandles after;
  EXPECT_EQ(after.get(4, handle, 1, must_not_render), nullptr) << "the rest of another text is no text";
  EXPECT_EQ(after.get(4, handle, 6, must_not_render), nullptr) << "nor is its end known";
  EXPECT_EQ(*after.get(4, handle, 0, [] { return std::string("after"); }), "after");
  EXPECT_EQ(*after.get(4, handle, 1, must_not_render), "after");
  EXPECT_EQ(after.get(5, handle, 1, must_not_render), nullptr);
}

TEST(ControlHandles, ThatWereForgottenCannotGoOn) {
  ControlHandles handles;
  const uint64_t old = handles.add(4, "old");
  for (size_t i = 0; i < ControlHandles::kKept; ++i) handles.add(4, "text");
  EXPECT_EQ(handles.get(4, old, 1, must_not_render), nullptr);
}

TEST(ControlHandles, OfANewProcessAreOtherNumbers) {
  ControlHandles before;
  std::set<uint64_t> numbers;
  for (int i = 0; i < 100; ++i) numbers.insert(before.add(4, "x"));
  ControlHandles after;
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(numbers.insert(after.add(4, "y")).second);
}

TEST(ControlHandles, DoNotMixUpFiles) {
  ControlHandles handles;
  const uint64_t handle = handles.add(4, "status");
  EXPECT_EQ(*handles.get(5, handle, 0, [] { return std::string("other file"); }), "other file");
  EXPECT_EQ(*handles.get(4, handle, 0, must_not_render), "status");
}

TEST(ControlHandles, AnswerAllReadersOfOneHandleAlike) {
  ControlHandles handles;
  std::atomic<int> renderings{0};
  std::vector<std::thread> threads;
  std::vector<std::string> answers(8);
  for (size_t i = 0; i < answers.size(); ++i) {
    threads.emplace_back(
        [&, i] { answers[i] = *handles.get(4, 99, 0, [&] { return "rendering " + std::to_string(++renderings); }); });
  }
  for (auto& thread : threads) thread.join();
  for (const auto& answer : answers) EXPECT_EQ(answer, answers[0]);
}

}  // namespace
}  // namespace weightfs
