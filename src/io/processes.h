// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace weightfs {

/// What /proc says about a process.
struct ProcessFacts {
  int32_t process = 0;        ///< its id, which all of its threads share
  int32_t parent = 0;         ///< 0: none that our process id namespace shows
  int32_t group = 0;          ///< its process group: what a shell with job control runs as one job
  int32_t session = 0;        ///< the id of the process that leads its session
  bool has_terminal = false;  ///< its session has a controlling terminal
};

/// Facts of a process, or of the process that a thread belongs to; FUSE names callers by thread.  Nothing when it has
/// vanished, is hidden from us (hidepid), or `proc` is not readable.  Reads two small files; thread-safe.
std::optional<ProcessFacts> facts_of(int32_t thread_or_process, const std::string& proc = "/proc");

/// The process that stands for all that were started together with `process`: its "process tree".
///
/// Climbs from parent to parent and ends below process 1, at a process whose parent nobody shows us (0), and below the
/// leader of a session that has a terminal and gives its children process groups of their own, an interactive shell:
/// each command typed into it is a tree of its own, and so is the shell itself.  An ancestor that has vanished ends the
/// climb where it is, as do a loop (ids can be reused while we look) and 1024 steps.  Of a process that is not known,
/// the answer is the process itself.
///
/// Containers.  Seen from the host, or from any namespace that holds the container's, the climb goes on through the
/// container's first process up to the child of process 1: with one supervisor (containerd-shim, conmon) a container
/// or pod, a container or pod is one tree.  In a namespace that containers share, and for processes that entered ours
/// from outside (docker exec, kubectl exec, nsenter), the parent is 0, and the process is the root: one tree a
/// container, one tree an exec.  Inside a single container each child of its first process is a tree of its own, and
/// so is that first process: a loader that is itself process 1 does not share a tree with the workers it starts.
/// Callers outside our namespace have no id here at all; they are for the caller of this function to tell.
///
/// Thread-safe; costs two small files a step.
int32_t tree_root(int32_t process, const std::string& proc = "/proc");

/// Whether a process group has a member that has not ended.  One that has ended but that nobody has waited for, which
/// kill() takes for a member, does not count; in many containers nobody ever waits for orphans.  True as well when
/// `proc` cannot be listed.  Reads a file of every process; thread-safe.
bool has_living_member(int32_t group, const std::string& proc = "/proc");

}  // namespace weightfs
