# SPDX-License-Identifier: GPL-2.0
#
# Two commands do everything: "make run" and "make test". See "make help".

# CPU, NCPUS and the like given on the command line reach the scripts by the
# environment.
export CPU NCPUS DEBUG KERNEL STAGES KDIR BUILD CACHE JOBS LINUX_TARBALL BOCHS_TARBALL TOOLCHAIN GUEST_KERNEL GUEST_CPU QEMU ROUNDS LIMIT MODES PATCHES OPS SEED CHUNK PROGRAM LATE

.PHONY: help run run-nested test bench check check-series perf-cost perf-same kernel module bochs selftests shell fuzz fuzz-model doc packages toolchain clean
.NOTPARALLEL:
.DEFAULT_GOAL := help

help:
	@echo 'make run              a Linux guest under perf, on stock KVM and on the module, side by side'
	@echo 'make run-nested       a Linux guest under perf in a Linux guest, on the module; some minutes'
	@echo 'make test             everything that is tested; the last line is "N passed, N failed"'
	@echo 'make bench            what a vPMU costs, on stock KVM and on the module: bench/$$CPU.md and .svg; fails above its limits'
	@echo 'make check            what needs no kernel, in seconds: cargo test, fmt, clippy, checkpatch, shellcheck'
	@echo 'make check-series     does the series on Linux apply to the other 6.18.y that it should apply to;'
	@echo '                      MODES="build boot cross": does each patch build and boot, and compile elsewhere'
	@echo 'make perf-cost        what the series costs perf where no guest is: bench/perf.md; fails if a hot path becomes dearer'
	@echo 'make perf-same        upstream tests of perf, without the series and with it; fails if their results differ'
	@echo 'make shell            a shell in the emulated host'
	@echo 'make kernel           the patched kernel for the emulated host'
	@echo 'make module           kvm_mediated_pmu.ko; KDIR=DIR for any patched kernel that is built'
	@echo 'make bochs            the patched emulator'
	@echo 'make selftests        the test programs'
	@echo 'make fuzz             random programs in a guest against the bare emulated machine; OPS= how many operations'
	@echo '                      (1000000), SEED= to repeat, PROGRAM= a single program;'
	@echo '                      LATE=N: PMIs come up to N instructions late, totals and the number of PMIs are compared'
	@echo 'make fuzz-model       random operations on the model of the PMU, on this machine; CASES= how many, SEED= to repeat'
	@echo 'make doc              the documentation of the Rust code, in build/cargo/doc'
	@echo 'make packages         the Debian packages that all this needs'
	@echo 'make toolchain        the pinned Rust and bindgen, in build/toolchain'
	@echo 'make clean            remove build/'
	@echo
	@echo 'CPU=intel|amd         emulated processor (intel)    NCPUS=N      how many (2)'
	@echo 'DEBUG=1               a kernel with lockdep, KASAN and PROVE_RCU'
	@echo 'KERNEL=pristine       the unpatched kernel: make test then judges the emulator alone'
	@echo 'STAGES="module ..."   only these parts of make test (module module-upstream late late-1 -5 -50 -2000 agent shape stock stock-upstream x86 no-pmu kexec guest'
	@echo '                      guest-tools vmm nested reproducible emulator-1 -2 -4 amd-emulator-1 -2 amd-stock'
	@echo '                      amd-module amd-module-upstream amd-late amd-late-2000 amd-agent amd-x86 amd-no-pmu amd-kexec amd-vmm amd-nested check)'
	@echo 'LINUX_TARBALL=FILE    Linux 6.18.15 that is there already; BOCHS_TARBALL=FILE: Bochs 3.0'
	@echo 'GUEST_KERNEL=FILE     another bzImage for the guest; ROUNDS=N length of its workload (50)'
	@echo 'GUEST_CPU=MODEL       what "make run" gives QEMU as -cpu (host); e.g. host,migratable=no    QEMU=7.2|10.0 (7.2)'
	@echo 'TOOLCHAIN=DIR         a Rust 1.85.0 with library source, instead of fetching one'
	@echo 'BUILD=DIR             where to build (build/); CACHE=DIR what is fetched (~/.cache/kvm-mediated-pmu)'
	@echo 'JOBS=N                parallel jobs (all processors); LIMIT=SECONDS for the boot of "make run"'

run:
	@scripts/run

run-nested:
	@scripts/run-nested

test:
	@scripts/test

bench:
	@scripts/bench

check:
	@scripts/check

check-series: packages
	@scripts/check-series

perf-cost:
	@scripts/perf-cost

perf-same:
	@scripts/perf-same

shell:
	@scripts/shell

kernel: toolchain
	@scripts/kernel -f

module:
	@[ -n "$(KDIR)" ] || { scripts/packages && scripts/toolchain && scripts/kernel; }
	@scripts/module

bochs: packages
	@scripts/bochs -f

selftests: packages
	@scripts/selftests

fuzz:
	@scripts/fuzz

fuzz-model:
	@SEED=$${SEED:-random} CASES=$${CASES:-1000000} scripts/cargo test --quiet --offline --locked exactness -- --nocapture

doc:
	@RUSTDOCFLAGS='-D warnings' scripts/cargo doc --quiet --offline --locked --no-deps --document-private-items

packages:
	@scripts/packages

toolchain: packages
	@scripts/toolchain

clean:
	rm -rf build
