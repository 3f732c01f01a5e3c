#!/bin/sh
# Builds the two programs as they are installed: static, optimized for size. Prints the directory that they are in.
#
#   CARGO_TARGET_DIR    where to build (default: target in the source directory)
#   TARGET              what to build for, as rustc calls it (default: this machine). For aarch64-unknown-linux-gnu:
#                       its standard library, and the linker aarch64-linux-gnu-gcc with a static C library
set -eu
cd "$(dirname -- "$0")/.."
target_dir=${CARGO_TARGET_DIR:-$PWD/target}
host=$(rustc -vV | sed -n 's/^host: //p')
target=${TARGET:-$host}
# A static program needs no loading and linking at each start, and never runs an NSS module with privileges. The
# builder's own directories are not named in it.
flags="-C relocation-model=static --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/registry/src=crates"
# With frame pointers, the tables for unwinding are a fifth smaller, and profilers can follow the stack.
flags="$flags -C force-frame-pointers=yes --remap-path-prefix=$PWD=runns-exec"
flags="$flags --remap-path-prefix=$target_dir=target"
# The crate const-random, which the INI reader brings, makes numbers up at build time: the same ones for the same sources.
export CONST_RANDOM_SEED=runns-exec
[ "$target" = "$host" ] || flags="$flags -C linker=${target%%-*}-linux-gnu-gcc"
# Apart from each other, so that neither program decides about the features of the other's crates.
build() {
    for program in runns-exec runns-exec-root; do
        RUSTFLAGS="$flags $1" cargo build --release --locked --target "$target" --target-dir "$target_dir" \
            -p "$program" </dev/null >&2 || return 1
    done
}
static='-C target-feature=+crt-static'
# Some systems lack the static C library. Any other failure is one.
mkdir -p "$target_dir"
# shellcheck disable=SC2086 # a list of words
if printf 'fn main() {}\n' | rustc $flags $static --target "$target" --crate-name probe -o "$target_dir/static-probe" - 2>/dev/null; then
    rm -f "$target_dir/static-probe"
    build "$static"
else
    echo 'build.sh: note: cannot build static programs here; building dynamically linked ones instead' >&2
    build ''
fi
printf '%s\n' "$target_dir/$target/release"
