#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Loads each new version into a running SGLang server.
#
#   SGLANG_URL=http://localhost:30000 weightfs mount --follow --on-advance /path/to/sglang.sh \
#       --base models/Qwen3-0.6B runs/7 /mnt/qwen
#
# weightfs runs it after `latest` moved, with WEIGHTFS_PATH, the folder of the new version, and WEIGHTFS_VERSION in the
# environment.  The server reads the folder by the same path, so both must see the mount.  It ends what it is answering,
# lets new requests wait, loads, and drops its prefix cache; its answers carry the version as `weight_version`.
# LOAD_SECONDS bounds all that, so it must be more than the longest answer takes.  A server with --api-key wants
# `header = "Authorization: Bearer KEY"` in the ~/.curlrc of who mounts.
#
# While no server is there yet it is tried again after RETRY_DELAYS seconds each.  Exit status 0: loaded.
set -eu

fail() {
  echo "sglang.sh: $*" >&2
  exit 1
}

: "${SGLANG_URL:?is the URL of the server, such as http://localhost:30000}"
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
      --header 'Content-Type: application/json' --data "$2" "${SGLANG_URL%/}$1" 2>&1) || status=$?
    case $status in
      0) return 0 ;;
      6 | 7) [ "$delay" = last ] || { sleep "$delay"; continue; } ;; # nobody there
    esac
    fail "$WEIGHTFS_VERSION was not loaded; $SGLANG_URL$1 said: $answer"
  done
}

post /update_weights_from_disk \
  "$(printf '{"model_path": "%s", "weight_version": "%s"}' "$WEIGHTFS_PATH" "$WEIGHTFS_VERSION")"
echo "sglang.sh: $SGLANG_URL has $WEIGHTFS_VERSION"
