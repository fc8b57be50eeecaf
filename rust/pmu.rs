// SPDX-License-Identifier: GPL-2.0

//! The registers of a PMU that a vCPU owns.

use super::{bindings, kvm::OwnerVcpu};
use crate::{
    amd::counter_intercepts,
    counter::{Counter, CounterSet, Kind},
    intercepts::Passthrough,
    msr::{EventSelector, FixedCtrCtrl, Msr},
    nested::Mode,
    rdpmc,
    switch::Hw,
};
use core::arch::asm;

/// An Intel PMU, version 4 or later with full-width writes.
///
/// None of its registers can corrupt memory, since counters count, and an overflow raises an interrupt
/// that the kernel handles. So the methods are safe; a value that a register does not take is
/// reported by the kernel and dropped. The one thing that must hold is that the PMU is ours to
/// change, which [`OwnerVcpu`] proves.
pub struct IntelPmu<'a>(&'a OwnerVcpu<'a>);

impl<'a> IntelPmu<'a> {
    /// The PMU that `vcpu` owns.
    #[inline(always)]
    pub fn new(vcpu: &'a OwnerVcpu<'a>) -> Self {
        Self(vcpu)
    }
}

/// An AMD PMU, PerfMonV2.
///
/// What makes the methods of [`IntelPmu`] safe holds here as well. Without fields that VM-entry and
/// VM-exit switch, the global control is written by instructions.
pub struct AmdPmu<'a>(&'a OwnerVcpu<'a>);

impl<'a> AmdPmu<'a> {
    /// The PMU that `vcpu` owns.
    #[inline(always)]
    pub fn new(vcpu: &'a OwnerVcpu<'a>) -> Self {
        Self(vcpu)
    }

    /// Sets the intercepts of `counters` and of RDPMC to what is `free`.
    fn intercept(&self, counters: CounterSet, free: Passthrough) {
        for (msr, free) in counter_intercepts(counters, free) {
            self.0.intercept_msr(msr, free);
        }
        self.0.intercept_rdpmc(!free.rdpmc);
    }
}

/// Reads a register of the PMU.
#[inline(always)]
fn read(msr: Msr) -> u64 {
    // SAFETY: Reading an MSR of the PMU has no effect on memory.
    unsafe { bindings::kmp_rdmsr(msr.address()) }
}

/// Writes a register of the PMU that its owner may change.
#[inline(always)]
fn write(msr: Msr, value: u64) {
    // SAFETY: Only the methods below choose the MSR; see `IntelPmu` for why none of them can break
    // memory safety, whatever the value.
    unsafe { bindings::kmp_wrmsr(msr.address(), value) };
}

/// Claims this processor's counters, see [`Hw::claim_counters`].
#[inline(always)]
fn claim_counters(_owner: &OwnerVcpu<'_>, claim: u64) -> u64 {
    // SAFETY: perf has lent the PMU to the vCPU, by the invariant of `OwnerVcpu`.
    unsafe { bindings::perf_claim_guest_counters(claim) }
}

/// Reads what RDPMC reads with this `ecx`, which must be something that a guest has.
#[inline(always)]
fn read_pmc(ecx: u32) -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: RDPMC reads into EDX:EAX, clears the upper halves of both registers, and touches neither
    // memory nor flags. The host has everything that a guest has, so it does not fault; if it did, the
    // kernel would stop here and break no memory safety.
    unsafe {
        asm!(
            "rdpmc",
            in("ecx") ecx,
            out("rax") low,
            out("rdx") high,
            options(nomem, nostack, preserves_flags)
        )
    };
    (high << 32) | low
}

