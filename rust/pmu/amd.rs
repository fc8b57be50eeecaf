// SPDX-License-Identifier: GPL-2.0

//! The registers of AMD's PMU.

use super::{claim_counters, read, read_pmc, write};
use crate::{
    amd::{counter_intercepts, entry::EntryHw},
    counter::{Counter, CounterSet, Kind},
    in_place::InPlaceHw,
    intercepts::Passthrough,
    model::Mode,
    msr::{EventSelector, Msr},
    switch::{Claim, Hw},
    sys::kvm::OwnerVcpu,
};

/// An AMD PMU, PerfMonV2.
///
/// Without fields that VM-entry and VM-exit switch, the global control is written by instructions.
pub(crate) struct AmdPmu<'a>(&'a OwnerVcpu<'a>);

impl<'a> AmdPmu<'a> {
    /// The PMU that `vcpu` owns.
    #[inline(always)]
    pub(crate) fn new(vcpu: &'a OwnerVcpu<'a>) -> Self {
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

impl Hw for AmdPmu<'_> {
    #[inline(always)]
    fn claim_counters(&mut self, number: u64) -> Claim {
        claim_counters(self.0, number)
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
            // SAFETY: `self.0` owns the PMU, of which this is a counter.
            unsafe { write(Msr::PERF_CTR0.of_core_counter(index), value) };
        }
    }

    #[inline(always)]
    fn set_selector(&mut self, counter: Counter, selector: EventSelector) {
        if let Kind::Gp(index) = counter.kind() {
            // SAFETY: `self.0` owns the PMU, of which this is a selector.
            unsafe { write(Msr::PERF_CTL0.of_core_counter(index), selector.bits()) };
        }
    }

    fn status(&self) -> u64 {
        read(Msr::PERF_CNTR_GLOBAL_STATUS)
    }

    fn clear_status(&mut self, bits: u64) {
        // SAFETY: `self.0` owns the PMU, of which this is the status.
        unsafe { write(Msr::PERF_CNTR_GLOBAL_STATUS_CLR, bits) };
    }

    fn set_status(&mut self, bits: u64) {
        // SAFETY: `self.0` owns the PMU, of which this is the status.
        unsafe { write(Msr::PERF_CNTR_GLOBAL_STATUS_SET, bits) };
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
            // SAFETY: `self.0` owns the PMU, of which this is the counters' enables.
            unsafe { write(Msr::PERF_CNTR_GLOBAL_CTL, 0) };
        }
    }

    /// The value is there at once, but until VMRUN no selector counts.
    #[inline(always)]
    fn give_global_ctrl(&mut self, ctrl: u64) {
        if ctrl != 0 {
            // SAFETY: `self.0` owns the PMU, of which this is the counters' enables.
            unsafe { write(Msr::PERF_CNTR_GLOBAL_CTL, ctrl) };
        }
    }

    #[cold]
    fn intercept_status(&mut self) {
        let status = [
            Msr::PERF_CNTR_GLOBAL_STATUS,
            Msr::PERF_CNTR_GLOBAL_STATUS_CLR,
        ];
        self.0.intercept_msrs(&status);
    }

    #[cold]
    fn renew_intercepts(&mut self) {
        self.0.request_intercepts();
    }
}

impl InPlaceHw for AmdPmu<'_> {
    fn exit_global_ctrl(&self) -> u64 {
        read(Msr::PERF_CNTR_GLOBAL_CTL)
    }

    /// It was not taken: there is one, for all of the guest.
    #[inline(always)]
    fn keep_global_ctrl(&mut self, _ctrl: u64) {}
}

impl EntryHw for AmdPmu<'_> {
    fn in_user_mode(&self) -> bool {
        self.0.is_in_user_mode()
    }

    #[cold]
    fn intercept_counters(&mut self, counters: CounterSet) {
        self.intercept(counters, Passthrough::default());
    }

    #[cold]
    fn restore_intercepts(&mut self, counters: CounterSet, free: Passthrough, mode: Mode) {
        self.intercept(counters, free);
        if mode.l2 {
            self.0.request_intercepts();
        }
    }
}
