// SPDX-License-Identifier: GPL-2.0

//! The unit of IA32_PERF_METRICS, which says where the slots went that fixed counter 3 counts:
//! eight fractions of eight bits each (SDM Vol. 3B, "Performance Metrics").
//!
//! # Guests that have not got it
//!
//! User space need not leave the register to a guest, and by default some does not. Such a guest's
//! RDPMC and IA32_PERF_GLOBAL_CTRL are free all the same if it has all counters of the host, for to
//! intercept them is all or nothing. So two things work in hardware that would fault if the guest
//! were a machine: RDPMC(2000_0000H) reads the register, and GLOBAL_CTRL\[48\] has it follow the
//! slots.
//!
//! That tells the guest nothing but what it does itself. The register is 0 whenever the guest is
//! entered, the enable is dropped when it is left, and what moves in between are the fractions of
//! its own slots; none if the event filter denies those. An overflow, GLOBAL_STATUS\[48\], is the
//! guest's PMI, and gone when the guest is left.

use super::{
    msr::{global_ctrl, global_status, perf_capabilities},
    rdpmc,
};
use crate::{
    caps::HostPmu,
    counter::{Counter, CounterSet},
    counters::Counters,
    filter::EventFilter,
    intercepts::Access,
    model::{GuestConfig, Model},
    msr::Msr,
    register::GeneralProtection,
    retired::Event,
    unit::{Loaded, Selects, SwitchUnit, Unit},
};
use core::iter;

/// Fixed counter 3, TOPDOWN.SLOTS.
pub(super) const SLOTS: Counter = match Counter::fixed(3) {
    Some(counter) => counter,
    None => panic!("no counter of slots"),
};

/// What a guest has to do with the register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reach {
    /// Nothing: the host has none, or the guest exits where it could get at it.
    #[default]
    None,
    /// The guest has not got it, but hardware lets it have it move and read it, see above.
    Hidden,
    /// The guest has it.
    Own,
}

/// IA32_PERF_METRICS of a guest.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// What the guest has to do with it.
    reach: Reach,
    /// The guest's value; of one that is hidden 0.
    value: u64,
    /// Hardware has, or may have, another value.
    changed: bool,
}

/// Hardware with the register.
pub(crate) trait MetricsHw {
    /// IA32_PERF_METRICS (RDPMC).
    fn metrics(&self) -> u64;

    /// Sets IA32_PERF_METRICS.
    fn set_metrics(&mut self, value: u64);
}

impl Metrics {
    /// Reads the register of hardware, and has it be the guest's value if it is not, or if it
    /// `must`.
    fn restore(&self, hw: &mut impl MetricsHw, must: bool) {
        if must || hw.metrics() != self.value {
            hw.set_metrics(self.value);
        }
    }
}

impl Unit for Metrics {
    fn new(host: &HostPmu, config: &impl GuestConfig, model: &mut Model) -> Self {
        let has = |capabilities: u64| capabilities & perf_capabilities::PERF_METRICS != 0;
        let reach = if !has(host.perf_capabilities) {
            Reach::None
        } else if has(config.perf_capabilities()) && model.counters.contains(SLOTS) {
            Reach::Own
        } else if model.passthrough.global_ctrl || model.passthrough.rdpmc {
            Reach::Hidden
        } else {
            Reach::None
        };
        if has(host.perf_capabilities) {
            model.status_lent |= global_status::OVF_PERF_METRICS;
        }
        if reach == Reach::Own {
            model.global_ctrl_valid |= global_ctrl::PERF_METRICS;
            model.global_status_valid |= global_status::OVF_PERF_METRICS;
        }
        Self {
            reach,
            ..Self::default()
        }
    }

    fn has(&self, msr: Msr) -> bool {
        self.reach == Reach::Own && msr == Msr::IA32_PERF_METRICS
    }

    fn rdpmc(&self, ecx: u32) -> Option<u64> {
        (self.reach == Reach::Own && ecx == rdpmc::METRICS).then_some(self.value)
    }

    fn read(&self, _msr: Msr) -> u64 {
        self.value
    }

    /// No bit is reserved.
    fn write(
        &mut self,
        _counters: &mut Counters,
        _msr: Msr,
        data: u64,
        _filter: &impl EventFilter,
    ) -> Result<(), GeneralProtection> {
        self.value = data;
        self.changed = true;
        Ok(())
    }

    fn intercepts(&self) -> impl Iterator<Item = (Msr, Access)> {
        let access = Access::all_if(self.reach == Reach::Own);
        iter::once((Msr::IA32_PERF_METRICS, access))
    }

    fn selects(&self, _msr: Msr, _data: u64) -> Option<Selects> {
        None
    }

    fn refilter(&mut self, _counters: &mut Counters, _filter: &impl EventFilter) {}

    fn event_changed(&mut self, _counter: Counter, _event: Option<Event>) {}

    /// The register moves as slots are counted, and nothing in IA32_FIXED_CTR_CTRL keeps it from
    /// interrupting then.
    fn interrupting(&self, counters: &Counters) -> u64 {
        if self.reach != Reach::None && counters.active.contains(SLOTS) {
            global_status::OVF_PERF_METRICS
        } else {
            0
        }
    }

    /// It moves by itself, whether or not the slots are enabled globally. The enable of a register
    /// that is hidden is gone whenever the guest is left.
    fn can_count(&self, counters: &Counters) -> bool {
        let enabled = counters.global_ctrl & global_ctrl::PERF_METRICS != 0;
        enabled && self.reach == Reach::Own && counters.switched_on.contains(SLOTS)
    }

    fn entered(&mut self) {}

    /// One that is hidden is 0 at each entry.
    fn can_stay(&self, counters: &Counters) -> bool {
        self.reach != Reach::Hidden || !counters.active.contains(SLOTS)
    }
}

impl<H: MetricsHw> SwitchUnit<H> for Metrics {
    fn before_load(&mut self, _counters: &mut Counters, _hw: &mut H) {}

    /// The register comes after the counters, and does not stay if the slots are written: it holds
    /// fractions of them, so that what it reads now need not be what it will read.
    #[inline(always)]
    fn load(&mut self, _counters: &Counters, hw: &mut H, loaded: Loaded) {
        if self.reach == Reach::None {
            return;
        }
        let slots = loaded.written.contains(SLOTS);
        if loaded.used.contains(SLOTS) || self.changed || slots {
            self.restore(hw, slots);
        }
        self.changed = false;
    }

    fn before_resume(&mut self, _counters: &Counters, _hw: &mut H, left: CounterSet) -> CounterSet {
        left
    }

    fn reload(&mut self, _hw: &mut H) {}

    /// A guest that has the register may have written it. Of one that is hidden it is enough to
    /// know that it may have moved: whether it was enabled, nobody knows if it is not now.
    #[inline(always)]
    fn put(&mut self, counters: &mut Counters, hw: &mut H) {
        match self.reach {
            Reach::None => {}
            Reach::Hidden => self.changed |= counters.active.contains(SLOTS),
            Reach::Own => self.value = hw.metrics(),
        }
    }
}
