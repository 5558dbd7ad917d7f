#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Formats all Rust sources of the checkout in place, as scripts/check.sh wants them. With arguments, only these.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

in_root || exec "$RMR_TOP/scripts/enter" "$0" "$@"

if [ $# -eq 0 ]; then
	cd "$RMR_TOP"
	mapfile -t files < <(git ls-files --cached --others --exclude-standard -- '*.rs')
	set -- "${files[@]}"
fi
for file; do
	[ -f "$file" ] || continue
	# By standard input, as rustfmt would format the modules that a file names as well.
	new=$(rustfmt --edition 2021 --config-path "$RMR_TOP/rustfmt.toml" <"$file" && echo .) || die "$file cannot be formatted"
	if ! cmp -s "$file" <(printf %s "${new%.}"); then
		printf %s "${new%.}" >"$file"
		echo "$file"
	fi
done
