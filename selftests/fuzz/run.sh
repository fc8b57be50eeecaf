#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# run.sh BOCHS OUTDIR: run OUTDIR/fuzz.iso and print what comes, up to its "end".
# The processor has no counters that guests have not, which are those of AMD's data
# fabric and L3 cache.
#
# What can be set is that of ../bare/run.sh; with LATE PMIs come up to so many
# instructions late.

set -u
if [ $# != 2 ]; then
	echo "usage: $0 BOCHS OUTDIR" >&2
	exit 2
fi
out=$(cd "$2" && pwd)
cpus=count=1
[ "${CPU:-intel}" = intel ] || cpus+=', exclude_features="perfctr_nb, perfctr_llc"'
lines=()
[ "${LATE:-0}" = 0 ] || lines=("pmi: delay=$LATE, seed=1")
"$(dirname "$0")/../bare/run.sh" "$1" "$out/fuzz.iso" "$out" "$cpus" "${lines[@]}" || exit 1
tr -d '\r' <"$out/console" | sed '/^$/d'
