// SPDX-License-Identifier: GPL-2.0

//! The registers of a PMU as perf has found them when it took a guest's state out.

use crate::{
    amd::entry::EntryHw,
    counter::{Counter, CounterSet},
    intel::{fixed::FixedHw, metrics::MetricsHw, msr::FixedCtrCtrl},
    intercepts::Passthrough,
    model::Mode,
    msr::EventSelector,
    switch::{Claim, Hw},
    sys::{kvm::Vcpu, perf::Evicted},
};

/// A PMU that the vCPU had, and has no more: what it reads is the past, and what it writes
/// is nothing. perf has left nothing of the guest in hardware.
pub(crate) struct EvictedPmu<'a> {
    /// The vCPU.
    vcpu: &'a Vcpu,
    /// What was found.
    state: &'a Evicted<'a>,
}

impl<'a> EvictedPmu<'a> {
    /// The PMU of `vcpu` as `state` has it.
    pub(crate) fn new(vcpu: &'a Vcpu, state: &'a Evicted<'a>) -> Self {
        Self { vcpu, state }
    }
}

impl Hw for EvictedPmu<'_> {
    /// Nothing is claimed: the counters may have any values.
    fn claim_counters(&mut self, _number: u64) -> Claim {
        Claim {
            number: 0,
            used: CounterSet::ALL,
            host_status: 0,
            may_park: false,
        }
    }

    fn counter(&self, counter: Counter) -> u64 {
        self.state
            .counter(counter.bit().bits().trailing_zeros() as usize)
    }

    fn set_counter(&mut self, _counter: Counter, _value: u64) {}

    fn set_selector(&mut self, _counter: Counter, _selector: EventSelector) {}

    fn status(&self) -> u64 {
        self.state.status()
    }

    fn clear_status(&mut self, _bits: u64) {}

    fn set_status(&mut self, _bits: u64) {}

    fn take_global_ctrl(&mut self) -> u64 {
        0
    }

    fn drop_global_ctrl(&mut self, _given: u64) {}

    fn give_global_ctrl(&mut self, _ctrl: u64) {}

    fn intercept_status(&mut self) {}

    fn renew_intercepts(&mut self) {
        self.vcpu.request_intercepts();
    }
}

impl FixedHw for EvictedPmu<'_> {
    fn set_fixed_ctrl(&mut self, _ctrl: FixedCtrCtrl) {}
}

impl MetricsHw for EvictedPmu<'_> {
    fn metrics(&self) -> u64 {
        self.state.metrics()
    }

    fn set_metrics(&mut self, _value: u64) {}
}

/// Only of a guest that is about to be entered.
impl EntryHw for EvictedPmu<'_> {
    fn in_user_mode(&self) -> bool {
        false
    }

    fn intercept_counters(&mut self, _counters: CounterSet) {}

    fn restore_intercepts(&mut self, _counters: CounterSet, _free: Passthrough, _mode: Mode) {
        self.vcpu.request_intercepts();
    }
}
