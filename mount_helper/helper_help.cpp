// SPDX-License-Identifier: Apache-2.0
// What --help says.  A test holds it against the rules, so that no option lacks its line.
#include "helper_options.h"

namespace weightfs::helper {
namespace {

constexpr const char* kHelp = R"(Mount a base model and its deltas, and keep them mounted; called by mount(8)
Usage: mount.weightfs SOURCE MOUNTPOINT [-sfnvrw] [-t TYPE] [-o OPTION[,OPTION]...]

Arguments:
  SOURCE                    Folder of published deltas
  MOUNTPOINT                Empty folder to mount on

Options:
  -o OPTION[,OPTION]...     See below; may be given several times
  -f                        Fake: check everything, but do not mount
  -s                        Sloppy: ignore unknown mount options
  -v                        Say what is done
  -n, -r, -w                Nothing: a weightfs is always read-only, and in no mtab
  -t TYPE                   weightfs or fuse.weightfs
  --foreground              Stay in the foreground, as systemd wants it
  -h, --help                Print this help and exit
  -V, --version             Print the version and exit

Mount options of the helper:
  allow_other               Let other users read it
  setuid=USER[:GROUP]       Run the daemon as this user, by name or number
  restarts=N/SECONDS        Start a daemon that has crashed again, but give up after N times
                            within SECONDS (default 5/60); 0: never
  hang=SECONDS              Take a daemon that has not answered for so long for crashed
                            (default 10); 0: never

Mount options of the daemon, as in 'weightfs mount -h' (an underscore does for a dash):
  base=DIR                  verify=tensor|off         memory=SIZE
  threads=N                 read-ahead=SIZE           passthrough=auto|off
  warm-on-open=off|stream|memory|wait                 cache=DIR
  cache-size=SIZE
  follow                    poll=SECONDS              keep=N|all
  warm=latest|none          pin-grace=SECONDS         advance-limit=SECONDS
  on-advance=COMMAND        metrics=ADDR:PORT|FILE    log-file=FILE
  log-level=trace|debug|info|warn|error|off

Put a value that holds a comma in double quotes. Write a backslash in a value as \\, and a
double quote as \".

Example:
  mount -t weightfs -o base=models/Qwen3-0.6B,follow runs/7/bucket /mnt/qwen
  /data/runs/7/bucket  /mnt/qwen  weightfs  follow,setuid=models,_netdev  0  0    # in /etc/fstab

Exit status: 0 mounted, 1 wrong usage or not permitted, 2 system error, 32 the mount failed.
)";

}  // namespace

std::string helper_help() { return kHelp; }

std::string helper_version() { return "mount.weightfs " WEIGHTFS_VERSION "\n"; }

}  // namespace weightfs::helper
