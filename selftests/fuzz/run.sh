#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# run.sh BOCHS OUTDIR: run OUTDIR/fuzz.iso and print what comes, up to its "end".
#
# What can be set is that of ../bare/run.sh.

set -u
if [ $# != 2 ]; then
	echo "usage: $0 BOCHS OUTDIR" >&2
	exit 2
fi
out=$(cd "$2" && pwd)
"$(dirname "$0")/../bare/run.sh" "$1" "$out/fuzz.iso" "$out" count=1 || exit 1
tr -d '\r' <"$out/console" | sed '/^$/d'
