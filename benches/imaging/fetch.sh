#!/bin/sh
# Downloads the photos and the compared tools of the imaging bench into a cache folder; skips unavailable ones with a
# reason. They are not in the repository, because most photos are CC-BY-SA or GPL.
#
#     benches/imaging/fetch.sh [CACHE]        default: target/bench-imaging
#
# Needs: apt-get with working package lists, npm, cargo; vipsthumbnail (package libvips-tools) for the second peer.
set -u
cache=${1:-target/bench-imaging}
mkdir -p "$cache/photos" "$cache/download"
cache=$(cd "$cache" && pwd)
skip() { echo "skipped: $*" >&2; }

# Photos of a Debian binary package.
from_deb() {
    [ -e "$cache/download/$1.done" ] && return
    cd "$cache/download" || exit 1
    if ! apt-get download -qq "$1" 2>"$1.log"; then skip "$1: $(tail -n 1 "$1.log")"; return; fi
    mkdir -p "$1" && dpkg-deb -x "$1"_*.deb "$1" && touch "$1.done"
    n=0
    for photo in $(find "$1" -type f \( -name '*.jpg' -o -name '*.jpeg' \) -size +500k | sort); do
        cp "$photo" "$cache/photos/$1-$(basename "$photo")"; n=$((n + 1))
    done
    echo "$1: $n photos"
}

# The large photos of a Debian source package. Machines rarely list sources, so this keeps package lists of its own.
from_source() {
    [ -e "$cache/download/$1.done" ] && return
    cd "$cache/download" || exit 1
    mkdir -p lists/partial
    # The Debian mirror of this machine.
    mirror=$(apt-get indextargets --format '$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | sed -n 's/^Debian|//p' | head -n 1)
    [ -n "$mirror" ] || { skip "source of $1: apt knows no Debian mirror on this machine"; return; }
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bookworm main" >sources.list
    set -- "$1" -o Dir::Etc::SourceList="$PWD/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$PWD/lists"
    package=$1; shift
    [ -e lists.done ] || { apt-get "$@" update -qq >lists.log 2>&1 && touch lists.done; }
    if ! apt-get "$@" source -qq --download-only "$package" >"$package.log" 2>&1; then
        skip "source of $package: $(tail -n 1 "$package.log")"; return
    fi
    mkdir -p "$package" && tar -xaf "$(ls "$package"_*.orig.tar.?z | head -n 1)" -C "$package" && touch "$package.done"
    n=0
    for photo in $(find "$package" -type f \( -iname '*.jpg' -o -iname '*.jpeg' \) -size +1000k | sort); do
        cp "$photo" "$cache/photos/$package-$(basename "$photo")"; n=$((n + 1))
    done
    echo "source of $package: $n photos"
}

from_deb lomiri-wallpapers-20.04
from_deb lomiri-wallpapers-16.04
from_source pillow
from_source exiv2

# No package has a photo of 48 megapixels; an enlarged one has the size, but less detail.
big="$cache/photos/enlarged-48mp.jpg"
from="$cache/photos/lomiri-wallpapers-20.04-Kleiber_by_Lukas_Baubkus.jpg"
if [ ! -e "$big" ] && [ -e "$from" ] && command -v vips >/dev/null; then
    vips thumbnail "$from" "$big[Q=90,subsample_mode=on]" 8000 --height 6000 --size force && echo "48 MP: enlarged from 20 MP"
fi
[ -e "$big" ] || skip "enlarged-48mp.jpg: needs the command vips (libvips-tools) and lomiri-wallpapers-20.04"

if [ ! -e "$cache/peers/node_modules/sharp" ]; then
    mkdir -p "$cache/peers" && cd "$cache/peers" && npm init -y >/dev/null 2>&1
    npm install --silent --no-audit --no-fund sharp@0.35.5 >npm.log 2>&1 || npm install --silent --no-audit --no-fund sharp >npm.log 2>&1 || skip "sharp: $(tail -n 1 npm.log)"
fi
command -v vipsthumbnail >/dev/null || skip "vipsthumbnail: apt-get install libvips-tools"
