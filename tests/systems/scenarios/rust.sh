# shellcheck shell=bash disable=SC2034,SC2154
# Debian 13's own Rust builds the programs: it is the oldest version that they may need.
rust_of_debian13=1.85
time_limit=1200
[ "$release" != debian13 ] || packages='cargo gcc libc6-dev'

# The sources, and the crates as run.sh has fetched them.
prepare() {
    [ -n "$packages" ] || return 0
    local crates=$program/../crates
    mkdir -p "$root/srv/source/.cargo"
    tar -c -C "$source" --exclude=./target --exclude=./.git . | tar -x -C "$root/srv/source"
    cp -R "$crates" "$root/srv/crates"
    sed 's|^directory = .*|directory = "/srv/crates"|' "$crates.toml" >"$root/srv/source/.cargo/config.toml"
}

scenario() {
    if [ -z "$packages" ]; then
        not_run 'building with the distribution'"'"'s Rust' "$release has an older one than is needed"
        return
    fi
    says 'the version' "rustc $rust_of_debian13." in_system 'rustc --version'
    says 'the manifest names it' "rust-version = \"$rust_of_debian13\"" in_system 'grep rust-version /srv/source/Cargo.toml'
    limit=$time_limit ok 'the programs compile' \
        in_system 'cd /srv/source && exec cargo check --quiet --offline --locked --workspace'
}
