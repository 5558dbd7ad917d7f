#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Prints the series of the other kernel that is supported: what the one that KERNEL selects is not.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

case $(<"$("$RMR_TOP/scripts/kernel.sh")/version") in
7.2.*) echo 7.3 ;;
*) echo 7.2 ;;
esac
