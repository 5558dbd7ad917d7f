#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# scripts/payload.sh
#
# Builds what the test VMs are given besides their image (see "cluster help", --payload) and prints its folder:
#
#   modules/   rmr.ko, brmr.ko and the test modules
#   bin/       programs of tests/tools
#   etc/       what an installation puts into /etc: udev rules, modprobe.d
#
# RTRS and RNBD come with the kernel. Environment: KERNEL selects the kernel. Nothing here starts a VM.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

in_root || exec "$RMR_TOP/scripts/enter" "$0" "$@"

modules=$(RMR_TESTS=1 "$RMR_TOP/scripts/modules.sh")
step "building the test programs"
cargo build --quiet --release --locked --manifest-path "$RMR_TOP/Cargo.toml" -p rmr-tools >&2

payload=$RMR_CACHE/payload-${modules##*/build-}
lock "${payload##*/}"
new=$payload.new
rm -rf --one-file-system "$new"
mkdir -p "$new"/{modules,bin,etc/udev/rules.d,etc/modprobe.d}
find "$modules" -name '*.ko' -exec cp -t "$new/modules" {} +
cp "$CARGO_TARGET_DIR/release/rmr-iotest" "$new/bin/"
find "$RMR_TOP/udev" -name '*.rules' -exec cp -t "$new/etc/udev/rules.d" {} + 2>/dev/null || true
find "$RMR_TOP/modprobe.d" -name '*.conf' -exec cp -t "$new/etc/modprobe.d" {} + 2>/dev/null || true
rm -rf --one-file-system "$payload"
mv -T "$new" "$payload"
echo "$payload"
