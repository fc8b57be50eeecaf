#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# run.sh BOCHS OUTDIR: run OUTDIR/fuzz.iso and print what comes, up to its "end".
#
# BIOS and VGABIOS name the ROM images, TIMEOUT the seconds that a run may take,
# MODEL the processor (sapphire_rapids).

set -u
if [ $# != 2 ]; then
	echo "usage: $0 BOCHS OUTDIR" >&2
	exit 2
fi
bochs=$1
out=$(cd "$2" && pwd)
rm -f "$out/console"
cat >"$out/bochsrc" <<END
cpu: model=${MODEL:-sapphire_rapids}, count=1, ips=100000000, ignore_bad_msrs=0, reset_on_triple_fault=0
memory: guest=128, host=128
romimage: file="${BIOS:-/usr/share/bochs/BIOS-bochs-latest}"
vgaromimage: file="${VGABIOS:-/usr/share/vgabios/vgabios.bin}"
ata0-master: type=cdrom, path="$out/fuzz.iso", status=inserted
boot: cdrom
clock: sync=none
com1: enabled=1, mode=file, dev="$out/console"
panic: action=fatal
error: action=ignore
info: action=ignore
log: "$out/log"
display_library: nogui
END
timeout "${TIMEOUT:-300}" "$bochs" -q -f "$out/bochsrc" >"$out/stdout" 2>&1 </dev/null
if [ ! -s "$out/console" ]; then
	echo "error: the emulator did not run the image, see $out/log" >&2
	exit 1
fi
tr -d '\r' <"$out/console" | sed '/^$/d'
