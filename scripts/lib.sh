# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# What every script here shares: where things are, how they speak, how they fail.
# Source it; it changes nothing on disk.

set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=$(realpath -m -- "${BUILD:-$TOP/build}")
CACHE=$(realpath -m -- "${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kvm-mediated-pmu}")
CPU=${CPU:-intel}
NCPUS=${NCPUS:-2}
DEBUG=${DEBUG:-0}
KERNEL=${KERNEL:-patched}
export TOP BUILD CACHE CPU NCPUS DEBUG KERNEL
# Messages are parsed and sorted below: no translations.
export LC_ALL=C.UTF-8
# Variables given to the outer make are in the environment already; passed on
# through make itself they would override those of the kernel's makefiles.
unset MAKEFLAGS MFLAGS MAKEOVERRIDES MAKELEVEL GNUMAKEFLAGS

note() { printf '  %-8s %s\n' "$1" "${*:2}" >&2; }

# die WHAT-HAPPENED; WHAT-TO-DO: one line, and out. Whatever failed on a full
# disk, failed for that.
die() {
	local free
	free=$(df -Pm "$BUILD" 2>/dev/null | awk 'NR == 2 { print $4 }') || :
	if [ "${free:-9}" -lt 2 ]; then
		printf 'error: the disk of %s is full; make room and run again (%s)\n' "$BUILD" "$*" >&2
	else
		printf 'error: %s\n' "$*" >&2
	fi
	exit 1
}

# The debug kernel, the unpatched one, their modules and images never mix with
# the normal ones.
case $KERNEL-$DEBUG in
patched-0) FLAVOUR=normal ;;
patched-1) FLAVOUR=debug ;;
pristine-0) FLAVOUR=pristine ;;
pristine-1) die "the unpatched kernel is for the emulator and has no debug build; drop DEBUG=1 or KERNEL=pristine" ;;
*) die "KERNEL=$KERNEL DEBUG=$DEBUG is not known; KERNEL is patched or pristine, DEBUG 0 or 1" ;;
esac
case $NCPUS in
[1-8]) ;;
*) die "NCPUS=$NCPUS does not do; give 1 to 8" ;;
esac
KOUT=$BUILD/linux-$FLAVOUR
export FLAVOUR KOUT

# Where a timer has a say: options of scripts/boot. Linux measures AMD's clock: at the emulator's usual 100 MHz the
# timer would interrupt each round of what takes long, as a guest of a guest and the debug kernel do.
# shellcheck disable=SC2034 # for those that source this
case $CPU in
amd) STEADY_CLOCK=(-x 'cpu: ips=2000000000') ;;
*) STEADY_CLOCK=() ;;
esac

# writable DIR VARIABLE: it, or what it would be made in.
writable() {
	local dir=$1
	while [ ! -e "$dir" ]; do dir=$(dirname "$dir"); done
	[ -d "$dir" ] || die "$dir is not a directory; set $2= to another place"
	[ -w "$dir" ] || die "cannot write to $dir; set $2= to another place"
}
writable "$BUILD" BUILD

have() { command -v "$1" >/dev/null 2>&1; }

# need TOOL...: each must be there.
need() {
	local tool
	for tool; do
		have "$tool" || die "$tool is missing; run 'make packages'"
	done
}

# need_space BUILD|CACHE MEGABYTES
need_space() {
	local free
	writable "${!1}" "$1"
	mkdir -p "${!1}" || die "cannot create ${!1}; set $1= to another place"
	free=$(df -Pm "${!1}" | awk 'NR == 2 { print $4 }')
	[ "$free" -ge "$2" ] || die "${!1} has $free MB free but $2 MB are needed; make room, or set $1= to another disk"
}

# hash_of FILE...: one line for the content of all the files, in that order.
hash_of() { cat -- "$@" | sha256sum | cut -d' ' -f1; }

# is_sha256 FILE SUM
is_sha256() { [ -f "$1" ] && [ "$(hash_of "$1")" = "$2" ]; }

# put_perf_test DIR: scripts/host/host-perf-test, and the loop that it counts.
put_perf_test() {
	mkdir -p "$1"
	cp "$TOP/scripts/host/host-perf-test" "$1/" || die "cannot write to $1; is the disk full?"
	gcc -O2 -static -nostdlib -o "$1/loop" "$TOP/scripts/host/loop.S" || die "cannot build scripts/host/loop.S"
}

# fresh STAMP KEY: true if STAMP says that KEY is what was built last.
fresh() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }

# stamp STAMP KEY: to be called when KEY is built, never before.
stamp() {
	mkdir -p "$(dirname "$1")"
	printf '%s\n' "$2" >"$1.tmp" && mv "$1.tmp" "$1"
}

