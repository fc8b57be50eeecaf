#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# run.sh BOCHS OUTDIR [NCPUS]: run the conformance test of the emulated PMU and
# print its TAP. Succeeds only if every test passed and the plan was completed.
# OUTDIR must hold conformance.iso and gets the emulator's configuration and logs.
#
# CPU is intel or amd. FEATURES are added to those that the processor has anyway;
# by default that is PERF_METRICS for Intel processors that are not alone, so that
# the runs of different numbers of processors are with and without it. BIOS and
# VGABIOS name the ROM images, TIMEOUT the seconds that a run may take.

set -u
if [ $# -lt 2 ]; then
	echo "usage: $0 BOCHS OUTDIR [NCPUS]" >&2
	exit 2
fi
bochs=$1
out=$(realpath "$2")
ncpus=${3:-1}
bios=${BIOS:-/usr/share/bochs/BIOS-bochs-latest}
vgabios=${VGABIOS:-/usr/share/vgabios/vgabios.bin}
cpu=${CPU:-intel}
run=$out/$cpu-cpus$ncpus
features=
[ "$cpu" = amd ] || [ "$ncpus" = 1 ] || features=perf_metrics
features=${FEATURES-$features}

case $cpu in
intel) model=sapphire_rapids ;;
amd) model=epyc_genoa ;;
*) echo "$0: CPU is intel or amd" >&2; exit 2 ;;
esac

for file in "$bochs" "$out/conformance.iso" "$bios" "$vgabios"; do
	if [ ! -r "$file" ]; then
		echo "$0: $file is missing" >&2
		exit 2
	fi
done

mkdir -p "$run"
rm -f "$run/console"
cat > "$run/bochsrc" <<END
cpu: model=$model, count=$ncpus, ips=100000000, ignore_bad_msrs=0, reset_on_triple_fault=0, add_features="$features"
memory: guest=128, host=128
romimage: file="$bios"
vgaromimage: file="$vgabios"
ata0-master: type=cdrom, path="$out/conformance.iso", status=inserted
boot: cdrom
clock: sync=none
com1: enabled=1, mode=file, dev="$run/console"
costs: enabled=1
panic: action=fatal
error: action=ignore
info: action=ignore
log: "$run/log"
display_library: nogui
END

timeout "${TIMEOUT:-300}" "$bochs" -q -f "$run/bochsrc" > "$run/stdout" 2>&1 < /dev/null
if [ ! -s "$run/console" ]; then
	echo "Bail out! the emulator did not run the image, see $run/log"
	exit 1
fi
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
