// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

namespace weightfs {

/// Tells whoever started this process that it serves now.  Does nothing in the foreground.
class ReadyNotice {
 public:
  ReadyNotice() = default;
  explicit ReadyNotice(int pipe) : pipe_(pipe) {}

  bool in_background() const { return pipe_ >= 0; }
  /// Lets go of the terminal and the current folder, then releases the parent.  False when nobody
  /// waits any more: the one who started us gave up.
  bool send();

 private:
  int pipe_ = -1;
};

/// Runs `work` in a child process of its own session and returns 0 as soon as the child has sent its
/// notice, or the child's exit status when it ended before that.  The child writes its messages to our
/// stderr until then.  No thread may exist yet.  What goes wrong with the child itself is said in the name of
/// `program`, and answered with `failed`.
int run_in_background(const char* program, int failed, const std::function<int(ReadyNotice&)>& work);

/// Whoever was started without standard streams would get the next file that it opens as one of them.
void open_standard_streams();
/// Lets go of the terminal, or whatever the standard streams were.
void close_standard_streams();

}  // namespace weightfs
