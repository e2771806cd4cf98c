#!/bin/sh
# get-asl-validator.sh DIR: unpacks asl-validator, a checker of state machines, and Node.js into DIR (240 MB).
# Versions and hashes are pinned in nodejs.txt and asl-validator/package-lock.json.
#
# Needs no root. Does nothing if DIR is complete. DIR must not be moved.
set -eu
umask 022
[ $# -eq 1 ] || { echo "usage: get-asl-validator.sh DIR" >&2; exit 64; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
lock=$here/asl-validator/package-lock.json
fail() { echo "get-asl-validator.sh: $*" >&2; exit 1; }

"$here/get-python.sh" nodejs "$dir/node"
is_complete() { cmp -s "$lock" "$dir/complete"; }
if is_complete; then exit 0; fi
# Concurrent runs on one folder would damage each other's files.
if command -v flock >/dev/null 2>&1; then
  exec 9>"$dir/lock"
  flock 9
  if is_complete; then exit 0; fi
fi

echo "get-asl-validator.sh: fetching asl-validator into $dir" >&2
cp "$here/asl-validator/package.json" "$lock" "$dir"
PATH=$dir/node/venv/bin:$PATH
(cd "$dir" && npm ci --omit=dev --ignore-scripts --no-fund --no-audit) >"$dir/log" 2>&1 </dev/null ||
  { cat "$dir/log" >&2; fail "npm failed"; }
cat >"$dir/asl-validator" <<END
#!/bin/sh
exec "$dir/node/venv/bin/node" "$dir/node_modules/asl-validator/dist/bin/asl-validator.js" "\$@"
END
chmod 755 "$dir/asl-validator"
rm "$dir/log"
# Written last and atomically: it marks DIR as complete.
cp "$lock" "$dir/complete.new"
mv "$dir/complete.new" "$dir/complete"
