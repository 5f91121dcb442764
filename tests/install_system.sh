#!/bin/sh
# bubblewrap (the jail) and chromium (the browser tests), where this machine lets us install them.
set -u
missing=""
command -v bwrap >/dev/null 2>&1 || missing="$missing bubblewrap"
command -v chromium >/dev/null 2>&1 || missing="$missing chromium"
[ -n "$missing" ] || exit 0
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    echo "Installing$missing"
    # shellcheck disable=SC2086
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; } \
        >/tmp/bit-for-bit-apt.log 2>&1 || { echo "could not install$missing (see /tmp/bit-for-bit-apt.log)"; }
else
    echo "Not installed:$missing. The tests that need them will be skipped. On Debian or Ubuntu: sudo apt-get install$missing"
fi
exit 0
