# shellcheck shell=bash disable=SC2034,SC2154
# Debian 13's own Rust builds the programs: it is the oldest version that they may need. With Debian's cross compiler, it
# makes the packages for aarch64, too, which are left in arm64 beside $program.
rust_of_debian13=1.85
time_limit=2400
[ "$release" != debian13 ] ||
    packages='cargo gcc libc6-dev libstd-rust-dev:arm64 gcc-aarch64-linux-gnu libc6-dev-arm64-cross rpm'

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
    for_aarch64
}

for_aarch64() {
    local kept=$program/../arm64 file
    limit=$time_limit ok 'the packages for aarch64 are made' in_system 'cd /srv/source &&
        CARGO_NET_OFFLINE=true TARGET=aarch64-unknown-linux-gnu exec install/package.sh /srv/packages' || return
    says 'the .deb is for arm64' arm64 in_system 'dpkg-deb --field /srv/packages/*_arm64.deb Architecture'
    says 'the .rpm is for aarch64' aarch64 in_system 'rpm --query --package --queryformat "%{ARCH}" /srv/packages/*.aarch64.rpm'
    ok 'the tarball' in_system 'tar -x -z -C /srv -f /srv/packages/*-aarch64.tar.gz'
    for file in runns-exec runns-exec-root; do
        says "$file is for aarch64" AArch64 in_system "readelf --file-header /srv/*-aarch64/built/$file"
        refused "$file is static" in_system "readelf --program-headers /srv/*-aarch64/built/$file | grep INTERP"
    done
    refused 'the program that has capabilities is small' in_system 'find /srv/*-aarch64/built/runns-exec -size +1200000c | grep .'
    rm -rf "$kept"
    cp -R "$root/srv/packages" "$kept"
}
