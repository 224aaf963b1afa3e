#!/usr/bin/env bash
# Builds the BPF object that the agent embeds, reproducibly: ebpf/rung.bpf.o.
#
#   ebpf/build.sh          build and replace the committed object
#   ebpf/build.sh --check  build and compare; exit 1 if the committed object is not what the sources build to
#
# Needs Debian's `rustc-web cargo-web rust-web-src llvm-22-dev` and bpf-linker; `ebpf/build.sh --setup` installs them.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
linker_version=0.13.0

setup() {
    if ! dpkg -s rustc-web cargo-web rust-web-src llvm-22-dev >/dev/null 2>&1; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            rustc-web cargo-web rust-web-src llvm-22-dev
    fi
    if ! bpf-linker --version 2>/dev/null | grep -q " $linker_version"; then
        LLVM_PREFIX=/usr/lib/llvm-22 cargo install --locked bpf-linker --version "$linker_version" \
            --no-default-features --features llvm-22
    fi
}

build() {
    # Paths are remapped, so that the object does not depend on where it was built.
    local home=${CARGO_HOME:-$HOME/.cargo}
    cd "$here"
    RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="$here/target" RUSTUP_TOOLCHAIN='' \
    RUSTFLAGS="-Cdebuginfo=2 -Clinker=bpf-linker -Clink-arg=--btf --remap-path-prefix=$here=ebpf --remap-path-prefix=$home=cargo" \
        /usr/bin/cargo build --quiet --locked --release --target bpfel-unknown-none -Z build-std=core
    # What is not needed to load (DWARF) does not get committed.
    /usr/lib/llvm-22/bin/llvm-objcopy --strip-debug "$here/target/bpfel-unknown-none/release/rung" "$1"
}

case ${1:-} in
    --setup) setup ;;
    --check)
        built=$(mktemp)
        trap 'rm -f "$built"' EXIT
        build "$built"
        if ! cmp "$built" "$here/rung.bpf.o"; then
            echo "ebpf/rung.bpf.o is not what its sources build to: run ebpf/build.sh and commit the result" >&2
            exit 1
        fi
        echo "ebpf/rung.bpf.o matches its sources"
        ;;
    '') build "$here/rung.bpf.o" ;;
    *) echo "usage: ebpf/build.sh [--setup|--check]" >&2; exit 2 ;;
esac
