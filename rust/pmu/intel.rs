// SPDX-License-Identifier: GPL-2.0

//! The registers of Intel's PMU.

use super::{claim_counters, read, read_pmc, write};
use crate::{
    counter::{Counter, Kind},
    in_place::InPlaceHw,
    intel::{fixed::FixedHw, metrics::MetricsHw, msr::FixedCtrCtrl, rdpmc},
    msr::{EventSelector, Msr},
    switch::{Claim, Hw},
    sys::kvm::OwnerVcpu,
};

/// An Intel PMU, version 4 or later with full-width writes.
pub(crate) struct IntelPmu<'a>(&'a OwnerVcpu<'a>);

impl<'a> IntelPmu<'a> {
    /// The PMU that `vcpu` owns.
    #[inline(always)]
    pub(crate) fn new(vcpu: &'a OwnerVcpu<'a>) -> Self {
        Self(vcpu)
    }
}

impl Hw for IntelPmu<'_> {
    #[inline(always)]
    fn claim_counters(&mut self, number: u64) -> Claim {
        claim_counters(self.0, number)
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
        // SAFETY: `self.0` owns the PMU, of which this is a counter, by the match above.
        unsafe { write(msr, value) };
    }

    #[inline(always)]
    fn set_selector(&mut self, counter: Counter, selector: EventSelector) {
        if let Kind::Gp(index) = counter.kind() {
            // SAFETY: `self.0` owns the PMU, of which this is a selector.
            unsafe { write(Msr::IA32_PERFEVTSEL0.nth(index.into()), selector.bits()) };
        }
    }

    fn status(&self) -> u64 {
        read(Msr::IA32_PERF_GLOBAL_STATUS)
    }

    fn clear_status(&mut self, bits: u64) {
        // SAFETY: `self.0` owns the PMU, of which this is the status.
        unsafe { write(Msr::IA32_PERF_GLOBAL_STATUS_RESET, bits) };
    }

    fn set_status(&mut self, bits: u64) {
        // SAFETY: `self.0` owns the PMU, of which this is the status.
        unsafe { write(Msr::IA32_PERF_GLOBAL_STATUS_SET, bits) };
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

    #[cold]
    fn intercept_status(&mut self) {
        let status = [
            Msr::IA32_PERF_GLOBAL_STATUS,
            Msr::IA32_PERF_GLOBAL_STATUS_RESET,
        ];
        self.0.intercept_msrs(&status);
    }

    #[cold]
    fn renew_intercepts(&mut self) {
        self.0.request_intercepts();
    }
}

impl InPlaceHw for IntelPmu<'_> {
    fn exit_global_ctrl(&self) -> u64 {
        self.0.read_guest_global_ctrl()
    }

    /// The VMCS that VM-entry loads it from may be another one.
    #[inline(always)]
    fn keep_global_ctrl(&mut self, ctrl: u64) {
        self.give_global_ctrl(ctrl);
    }
}

impl FixedHw for IntelPmu<'_> {
    fn set_fixed_ctrl(&mut self, ctrl: FixedCtrCtrl) {
        // SAFETY: `self.0` owns the PMU, of which this is the fixed counters' selectors.
        unsafe { write(Msr::IA32_FIXED_CTR_CTRL, ctrl.bits()) };
    }
}

impl MetricsHw for IntelPmu<'_> {
    #[inline(always)]
    fn metrics(&self) -> u64 {
        read_pmc(rdpmc::METRICS)
    }

    fn set_metrics(&mut self, value: u64) {
        // SAFETY: `self.0` owns the PMU, of which this is what is made of fixed counter 3.
        unsafe { write(Msr::IA32_PERF_METRICS, value) };
    }
}
