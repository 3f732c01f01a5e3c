#!/bin/sh
# Builds the last release, that is the commit in tests/LAST_RELEASE, as its own package.sh does, and prints the path of the
# tarball. It is built once and kept in target/last-release, without the optimizations that take most of the time. Exit status
# 3 says that these sources do not have the history.
set -eu
umask 022
exec </dev/null
cd "$(dirname -- "$0")/.."
source=$PWD
commit=$(grep -v '^#' tests/LAST_RELEASE)
directory=${CARGO_TARGET_DIR:-$source/target}/last-release
tarball=$directory/$commit.tar.gz

fail() {
    printf 'last-release.sh: cannot build the last release: %s\n' "$1" >&2
    printf 'hint: %s\n' "$2" >&2
    exit "${3:-1}"
}

repository() {
    git -c safe.directory="$source" "$@"
}

if [ ! -e "$tarball" ]; then
    repository rev-parse --git-dir >/dev/null 2>&1 ||
        fail 'these sources are no git repository' 'clone the repository' 3
    repository cat-file -e "$commit^{commit}" 2>/dev/null ||
        fail "the repository does not contain commit $commit" 'if the clone is shallow: git fetch --unshallow' 3
    rm -rf "$directory/source" "$directory/tarball"
    mkdir -p "$directory/source"
    repository archive "$commit" | tar -x -C "$directory/source"
    CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
        CARGO_TARGET_DIR=$directory/target RUNNS_EXEC_BINARY='' RUNNS_EXEC_COMPLETIONS='' FORMATS=tar \
        "$directory/source/install/package.sh" "$directory/tarball" >"$directory/log" 2>&1 ||
        fail "$(tail -n 5 "$directory/log")" "see $directory/log"
    mv "$directory/tarball"/*.tar.gz "$tarball"
    rm -rf "$directory/target" "$directory/source"
fi
printf '%s\n' "$tarball"
