#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Loads each new version into a running vLLM server.
#
#   VLLM_SERVER_DEV_MODE=1 vllm serve /mnt/qwen/base --served-model-name qwen
#   VLLM_URL=http://localhost:8000 weightfs mount --follow --on-advance /path/to/vllm.sh \
#       --base models/Qwen3-0.6B runs/7 /mnt/qwen
#
# weightfs runs it after `latest` moved, with WEIGHTFS_PATH, the folder of the new version, and WEIGHTFS_VERSION in the
# environment.  The server reads the folder by the same path, so both must see the mount: vLLM ends when it is told to
# load what it cannot read.  The calls exist in development mode only (VLLM_SERVER_DEV_MODE=1): whoever reaches the port
# then commands the server, so keep it private.
#
# Generation is paused, every worker loads the folder in place, all that the old weights computed (the prefix cache, and
# the attention state of requests under way) is dropped, and generation goes on.  VLLM_PAUSE says what becomes of
# requests under way: `keep` holds them, so that their answers have tokens of both versions; `wait` lets them end first;
# `abort` ends them.  New requests wait meanwhile.  However the hook ends, short of SIGKILL, generation goes on.
#
# While no server is there yet it is tried again after RETRY_DELAYS seconds each.  Exit status 0: loaded.
set -eu

fail() {
  echo "vllm.sh: $*" >&2
  exit 1
}

: "${VLLM_URL:?is the URL of the server, such as http://localhost:8000}"
: "${WEIGHTFS_PATH:?is set by weightfs mount --on-advance}"
: "${WEIGHTFS_VERSION:?is set by weightfs mount --on-advance}"

# What would have to be escaped in JSON is refused: folders of models have plain names.
case "$WEIGHTFS_PATH$WEIGHTFS_VERSION" in
  *[\"\\]* | *[[:cntrl:]]*) fail "a quote, backslash or control character in the path '$WEIGHTFS_PATH'" ;;
esac
# It may have left the listing since (--keep), and vLLM would not survive the attempt.
[ -d "$WEIGHTFS_PATH" ] || fail "$WEIGHTFS_VERSION was not loaded; there is no folder '$WEIGHTFS_PATH'"
case "${VLLM_PAUSE:=keep}" in
  keep | wait | abort) ;;
  *) fail "VLLM_PAUSE is keep, wait or abort, not '$VLLM_PAUSE'" ;;
esac

# send SECONDS URL_PATH BODY: sets `answer`; the exit status is curl's
send() {
  answer=$(curl --silent --show-error --fail-with-body --max-time "$1" --header 'Content-Type: application/json' \
    --data "$3" "${VLLM_URL%/}$2" 2>&1)
}

# post URL_PATH BODY: nobody there is waited for, but not once the server has answered
delays=${RETRY_DELAYS:-1 2 4 8 15}
post() {
  for delay in $delays last; do
    status=0
    send "${LOAD_SECONDS:-280}" "$1" "$2" || status=$?
    case $status in
      0) delays= && return 0 ;;
      6 | 7) [ "$delay" = last ] || { sleep "$delay"; continue; } ;; # nobody there
    esac
    fail "$WEIGHTFS_VERSION was not loaded; $VLLM_URL$1 said: $answer"
  done
}

# A pause that timed out may still come into force, so this follows every one.
resume() {
  result=$?
  trap - EXIT
  status=0
  send 3 /resume '{}' || status=$?
  case $status in
    0) ;;
    6 | 7) result=1 ;; # nobody there, which was said
    *) result=1 && echo "vllm.sh: $VLLM_URL may still be paused; $VLLM_URL/resume said: $answer" >&2 ;;
  esac
  [ $result != 0 ] || echo "vllm.sh: $VLLM_URL has $WEIGHTFS_VERSION"
  exit $result
}

# Signals have to end by exit, or the shell leaves without resuming.
trap 'exit 1' HUP INT TERM
trap resume EXIT
post "/pause?mode=$VLLM_PAUSE" '{}'
post /collective_rpc "$(printf '{"method": "reload_weights", "kwargs": {"weights_path": "%s"}}' "$WEIGHTFS_PATH")"
# Without the argument, blocks that requests under way still hold would keep what the old weights computed.
post '/reset_prefix_cache?reset_running_requests=true' '{}'
case "$answer" in
  *'"success":'*true*) ;;
  *) fail "$WEIGHTFS_VERSION is loaded, but $VLLM_URL did not empty its prefix cache: $answer" ;;
esac
