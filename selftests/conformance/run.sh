#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# run.sh BOCHS OUTDIR [NCPUS]: run the conformance test of the emulated PMU in all
# configurations of so many processors, and print the TAP of all of them as one.
# Succeeds only if every test passed and each image came to its end. OUTDIR must
# hold conformance.iso; in OUTDIR/CPU-cpusNCPUS/CONFIGURATION are the emulator's
# configuration and its logs afterwards.
#
# ONLY names the configurations that are to be run, instead of all. What else can be
# set is that of ../bare/run.sh.

set -u
if [ $# -lt 2 ]; then
	echo "usage: $0 BOCHS OUTDIR [NCPUS]" >&2
	exit 2
fi
bochs=$1
out=$(realpath "$2")
ncpus=${3:-1}
cpu=${CPU:-intel}
bare=$(dirname "$0")/../bare/run.sh
number=0 failed=0

# result STATUS NAME: a test of what the image says as a whole.
result() {
	number=$((number + 1))
	if [ "$1" = 0 ]; then echo "ok $number - $2"; else echo "not ok $number - $2"; failed=$((failed + 1)); fi
}

# renumbered NAME FILE: the image's tests, counted on from the last one.
renumbered() {
	awk -v n="$number" -v name="$1" '
		/^(not )?ok [0-9]+ - / { sub(/ok [0-9]+ - /, "ok " ++n " - " name ": ") }
		/^(not )?ok |^#|^Bail out!/' "$2"
}

# complete FILE: the image kept to its plan, and nothing made it give up.
complete() {
	local plan
	plan=$(sed -n 's/^1\.\.\([0-9]*\)$/\1/p' "$1")
	[ -n "$plan" ] && [ "$plan" = "$(grep -cE '^(not )?ok ' "$1")" ] && ! grep -q '^Bail out!' "$1"
}

# configuration NAME MACHINE CPUS [LINE...]: CPUS is added to what the configuration
# says of the processors, each LINE to all of it. The image must find that it runs on
# MACHINE, or it would test something else than was meant.
configuration() {
	local name=$1 machine=$2 cpus=$3 run=$out/$cpu-cpus$ncpus/$1
	shift 3
	[ -z "${ONLY:-}" ] || [[ " $ONLY " = *" $name "* ]] || return 0
	echo "# $name: $machine"
	if ! "$bare" "$bochs" "$out/conformance.iso" "$run" "count=$ncpus${cpus:+, $cpus}" 'costs: enabled=1' "$@"; then
		result 1 "$name: the image runs"
		return
	fi
	sed -n '/^TAP version/,$p' "$run/console" | tr -d '\r' >"$run/tap"
	renumbered "$name" "$run/tap"
	number=$((number + $(grep -cE '^(not )?ok ' "$run/tap")))
	failed=$((failed + $(grep -c '^not ok ' "$run/tap")))
	complete "$run/tap"
	result $? "$name: the image comes to its end"
	grep -qxF "# $ncpus CPUs" "$run/tap" && grep -qxF "# $machine" "$run/tap"
	result $? "$name: the machine is the one that was asked for"
}

# refused NAME CPU LINE: what there cannot be the emulator does not start with.
refused() {
	local name=$1 run=$out/$cpu-cpus$ncpus/$1
	[ -z "${ONLY:-}" ] || [[ " $ONLY " = *" $name "* ]] || return 0
	echo "# $name: $3"
	! CPU=$2 "$bare" "$bochs" "$out/conformance.iso" "$run" "count=$ncpus" "$3" 2>"$run.refusal" &&
		grep -q 'PANIC<< pmu: ' "$run/log"
	result $? "$name: refused"
}

mkdir -p "$out"
echo TAP version 13
case $cpu in
intel) all='8 GP counters, fixed counters f, PERF_METRICS' ;;
amd) all='6 core counters, data fabric, L3' ;;
esac
prompt='PMIs late by 0, seed 0'
configuration default "$all, $prompt" ''
if [ "$cpu" = intel ]; then
	configuration no-metrics "8 GP counters, fixed counters f, $prompt" 'exclude_features="perf_metrics"'
	configuration many-counters "10 GP counters, fixed counters 77, $prompt" '' 'pmu: counters=10, fixed=0x77'
	configuration few-counters "4 GP counters, fixed counters 7, $prompt" '' 'pmu: counters=4, fixed=0x7'
	configuration all-fixed "8 GP counters, fixed counters 7f, PERF_METRICS, $prompt" '' 'pmu: fixed=0x7f'
	refused too-many-counters intel 'pmu: counters=11'
	refused unknown-fixed intel 'pmu: fixed=0x8f'
	refused other-vendor amd 'pmu: counters=8'
else
	configuration no-df "6 core counters, L3, $prompt" 'exclude_features="perfctr_nb"'
	configuration no-l3 "6 core counters, data fabric, $prompt" 'exclude_features="perfctr_llc"'
fi
for delay in 1 5 50 500; do
	configuration "late-$delay" "$all, PMIs late by $delay, seed 0" '' "pmi: delay=$delay"
done
configuration random-50 "$all, PMIs late by 50, seed 1" '' 'pmi: delay=50, seed=1'
configuration random-500 "$all, PMIs late by 500, seed 4711" '' 'pmi: delay=500, seed=4711'
echo "1..$number"
if [ "$number" = 0 ] || [ "$failed" != 0 ]; then
	echo "# FAILED: $failed of $number tests with $ncpus CPUs"
	exit 1
fi
