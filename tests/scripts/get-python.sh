#!/bin/sh
# get-python.sh NAME DIR: installs the programs of NAME.txt into a Python environment, as DIR/venv/bin/PROGRAM.
# Versions and hashes are pinned in that file. Sizes: ministack 91 MB, checkers 358 MB, checkov 290 MB, nodejs 230 MB.
#
# Needs no root. Does nothing if DIR is complete; restarts after an interrupted run. DIR must not be moved, because a
# Python environment contains its path.
set -eu
umask 022
[ $# -eq 2 ] || { echo "usage: get-python.sh NAME DIR" >&2; exit 64; }
name=$1
pins=$(cd "$(dirname "$0")" && pwd)/$name.txt
fail() { echo "get-python.sh: $*" >&2; exit 1; }
[ -e "$pins" ] || fail "there is no $pins"
mkdir -p "$2"
dir=$(cd "$2" && pwd)
stamp="$dir/complete"

# The list of pins marks DIR as complete, so that new pins update it. Python is also run, because an update of the
# system's Python breaks an environment.
pinned() { grep -v '^#' "$1" 2>/dev/null; }
first=$(pinned "$pins" | sed -n '1s/==.*//p')
is_complete() {
  [ "$(pinned "$stamp")" = "$(pinned "$pins")" ] &&
    "$dir/venv/bin/python" -c "import importlib.metadata as m; m.version('$first')" >/dev/null 2>&1
}
if is_complete; then exit 0; fi
/usr/bin/python3 -c 'import ensurepip, venv' >/dev/null 2>&1 ||
  fail "python3 with python3-venv is needed: tests/scripts/install-packages test"
# Concurrent runs on one folder would damage each other's files.
if command -v flock >/dev/null 2>&1; then
  exec 9>"$dir/lock"
  flock 9
  if is_complete; then exit 0; fi
fi

quietly() { # shows what a command said only when it failed
  "$@" >"$dir/log" 2>&1 </dev/null || { cat "$dir/log" >&2; fail "failed: $*"; }
}
echo "get-python.sh: fetching $name into $dir" >&2
rm -f "$stamp"
quietly /usr/bin/python3 -m venv --clear "$dir/venv"
quietly "$dir/venv/bin/python" -m pip install --disable-pip-version-check --no-deps --require-hashes -r "$pins"
# Written last and atomically: it marks DIR as complete.
cp "$pins" "$stamp.new"
mv "$stamp.new" "$stamp"
rm -f "$dir/log"
