#!/bin/sh
# get-python.sh NAME DIR: the programs of NAME.txt in a Python environment of their own, as DIR/venv/bin/PROGRAM.
# Everything is pinned by version and hash in that file. How much it takes: ministack 91 MB, checkers 358 MB, checkov 290 MB,
# nodejs 230 MB.
#
# Nothing is installed and no root is needed. Does nothing when DIR is complete; begins anew where an interrupted run
# stopped. DIR may not be moved: a Python environment knows its own path.
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

# The pins themselves are the stamp, so that others bring an old DIR up to date. That it still runs is tried, too: an
# update of the system's Python breaks an environment.
pinned() { grep -v '^#' "$1" 2>/dev/null; }
first=$(pinned "$pins" | sed -n '1s/==.*//p')
is_complete() {
  [ "$(pinned "$stamp")" = "$(pinned "$pins")" ] &&
    "$dir/venv/bin/python" -c "import importlib.metadata as m; m.version('$first')" >/dev/null 2>&1
}
if is_complete; then exit 0; fi
/usr/bin/python3 -c 'import ensurepip, venv' >/dev/null 2>&1 ||
  fail "python3 with python3-venv is needed: tests/scripts/install-packages test"
# Two at a time on one folder would tear each other's files.
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
# Written last, in one step.
cp "$pins" "$stamp.new"
mv "$stamp.new" "$stamp"
rm -f "$dir/log"
