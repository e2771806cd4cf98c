#!/bin/sh
# get-mysql.sh DIR [PACKAGE...]: unpacks a MySQL server with all its libraries into DIR (54 MB download, 350 MB).
#
# Needs no root: unpacks packages of Debian unstable, including the C library, and runs them by their own loader. Does
# nothing if DIR is complete; continues an interrupted run. DIR may be moved.
#
# Provides DIR/mysqld, DIR/mysql and DIR/mysqladmin. Set DARKROOM_MYSQLD=DIR/mysqld for Darkroom's private server.
# PACKAGE names further packages to unpack.
set -eu
umask 022
[ $# -ge 1 ] || { echo "usage: get-mysql.sh DIR [PACKAGE...]" >&2; exit 64; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)
shift
packages="mysql-server-core mysql-client-core $*"
stamp="$dir/complete"
# Changes with the wrappers below, so that an old DIR is updated.
edition="2 $packages"

fail() { echo "get-mysql.sh: $*" >&2; exit 1; }

is_complete() { [ "$(cat "$stamp" 2>/dev/null)" = "$edition" ] && "$dir/mysqld" --no-defaults --version >/dev/null 2>&1; }
if is_complete; then exit 0; fi
case $(uname -m) in
  x86_64) triplet=x86_64-linux-gnu loader=ld-linux-x86-64.so.2 architecture=amd64 ;;
  aarch64) triplet=aarch64-linux-gnu loader=ld-linux-aarch64.so.1 architecture=arm64 ;;
  *) fail "no MySQL packages for $(uname -m)" ;;
esac
for program in apt-get dpkg-deb; do
  command -v $program >/dev/null 2>&1 || fail "$program is needed: only Debian and derived systems are supported"
done
# Concurrent runs on one folder would damage each other's files.
if command -v flock >/dev/null 2>&1; then
  exec 9>"$dir/lock"
  flock 9
  if is_complete; then exit 0; fi
fi

apt="$dir/apt"
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
# The Debian mirror of this machine.
mirror=$(apt-get indextargets --format '$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | sed -n 's/^Debian|//p' | head -n 1)
[ -n "$mirror" ] || fail "apt knows no Debian mirror on this machine"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e $keyring ] || fail "$keyring is missing: install debian-archive-keyring"
echo "deb [arch=$architecture signed-by=$keyring] $mirror sid main" >"$apt/sources.list"
# An empty list of installed packages makes apt download every library, including the C library. Perl is listed as
# installed, because only unused scripts need it.
for package in perl perl-base mysql-common; do
  printf 'Package: %s\nStatus: install ok installed\nVersion: 99\nArchitecture: %s\nMulti-Arch: allowed\nMaintainer: x\nDescription: x\n\n' \
    $package $architecture
done >"$apt/status"
cat >"$apt/apt.conf" <<EOF
APT::Architecture "$architecture";
APT::Architectures { "$architecture"; };
APT::Sandbox::User "$(id -un)";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::Languages "none";
Acquire::Retries "3";
Debug::NoLocking "true";
Dir::Cache "$apt/cache";
Dir::Etc::preferencesparts "/nonexistent";
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "/nonexistent";
Dir::Log "$apt";
Dir::State "$apt";
Dir::State::lists "$apt/lists";
Dir::State::status "$apt/status";
EOF
APT_CONFIG="$apt/apt.conf"
export APT_CONFIG
quietly() { # shows what a command said only when it failed
  "$@" >"$apt/log" 2>&1 </dev/null || { cat "$apt/log" >&2; fail "failed: $*"; }
}
echo "get-mysql.sh: fetching a MySQL server into $dir" >&2
quietly apt-get -q update
# An interrupted run may have downloaded older versions. Partial downloads are continued.
quietly apt-get -q autoclean
# shellcheck disable=SC2086 # a list of words
quietly apt-get -q -y --no-install-recommends --download-only install $packages

# Unpacked into another folder and moved atomically.
root="$dir/root.new"
rm -rf "$root"
mkdir "$root"
for package in "$apt/cache/archives"/*.deb; do quietly dpkg-deb -x "$package" "$root"; done
# Packages may merge /lib into /usr/lib by a maintainer script.
for lib in lib lib64; do [ -e "$root/$lib" ] || ln -s usr/$lib "$root/$lib"; done
rm -rf "$dir/root"
mv "$root" "$dir/root"

# Relocatable wrappers. The server gets the paths of its messages and plugins; an option that must come first stays
# first.
for program in sbin/mysqld bin/mysql bin/mysqladmin; do
  name=${program##*/}
  {
    cat <<EOF
#!/bin/sh
# made by get-mysql.sh
root=\$(cd "\$(dirname "\$(readlink -f "\$0")")" && pwd)/root
first=
case \${1:-} in --no-defaults | --print-defaults | --defaults-file=* | --defaults-extra-file=*) first=\$1; shift ;; esac
EOF
    # shellcheck disable=SC2016 # for the wrapper to expand
    [ "$name" != mysqld ] ||
      echo 'set -- --basedir="$root/usr" --lc-messages-dir="$root/usr/share/mysql" --plugin-dir="$root/usr/lib/mysql/plugin" "$@"'
    cat <<EOF
exec "\$root/usr/lib/$triplet/$loader" --library-path "\$root/usr/lib/$triplet" "\$root/usr/$program" \${first:+"\$first"} "\$@"
EOF
  } >"$dir/$name.new"
  chmod 755 "$dir/$name.new"
  mv "$dir/$name.new" "$dir/$name"
done
"$dir/mysqld" --no-defaults --version >&2 || fail "the unpacked server doesn't run"
echo "$edition" >"$stamp"
# The packages are no longer needed, and the lists would be stale next time.
rm -rf "$apt"