impl Hw for IntelPmu<'_> {
    #[inline(always)]
    fn claim_counters(&mut self, claim: u64) -> u64 {
        claim_counters(self.0, claim)
    }

    #[inline(always)]
    fn counter(&self, counter: Counter) -> u64 {
        read_pmc(rdpmc::encode(counter))
    }

    #[inline(always)]
    fn set_counter(&mut self, counter: Counter, value: u64) {
        let msr = match counter.kind() {
            Kind::Gp(index) => Msr::IA32_A_PMC0.nth(index.into()),
            Kind::Fixed(index) => Msr::IA32_FIXED_CTR0.nth(index.into()),
        };
        write(msr, value);
    }

    #[inline(always)]
    fn metrics(&self) -> u64 {
        read_pmc(rdpmc::METRICS)
    }

    fn set_metrics(&mut self, value: u64) {
        write(Msr::IA32_PERF_METRICS, value);
    }

    #[inline(always)]
    fn set_selector(&mut self, counter: Counter, selector: EventSelector) {
        if let Kind::Gp(index) = counter.kind() {
            write(Msr::IA32_PERFEVTSEL0.nth(index.into()), selector.bits());
        }
    }

    fn set_fixed_ctrl(&mut self, ctrl: FixedCtrCtrl) {
        write(Msr::IA32_FIXED_CTR_CTRL, ctrl.bits());
    }

    fn status(&self) -> u64 {
        read(Msr::IA32_PERF_GLOBAL_STATUS)
    }

    fn clear_status(&mut self, bits: u64) {
        write(Msr::IA32_PERF_GLOBAL_STATUS_RESET, bits);
    }

    fn set_status(&mut self, bits: u64) {
        write(Msr::IA32_PERF_GLOBAL_STATUS_SET, bits);
    }

    /// VM-exit has saved the guest's value in the VMCS and loaded 0.
    #[inline(always)]
    fn take_global_ctrl(&mut self) -> u64 {
        self.0.read_guest_global_ctrl()
    }

    /// VM-exit has loaded 0.
    #[inline(always)]
    fn drop_global_ctrl(&mut self, _given: u64) {}

    #[inline(always)]
    fn give_global_ctrl(&mut self, ctrl: u64) {
        self.0.write_guest_global_ctrl(ctrl);
    }
}

impl Hw for AmdPmu<'_> {
    #[inline(always)]
    fn claim_counters(&mut self, claim: u64) -> u64 {
        claim_counters(self.0, claim)
    }

    #[inline(always)]
    fn counter(&self, counter: Counter) -> u64 {
        match counter.kind() {
            Kind::Gp(index) => read_pmc(index.into()),
            // No guest has one.
            Kind::Fixed(_) => 0,
        }
    }

    #[inline(always)]
    fn set_counter(&mut self, counter: Counter, value: u64) {
        if let Kind::Gp(index) = counter.kind() {
            write(Msr::PERF_CTR0.of_core_counter(index), value);
        }
    }

    #[inline(always)]
    fn set_selector(&mut self, counter: Counter, selector: EventSelector) {
        if let Kind::Gp(index) = counter.kind() {
            write(Msr::PERF_CTL0.of_core_counter(index), selector.bits());
        }
    }

    fn status(&self) -> u64 {
        read(Msr::PERF_CNTR_GLOBAL_STATUS)
    }

    fn clear_status(&mut self, bits: u64) {
        write(Msr::PERF_CNTR_GLOBAL_STATUS_CLR, bits);
    }

    fn set_status(&mut self, bits: u64) {
        write(Msr::PERF_CNTR_GLOBAL_STATUS_SET, bits);
    }

    /// The guest's value has been there until now, but since #VMEXIT no selector counts.
    #[inline(always)]
    fn take_global_ctrl(&mut self) -> u64 {
        let ctrl = read(Msr::PERF_CNTR_GLOBAL_CTL);
        self.drop_global_ctrl(ctrl);
        ctrl
    }

    #[inline(always)]
    fn drop_global_ctrl(&mut self, given: u64) {
        if given != 0 {
            write(Msr::PERF_CNTR_GLOBAL_CTL, 0);
        }
    }

    /// The value is there at once, but until VMRUN no selector counts.
    #[inline(always)]
    fn give_global_ctrl(&mut self, ctrl: u64) {
        if ctrl != 0 {
            write(Msr::PERF_CNTR_GLOBAL_CTL, ctrl);
        }
    }

    fn in_user_mode(&self) -> bool {
        self.0.is_in_user_mode()
    }

    #[cold]
    fn hide(&mut self, counters: CounterSet) {
        self.intercept(counters, Passthrough::default());
    }

    #[cold]
    fn reveal(&mut self, counters: CounterSet, free: Passthrough, mode: Mode) {
        self.intercept(counters, free);
        if mode.l2 {
            self.0.request_intercepts();
        }
    }
}
