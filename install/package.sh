#!/bin/sh
# Makes packages of runns-exec: a .deb, an .rpm, and a tarball of the built programs with their installer. Root is not
# needed. The same sources, built with the same tools, give the same bytes.
#
#   install/package.sh [DIRECTORY]    where to put them (default: target/packages)
#
#   FORMATS             which to make (default: deb rpm tar)
#   VERSION             their version (default: that of Cargo.toml)
#   MAINTAINER          whom they name as their maintainer: NAME <ADDRESS>
#   SOURCE_DATE_EPOCH   the date of everything inside (default: that of the last commit)
#   TARGET              what they are for, as for build.sh (default: this machine)
#   RUNNS_EXEC_BINARY, RUNNS_EXEC_COMPLETIONS   as for install.sh
set -eu
umask 022
exec </dev/null

source=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
output=${1:-${CARGO_TARGET_DIR:-$source/target}/packages}
formats=${FORMATS:-deb rpm tar}
version=${VERSION:-$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$source/Cargo.toml")}
maintainer=${MAINTAINER:-The runns-exec authors <runns-exec@users.noreply.github.com>}
name=runns-exec

fail() {
    printf 'package.sh: %s\n' "$1" >&2
    [ -z "${2:-}" ] || printf 'hint: %s\n' "$2" >&2
    exit 1
}

need() {
    command -v "$1" >/dev/null 2>&1 || fail "cannot make a package: $1 is missing" "install the package $2, or choose others by FORMATS"
}

# Prints the date of the last commit, in seconds; of the changelog, where the sources are not a repository.
date_of_sources() {
    git -c safe.directory="$source" -C "$source" log -1 --format=%ct 2>/dev/null || stat -c %Y "$source/CHANGELOG.md"
}

formatted() {
    date --utc --date="@$SOURCE_DATE_EPOCH" "$1"
}

# The files as the installer lays them out, in $staged.
stage() {
    staged=$temporary/staged
    DESTDIR=$staged PREFIX=/usr "$source/install/install.sh" >"$temporary/install.log" ||
        fail "cannot make a package: install.sh failed: $(cat "$temporary/install.log")"
    ! readelf --program-headers --wide "$staged/usr/bin/$name" | grep -q INTERP ||
        fail 'cannot make a package: the program is linked dynamically' 'install the static C library (libc6-dev, glibc-static)'
    name_machine
}

# Sets $machine to the name of the program's machine in rpm, and $architecture to that in dpkg, by the header of the
# program (e_machine, elf(5)).
name_machine() {
    case $(od --address-radix=n --format=u2 --skip-bytes=18 --read-bytes=2 "$staged/usr/bin/$name") in
        *' 40') machine=armv7l architecture=armhf ;;
        *' 62') machine=x86_64 architecture=amd64 ;;
        *' 183') machine=aarch64 architecture=arm64 ;;
        *) machine=$(uname -m) architecture=$machine ;;
    esac
}

