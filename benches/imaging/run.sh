#!/bin/sh
# Runs the imaging bench: downloads photos and tools, builds, and prints the table on one core.
#
#     benches/imaging/run.sh [CACHE] [ROUNDS]       default: target/bench-imaging 7
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
cache=${1:-target/bench-imaging}
"$here/fetch.sh" "$cache" >&2
cargo bench --no-run --bench imaging
exec taskset -c "${CORE:-0}" cargo bench --quiet --bench imaging -- --cache "$cache" --rounds "${2:-7}"
