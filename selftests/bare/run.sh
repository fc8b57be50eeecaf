#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# run.sh BOCHS ISO DIR CPUS [LINE...]: boot the CD on an emulated machine; what it
# prints on COM1 is in DIR/console then. CPUS is what Bochs' configuration says of
# the processors but for their model, as in "count=2"; each LINE is added to it.
#
# CPU is intel (default) or amd. BIOS and VGABIOS name the ROM images, TIMEOUT the
# seconds that it may take.

set -u
if [ $# -lt 4 ]; then
	echo "usage: $0 BOCHS ISO DIR CPUS [LINE...]" >&2
	exit 2
fi
bochs=$1 iso=$2 dir=$3 cpus=$4
shift 4
bios=${BIOS:-/usr/share/bochs/BIOS-bochs-latest}
vgabios=${VGABIOS:-/usr/share/vgabios/vgabios.bin}

case ${CPU:-intel} in
intel) model=sapphire_rapids ;;
amd) model=epyc_genoa ;;
*) echo "$0: CPU is intel or amd" >&2; exit 2 ;;
esac
for file in "$bochs" "$iso" "$bios" "$vgabios"; do
	if [ ! -r "$file" ]; then
		echo "$0: $file is missing" >&2
		exit 2
	fi
done

mkdir -p "$dir"
rm -f "$dir/console"
cat >"$dir/bochsrc" <<END
cpu: ips=100000000, ignore_bad_msrs=0, reset_on_triple_fault=0, model=$model, $cpus
memory: guest=128, host=128
romimage: file="$bios"
vgaromimage: file="$vgabios"
ata0-master: type=cdrom, path="$iso", status=inserted
boot: cdrom
clock: sync=none
com1: enabled=1, mode=file, dev="$dir/console"
panic: action=fatal
error: action=ignore
info: action=ignore
log: "$dir/log"
display_library: nogui
$(printf '%s\n' "$@")
END

timeout "${TIMEOUT:-300}" "$bochs" -q -f "$dir/bochsrc" >"$dir/stdout" 2>&1 </dev/null
if [ ! -s "$dir/console" ]; then
	echo "error: the emulator did not run the image, see $dir/log" >&2
	exit 1
fi
