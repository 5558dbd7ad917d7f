#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make bench: scripts/bench.py in the Debian root, as the host may have no Python; with its arguments.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

exec "$RMR_TOP/scripts/enter" "$RMR_TOP/scripts/bench.py" "$@"
