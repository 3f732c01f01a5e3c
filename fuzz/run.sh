#!/bin/sh
# Builds the fuzz targets and runs each of them: fuzz/run.sh [SECONDS [TARGET]...]
#
# A nightly toolchain is not needed: the compiler's options for libFuzzer are stable, and without the sanitizers, safe Rust
# still finds out about what it panics at. Inputs that reach new code are kept in target/fuzz/corpus, where the next run
# begins; those in fuzz/seeds are where the first one does.
#
#   FUZZ_JOBS           how many targets to run at a time (default: 2)
#   CARGO_TARGET_DIR    as for cargo
set -eu
umask 022
exec </dev/null
cd "$(dirname -- "$0")"
directory=${CARGO_TARGET_DIR:-$PWD/../target}/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
programs=$directory/$host/release

# What cargo-fuzz gives to the compiler, but for the sanitizers.
build() {
    flags='--cfg fuzzing -Cdebug-assertions -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4'
    for option in inline-8bit-counters pc-table trace-compares; do
        flags="$flags -Cllvm-args=-sanitizer-coverage-$option"
    done
    # The crates in the versions that the programs have. With --target, build scripts get none of these options.
    cp ../Cargo.lock Cargo.lock
    RUSTFLAGS=$flags cargo build --quiet --release --target "$host" --target-dir "$directory"
}

# Runs target $2 for $1 seconds, and prints what became of it.
run() {
    log=$directory/$2.log
    mkdir -p "$directory/corpus/$2" "$directory/failures"
    if timeout --kill-after=10 $(($1 + 60)) "$programs/$2" -max_total_time="$1" -timeout=10 -rss_limit_mb=2048 -max_len=8192 \
        -artifact_prefix="$directory/failures/$2-" "$directory/corpus/$2" "seeds/$2" >"$log" 2>&1; then
        printf 'ok      fuzz %s: %s\n' "$2" "$(sed -n 's/^Done //p' "$log")"
    else
        printf 'FAILED  fuzz %s: see %s\n' "$2" "$log"
        grep -e panicked -e ERROR -e 'Test unit written' -A 2 "$log" || tail -n 20 "$log"
        return 1
    fi
}

if [ "${1:-}" = --one ]; then
    run "$2" "$3"
    exit
fi
seconds=${1:-60}
[ $# = 0 ] || shift
build
[ $# -gt 0 ] || set -- fuzz_targets/*.rs
for target; do
    basename "$target" .rs
done | xargs -P "${FUZZ_JOBS:-2}" -I'{}' ./run.sh --one "$seconds" '{}'