# The same in directory $1, with the manual pages compressed.
lay_out() {
    cp -Rp "$staged" "$1"
    gzip -9n "$1"/usr/share/man/man*/*
}

# dpkg-deb(1) and rpm take over the times of the files.
set_times() {
    find "$1" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
}

make_deb() {
    need dpkg-deb dpkg
    root=$temporary/deb
    documents=$root/usr/share/doc/$name
    lay_out "$root"
    mkdir -p "$root/usr/share/zsh/vendor-completions" "$root/usr/share/lintian/overrides" "$root/DEBIAN"
    mv "$root/usr/share/zsh/site-functions/_$name" "$root/usr/share/zsh/vendor-completions/"
    rmdir "$root/usr/share/zsh/site-functions"
    cp "$source/CHANGELOG.md" "$documents/changelog"
    {
        printf '%s (%s-1) unstable; urgency=medium\n\n  * See changelog.gz.\n\n' "$name" "$version"
        printf ' -- %s  %s\n' "$maintainer" "$(formatted '+%a, %d %b %Y %H:%M:%S +0000')"
    } >"$documents/changelog.Debian"
    gzip -9n "$documents/changelog" "$documents/changelog.Debian"
    install -m 0644 "$source/install/debian/copyright" "$documents/copyright"
    install -m 0644 "$source/install/debian/lintian-overrides" "$root/usr/share/lintian/overrides/$name"
    for script in postinst prerm postrm; do
        install -m 0755 "$source/install/debian/$script" "$root/DEBIAN/"
    done
    echo /etc/runns.conf >"$root/DEBIAN/conffiles"
    printf 'interest-noawait /etc/apparmor.d/%s\n' openvpn wg >"$root/DEBIAN/triggers"
    (cd "$root" && find etc usr -type f | LC_ALL=C sort | xargs -d '\n' md5sum) >"$root/DEBIAN/md5sums"
    size=$(find "$root/etc" "$root/usr" -type f -printf '%s\n' | awk '{ size += int(($1 + 1023) / 1024) } END { print size }')
    {
        printf 'Package: %s\nVersion: %s-1\nArchitecture: %s\nMaintainer: %s\n' "$name" "$version" "$architecture" "$maintainer"
        printf 'Installed-Size: %s\n' "$size"
        cat "$source/install/debian/control"
    } >"$root/DEBIAN/control"
    chmod 0644 "$root/DEBIAN/conffiles" "$root/DEBIAN/triggers" "$root/DEBIAN/md5sums" "$root/DEBIAN/control"
    set_times "$root"
    # One thread: more would make other blocks.
    DPKG_DEB_THREADS_MAX=1 dpkg-deb --root-owner-group -Zxz --build "$root" "$output/${name}_$version-1_$architecture.deb" >/dev/null
}

make_rpm() {
    need rpmbuild rpm
    root=$temporary/rpm
    lay_out "$root"
    set_times "$root"
    rpmbuild --quiet -bb --target "$machine" \
        --define "staged $root" --define "our_version $version" --define "our_date $(formatted '+%a %b %d %Y')" --define "our_maintainer $maintainer" \
        --define "sources $source" --define "_topdir $temporary/rpmbuild" --define "_rpmdir $temporary/rpms" \
        --define '_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm' \
        --define '_buildhost localhost' --define 'use_source_date_epoch_as_buildtime 1' \
        --define 'clamp_mtime_to_source_date_epoch 1' --define 'source_date_epoch_from_changelog 0' \
        --define '_binary_payload w6.xzdio' \
        "$source/install/rpm/$name.spec" >"$temporary/rpmbuild.log" 2>&1 ||
        fail "cannot make an rpm: $(tail -n 20 "$temporary/rpmbuild.log")"
    mv "$temporary/rpms"/*.rpm "$output/"
}

make_tarball() {
    root=$temporary/tar/$name-$version-$machine
    mkdir -p "$root"
    cp -R "$source/README.md" "$source/CHANGELOG.md" "$source/LICENSE-MIT" "$source/LICENSE-APACHE" "$source/docs" "$source/install" "$root/"
    mkdir "$root/built"
    cp "$staged/usr/bin/$name" "$staged/usr/libexec/$name/$name-root" "$root/built/"
    mkdir "$root/built/completions"
    grep '^completions/' "$source/install/files" | while read -r from to; do
        cp "$staged/usr/$to" "$root/built/$from"
    done
    tar --create --directory "$temporary/tar" --sort=name --format=gnu --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
        --mtime="@$SOURCE_DATE_EPOCH" "$name-$version-$machine" | gzip -9n >"$temporary/tarball"
    mv "$temporary/tarball" "$output/$name-$version-$machine.tar.gz"
}

[ $# -le 1 ] || fail 'usage: install/package.sh [DIRECTORY]'
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(date_of_sources)}
export SOURCE_DATE_EPOCH
LC_ALL=C
export LC_ALL
command -v readelf >/dev/null 2>&1 || fail 'cannot make a package: readelf is missing' 'install the package binutils'
temporary=$(mktemp -d)
trap 'rm -rf -- "$temporary"' EXIT
trap 'exit 1' HUP INT TERM
mkdir -p "$output"
output=$(cd "$output" && pwd)
stage
for format in $formats; do
    case $format in
        deb) make_deb ;;
        rpm) make_rpm ;;
        tar) make_tarball ;;
        *) fail "cannot make a $format: FORMATS consists of deb, rpm and tar" ;;
    esac
done
