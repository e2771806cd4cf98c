#!/bin/sh
# get-ministack.sh DIR: ministack, an emulator of AWS, in a Python environment of its own under DIR (91 MB there).
# Everything is pinned by version and hash in ministack.txt.
#
# Nothing is installed and no root is needed. Does nothing when DIR is complete; begins anew where an interrupted run
# stopped. DIR may not be moved: a Python environment knows its own path.
#
# Afterwards DIR/ministack runs; DARKROOM_MINISTACK=DIR/ministack is all that the tests need.
set -eu
umask 022
[ $# -eq 1 ] || { echo "usage: get-ministack.sh DIR" >&2; exit 64; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)
pins=$(cd "$(dirname "$0")" && pwd)/ministack.txt
stamp="$dir/complete"

fail() { echo "get-ministack.sh: $*" >&2; exit 1; }

# The pins themselves are the stamp, so that others bring an old DIR up to date. That it still runs is tried, too: an
# update of the system's Python breaks an environment.
is_complete() { cmp -s "$pins" "$stamp" && "$dir/venv/bin/python" -c 'import ministack' >/dev/null 2>&1; }
if is_complete; then exit 0; fi
/usr/bin/python3 -c 'import ensurepip, venv' >/dev/null 2>&1 ||
  fail "python3 with python3-venv is needed: tests/bed/install-packages test"
# Two at a time on one folder would tear each other's files.
if command -v flock >/dev/null 2>&1; then
  exec 9>"$dir/lock"
  flock 9
  if is_complete; then exit 0; fi
fi

quietly() { # shows what a command said only when it failed
  "$@" >"$dir/log" 2>&1 </dev/null || { cat "$dir/log" >&2; fail "failed: $*"; }
}
echo "get-ministack.sh: fetching an emulator of AWS into $dir" >&2
rm -f "$stamp"
quietly /usr/bin/python3 -m venv --clear "$dir/venv"
quietly "$dir/venv/bin/python" -m pip install --disable-pip-version-check --no-deps --require-hashes -r "$pins"
quietly "$dir/venv/bin/python" -c 'import ministack'
ln -sf venv/bin/ministack "$dir/ministack"
# Written last, in one step.
cp "$pins" "$stamp.new"
mv "$stamp.new" "$stamp"
rm -f "$dir/log"
