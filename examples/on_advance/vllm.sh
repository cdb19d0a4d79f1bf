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
# environment.  The server reads the folder by the same path, so both must see the mount.  The calls exist in
# development mode only (VLLM_SERVER_DEV_MODE=1): whoever reaches the port then commands the server, so keep it private.
# Every worker loads the folder in place; then the prefix cache, which holds what the old weights computed, is emptied.
# Requests that are being answered meanwhile may have tokens of both.
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

# post URL_PATH BODY
post() {
  for delay in ${RETRY_DELAYS:-1 2 4 8 15} last; do
    status=0
    answer=$(curl --silent --show-error --fail-with-body --max-time "${LOAD_SECONDS:-280}" \
      --header 'Content-Type: application/json' --data "$2" "${VLLM_URL%/}$1" 2>&1) || status=$?
    case $status in
      0) return 0 ;;
      6 | 7) [ "$delay" = last ] || { sleep "$delay"; continue; } ;; # nobody there
    esac
    fail "$WEIGHTFS_VERSION was not loaded; $VLLM_URL$1 said: $answer"
  done
}

post /collective_rpc "$(printf '{"method": "reload_weights", "kwargs": {"weights_path": "%s"}}' "$WEIGHTFS_PATH")"
post /reset_prefix_cache '{}'
echo "vllm.sh: $VLLM_URL has $WEIGHTFS_VERSION"
