#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# run.sh BOCHS OUTDIR [NCPUS]: run the conformance test of the emulated PMU and
# print its TAP. Succeeds only if every test passed and the plan was completed.
# OUTDIR must hold conformance.iso and gets the emulator's configuration and logs.
#
# FEATURES are added to those that the processor has anyway; by default that is
# PERF_METRICS for Intel processors that are not alone, so that the runs of
# different numbers of processors are with and without it. What else can be set is
# that of ../bare/run.sh.

set -u
if [ $# -lt 2 ]; then
	echo "usage: $0 BOCHS OUTDIR [NCPUS]" >&2
	exit 2
fi
out=$(realpath "$2")
ncpus=${3:-1}
cpu=${CPU:-intel}
run=$out/$cpu-cpus$ncpus
features=
[ "$cpu" = amd ] || [ "$ncpus" = 1 ] || features=perf_metrics
features=${FEATURES-$features}

"$(dirname "$0")/../bare/run.sh" "$1" "$out/conformance.iso" "$run" \
	"count=$ncpus, add_features=\"$features\"" 'costs: enabled=1' || {
	echo "Bail out! the image did not run"
	exit 1
}
sed -n '/^TAP version/,$p' "$run/console" | tr -d '\r' | tee "$run/tap"

plan=$(sed -n 's/^1\.\.\([0-9]*\)$/\1/p' "$run/tap")
passed=$(grep -c '^ok ' "$run/tap")
if [ -z "$plan" ] || [ "$plan" != "$passed" ] || grep -q '^\(not ok\|Bail out\)' "$run/tap"; then
	echo "# FAILED: $passed of ${plan:-an unfinished plan of} tests passed with $ncpus CPUs"
	exit 1
fi
if ! grep -q "^# $ncpus CPUs$" "$run/tap"; then
	echo "# FAILED: the image did not find $ncpus CPUs"
	exit 1
fi
