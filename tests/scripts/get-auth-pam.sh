#!/bin/sh
# get-auth-pam.sh [DIR]: prints the path of MariaDB's auth_pam.so, which the package mariadb-server-core lacks.
#
# For tests of IAM authentication: the plugin calls a helper program for each login, which the tests replace. If the
# plugin is not installed with the server, the script downloads Debian's package mariadb-server of the same version
# (4 MB) and unpacks the plugin into DIR (default ~/.cache/darkroom/auth-pam). Needs no root.
#
# Prints nothing if MariaDB is not installed.
set -eu
umask 022
PATH=${PATH:-/usr/bin:/bin}:/usr/sbin:/usr/local/sbin:/usr/libexec
export PATH
dir=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/darkroom/auth-pam}

fail() { echo "get-auth-pam.sh: $*" >&2; exit 1; }

# The server that the tests will find: mysqld may be MariaDB.
server=
for program in "${DARKROOM_MYSQLD:-mysqld}" "${DARKROOM_MARIADBD:-mariadbd}"; do
  said=$("$program" --no-defaults --version 2>/dev/null) || continue
  case $said in *MariaDB*) server=$program; break ;; esac
done
[ -n "$server" ] || exit 0

beside=$("$server" --no-defaults --verbose --help 2>/dev/null | sed -n 's/^plugin-dir  *//p')
if [ -e "$beside/auth_pam.so" ]; then
  echo "$beside/auth_pam.so"
  exit 0
fi

# `Ver 10.11.19-MariaDB-0+deb12u1 for ...` is Debian's 10.11.19-0+deb12u1.
version=$(echo "$said" | sed -n 's/.* Ver \([0-9.]*\)-MariaDB-\([^ ]*\) for .*/\1-\2/p')
[ -n "$version" ] || fail "not a Debian package: $said; copy its auth_pam.so to $beside"
plugin="$dir/$version/auth_pam.so"
mkdir -p "$dir"
# Concurrent runs on one folder would damage each other's files.
if command -v flock >/dev/null 2>&1; then
  exec 9>"$dir/lock"
  flock 9
fi
if [ -e "$plugin" ]; then
  echo "$plugin"
  exit 0
fi
for program in apt-get apt-cache dpkg-deb; do
  command -v $program >/dev/null 2>&1 || fail "$program is needed: only Debian and derived systems are supported"
done

work="$dir/work"
rm -rf "$work"
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/root"
quietly() { # shows what a command said only when it failed
  "$@" >"$work/log" 2>&1 </dev/null || { cat "$work/log" >&2; fail "failed: $*"; }
}
# The version with its epoch, as apt knows it.
known() {
  apt-cache madison mariadb-server 2>/dev/null |
    awk -v wanted="$version" '{ bare = $3; sub(/^[0-9]+:/, "", bare); if (bare == wanted) { print $3; exit } }'
}
cat >"$work/apt.conf" <<EOF
APT::Sandbox::User "$(id -un)";
Acquire::Retries "3";
EOF
APT_CONFIG="$work/apt.conf"
export APT_CONFIG
echo "get-auth-pam.sh: fetching MariaDB's auth_pam.so" >&2
found=$(known)
if [ -z "$found" ]; then
  # The package lists of this machine are empty or old: download new ones into a private folder.
  cat >>"$APT_CONFIG" <<EOF
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::Languages "none";
Debug::NoLocking "true";
Dir::Cache "$work/cache";
Dir::State::lists "$work/lists";
EOF
  quietly apt-get -q update
  found=$(known)
fi
[ -n "$found" ] || fail "apt has no mariadb-server $version: update mariadb-server-core"
(cd "$work" && quietly apt-get -q download "mariadb-server=$found")
quietly dpkg-deb -x "$work"/mariadb-server_*.deb "$work/root"
mkdir -p "$dir/$version"
# Moved last and atomically.
mv "$(find "$work/root" -name auth_pam.so)" "$plugin"
rm -rf "$work"
echo "$plugin"