# attempt LOG LABEL COMMAND...: run quietly, with a sign of life every few
# seconds.
attempt() {
	local log=$1 label=$2 pid start=$SECONDS last=$SECONDS
	shift 2
	mkdir -p "$(dirname "$log")"
	# A process group of its own: an interrupted run must not leave a build
	# going on behind it.
	set -m
	"$@" >"$log" 2>&1 </dev/null &
	pid=$!
	set +m
	trap 'kill -- "-$pid" 2>/dev/null || :; exit 130' INT TERM
	while kill -0 "$pid" 2>/dev/null; do
		sleep 0.3
		if [ $((SECONDS - last)) -ge 10 ]; then
			last=$SECONDS
			note "$((SECONDS - start))s" "$label: $(progress_line "$log")"
		fi
	done
	trap - INT TERM
	wait "$pid"
}

# logged LOG LABEL COMMAND...: attempt it; on failure show the end of the log,
# and out.
logged() {
	attempt "$@" && return
	tail -n 15 "$1" >&2
	die "$2 failed; the whole log is in $1"
}

progress_line() {
	local line
	# Of a compiler's command line the file is what tells.
	line=$(tail -n 1 "$1" 2>/dev/null | tr -d '\r\0' | sed -E 's/^(gcc|g\+\+) .*[ /]([^ /]+)$/\1 \2/' | cut -c1-60) || :
	printf '%s' "$line"
}

# The pinned toolchain goes in front of whatever the user has, and no setting
# of the user's rustup or make leaks into a build.
use_toolchain() {
	[ -x "$BUILD/toolchain/bin/rustc" ] || die "the toolchain is not there; run 'make toolchain'"
	export PATH=$BUILD/toolchain/bin:/usr/lib/llvm-19/bin:$PATH
	export LIBCLANG_PATH=/usr/lib/llvm-19/lib
	unset RUSTUP_TOOLCHAIN RUSTUP_HOME RUSTC RUSTFLAGS RUSTC_WRAPPER CARGO_BUILD_TARGET
	unset CARGO_TARGET_DIR KBUILD_OUTPUT KCFLAGS KRUSTFLAGS ARCH CROSS_COMPILE O M V
	unset CFLAGS CXXFLAGS LDFLAGS CPPFLAGS
}

jobs_wanted() { printf '%s' "${JOBS:-$(nproc)}"; }

# apt_download PACKAGE[=VERSION]: the .deb into the working directory. If the
# machine's package lists are not there or are old, with fresh ones of our own.
apt_download() {
	local lists=$BUILD/apt/lists
	local options=(-q -o APT::Sandbox::User="$(id -un)" -o Acquire::Retries=3)
	apt-get "${options[@]}" download "$1" && return
	mkdir -p "$lists/partial"
	options+=(-o Dir::State::lists="$lists")
	apt-get "${options[@]}" update && apt-get "${options[@]}" download "$1"
}

# boot_modules DIR: sets MODULES to the options of scripts/boot that put KVM's
# modules, of the kernel that is built there, where they are loaded from.
boot_modules() {
	local file
	MODULES=()
	for file in "$1"/virt/lib/irqbypass.ko "$1"/arch/x86/kvm/kvm{,-intel,-amd}.ko; do
		[ ! -f "$file" ] || MODULES+=(-f "lib/modules/$(basename "$file")=$file")
	done
}

# prepare: everything that a boot of the emulated host needs, module included;
# sets HOST to the options of scripts/boot that put it there.
prepare() {
	local ko=$BUILD/module-$FLAVOUR/kvm_mediated_pmu.ko
	need_space BUILD 1500
	"$TOP/scripts/packages"
	"$TOP/scripts/toolchain"
	"$TOP/scripts/bochs"
	"$TOP/scripts/kernel"
	[ "$KERNEL" = pristine ] || KDIR='' "$TOP/scripts/module"
	"$TOP/scripts/rootfs" "$BUILD/rootfs.cpio"
	boot_modules "$KOUT"
	HOST=(-k "$KOUT/bzImage" -i "$BUILD/rootfs.cpio" -x 'costs: enabled=1' "${MODULES[@]}")
	[ ! -f "$ko" ] || HOST+=(-f "lib/modules/kvm_mediated_pmu.ko=$ko")
}

# prepare_series_host: all but the kernel of a boot of what scripts/series-build builds.
prepare_series_host() {
	need_space BUILD 4000
	"$TOP/scripts/packages"
	"$TOP/scripts/bochs"
	"$TOP/scripts/rootfs" "$BUILD/rootfs.cpio"
}

# series_host first|last: as prepare does, with Linux at that patch of the series.
series_host() {
	local kernel=$BUILD/check-series/at-$1
	"$TOP/scripts/series-build" at "$1"
	boot_modules "$kernel"
	HOST=(-k "$kernel/arch/x86/boot/bzImage" -i "$BUILD/rootfs.cpio" "${MODULES[@]}")
}

# What a kernel says on its console when something is wrong.
ALARM='WARNING:|\bBUG\b|Oops|KASAN|INFO: |general protection|Call Trace|stall|unchecked MSR|possible circular|inconsistent lock|unknown reason'

# alarms CONSOLE-LOG: print such lines; false if there are none.
alarms() { grep -aE "$ALARM" "$1"; }
