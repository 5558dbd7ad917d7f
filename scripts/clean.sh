#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# scripts/clean.sh [--all]
#
# Removes from the cache what was built from a checkout; with --all everything, so that the next run needs the
# network again.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

as_root "$0" "$@"
case ${1:-} in
--all) rm -rf --one-file-system "${RMR_CACHE:?}"/* ;;
"") rm -rf --one-file-system "${RMR_CACHE:?}"/build-* "${RMR_CACHE:?}"/target ;;
*) die "unknown argument '$1'" ;;
esac
