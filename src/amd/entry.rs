// SPDX-License-Identifier: GPL-2.0

//! The unit that hides the guest's entry from its counters.
//!
//! What changes the mode is counted in the mode that it changes to (APM Vol. 2, 13.2.1): VMRUN is a
//! far control transfer, the first instruction and the first branch of the guest, which is taken. A
//! guest that counts any of these would count its hypervisor.
//!
//! So each counter that is about to count VMRUN is set back by one before, and the guest begins
//! with its own value. The counter that is 0 is an exception, since it would overflow: it reads one
//! too high until `put` subtracts it again, and the guest exits if it accesses the counter
//! meanwhile. Right after an overflow that is the rule on a processor whose interrupts are prompt,
//! and a rarity on others.
//!
//! If that is to write the counter, as after an overflow, it has what is written from there on.
//!
//! An instruction that KVM has completed while the state was in hardware is counted by the entry
//! that follows, which is not hidden then ([`crate::park`], [`crate::in_place`]).

use crate::{
    caps::HostPmu,
    counter::{Counter, CounterSet},
    counters::Counters,
    filter::EventFilter,
    guest::GuestPmu,
    in_place::{self, InPlaceHw, Written},
    intercepts::{Access, Passthrough},
    model::{GuestConfig, Mode, Model},
    msr::{EventSelector, Msr},
    register::{GeneralProtection, Register},
    retired::{Event, Retired},
    switch::Hw,
    unit::{Loaded, Selects, SwitchUnit, Unit},
    vendor::Vendor,
};
use core::iter;

/// What VMRUN is to a guest's counters.
const VMRUN: Retired = Retired::INSTRUCTION
    .and(Retired::BRANCH)
    .and(Retired::TAKEN)
    .and(Retired::FAR);

/// Counters that count the guest's entry.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// Those that would.
    counting: CounterSet,
    /// Those that are one ahead of the guest while it runs.
    ahead: CounterSet,
}

impl Entry {
    /// Counters that count an entry that comes now.
    fn counting_now(&self, counters: &Counters, hw: &impl EntryHw) -> CounterSet {
        let counting = self.counting & counters.globally_enabled();
        counters.emulated.at_level(counting, || hw.in_user_mode())
    }

    /// Does `counter` count entries, or might by `selector`?
    fn may_count<V: Vendor>(&self, counter: Counter, selector: u64) -> bool {
        let event = V::event(EventSelector::new(selector));
        self.counting.contains(counter) || event.is_some_and(|event| event.includes(VMRUN))
    }
}

/// Hardware on which the guest's entry counts.
pub(crate) trait EntryHw: Hw {
    /// Will the guest be entered at CPL 1, 2 or 3?
    fn in_user_mode(&self) -> bool;

    /// Has the guest exit if it accesses `counters`, until [`EntryHw::restore_intercepts`].
    fn intercept_counters(&mut self, counters: CounterSet);

    /// Lets the guest, which is in `mode`, access `counters` again as far as it is `free` to.
    fn restore_intercepts(&mut self, counters: CounterSet, free: Passthrough, mode: Mode);
}

/// As [`in_place::write`], as far as the entry to come counts what the WRMSR does.
pub(crate) fn write_in_place<V: Vendor<Units = Entry>>(
    pmu: &mut GuestPmu<V>,
    hw: &mut (impl EntryHw + InPlaceHw),
    register: Register,
    data: u64,
    filter: &impl EventFilter,
) -> Written {
    match register {
        Register::Counter(counter, _) if pmu.units.ahead == counter.bit() => {
            write_ahead(pmu, hw, counter, data);
            Written::Yes
        }
        Register::Selector(counter) if !pmu.units.may_count::<V>(counter, data) => {
            in_place::write(pmu, hw, register, data, filter)
        }
        _ => Written::No,
    }
}

/// Writes `data` to `counter` in hardware, where it was ahead, and no other is.
fn write_ahead<V: Vendor<Units = Entry>>(
    pmu: &mut GuestPmu<V>,
    hw: &mut impl EntryHw,
    counter: Counter,
    data: u64,
) {
    let counters = &pmu.counters;
    // Reserved bits are dropped.
    let width = counters.model.width(counter);
    hw.set_counter(counter, width.to_hardware(width.to_guest(data)));
    hw.restore_intercepts(counter.bit(), counters.model.passthrough, counters.mode);
    pmu.units.ahead = CounterSet::EMPTY;
}

/// It has no registers.
impl Unit for Entry {
    fn new(_host: &HostPmu, _config: &impl GuestConfig, _model: &mut Model) -> Self {
        Self::default()
    }

    fn has(&self, _msr: Msr) -> bool {
        false
    }

    fn rdpmc(&self, _ecx: u32) -> Option<u64> {
        None
    }

    fn read(&self, _msr: Msr) -> u64 {
        0
    }

    fn write(
        &mut self,
        _counters: &mut Counters,
        _msr: Msr,
        _data: u64,
        _filter: &impl EventFilter,
    ) -> Result<(), GeneralProtection> {
        Err(GeneralProtection)
    }

    fn intercepts(&self) -> impl Iterator<Item = (Msr, Access)> {
        iter::empty()
    }

    fn selects(&self, _msr: Msr, _data: u64) -> Option<Selects> {
        None
    }

    fn refilter(&mut self, _counters: &mut Counters, _filter: &impl EventFilter) {}

    fn event_changed(&mut self, counter: Counter, event: Option<Event>) {
        let counts = event.is_some_and(|event| event.includes(VMRUN));
        self.counting.set(counter, counts);
    }

    fn interrupting(&self, _counters: &Counters) -> u64 {
        0
    }

    /// The counters do.
    fn can_count(&self, _counters: &Counters) -> bool {
        false
    }

    fn entries(&self) -> Option<CounterSet> {
        Some(self.counting)
    }

    /// Hardware has other values than the guest where the last entry could not be hidden.
    #[inline(always)]
    fn can_stay(&self, _counters: &Counters) -> bool {
        self.ahead.is_empty()
    }
}

impl<H: EntryHw> SwitchUnit<H> for Entry {
    fn before_load(&mut self, counters: &mut Counters, hw: &mut H) {
        for counter in self.counting_now(counters, hw).iter() {
            match counters.value(counter).checked_sub(1) {
                Some(value) => counters.set_value(counter, value),
                None => self.ahead.set(counter, true),
            }
        }
        if !self.ahead.is_empty() {
            hw.intercept_counters(self.ahead);
        }
    }

    fn load(&mut self, _counters: &Counters, _hw: &mut H, _loaded: Loaded) {}

    fn before_resume(&mut self, counters: &Counters, hw: &mut H) {
        for counter in self.counting_now(counters, hw).iter() {
            let width = counters.model.width(counter);
            match width.to_guest(hw.counter(counter)).checked_sub(1) {
                Some(value) => hw.set_counter(counter, width.to_hardware(value)),
                None => self.ahead.set(counter, true),
            }
        }
        if !self.ahead.is_empty() {
            hw.intercept_counters(self.ahead);
        }
    }

    fn reload(&mut self, _hw: &mut H) {}

    /// A counter that was ahead is not 0 any more, unless the guest was not entered.
    #[inline(always)]
    fn put(&mut self, counters: &mut Counters, hw: &mut H) {
        if self.ahead.is_empty() {
            return;
        }
        for counter in self.ahead.iter() {
            let value = counters.value(counter).saturating_sub(1);
            counters.set_value(counter, value);
        }
        hw.restore_intercepts(self.ahead, counters.model.passthrough, counters.mode);
        self.ahead = CounterSet::EMPTY;
    }
}
