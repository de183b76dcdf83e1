#!/bin/sh
# Installs what the tests need beyond the Rust toolchain, when it is missing.
set -eu

missing=""
for pair in curl:curl; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
[ -z "$missing" ] && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "the tests need:$missing; install them by hand, this is no Debian machine" >&2
    exit 1
fi
run=""
[ "$(id -u)" -eq 0 ] || run="sudo"
$run apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive $run apt-get install -y -qq --no-install-recommends $missing
