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
//! An instruction that KVM completes while the state is in hardware ([`crate::park`],
//! [`crate::in_place`]) and the entry that follows are one sum: counters that count both are right
//! as they are.

use crate::{
    caps::HostPmu,
    counter::{Counter, CounterSet},
    counters::{Counters, Counting},
    filter::EventFilter,
    guest::GuestPmu,
    in_place::{self, InPlaceHw, Written},
    intercepts::{Access, Passthrough},
    model::{GuestConfig, Mode, Model},
    msr::Msr,
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
    /// Those that are one ahead of the guest since it was entered.
    ahead: CounterSet,
    /// Those that are as soon as it is entered.
    at_zero: CounterSet,
}

impl Entry {
    /// Counters that count an entry that comes now.
    fn counting_now(&self, counters: &Counters, hw: &impl EntryHw) -> CounterSet {
        let counting = self.counting & counters.globally_enabled();
        counters.emulated.at_level(counting, || hw.in_user_mode())
    }

    /// Has `hw` be one behind the guest on `counting`, which count the entry that comes now.
    #[inline(never)]
    fn set_back(&mut self, counters: &Counters, hw: &mut impl EntryHw, counting: CounterSet) {
        let hidden = self.hidden();
        let mut at_zero = CounterSet::EMPTY;
        for counter in counting.iter() {
            let width = counters.model.width(counter);
            let found = width.to_guest(hw.counter(counter));
            let value = found.saturating_sub(self.ahead.contains(counter).into());
            let behind = value.saturating_sub(1);
            if behind != found {
                hw.set_counter(counter, width.to_hardware(behind));
            }
            if value == 0 {
                at_zero |= counter.bit();
            }
        }
        self.ahead = self.ahead & !counting;
        self.at_zero = (self.at_zero & !counting) | at_zero;
        if self.hidden() != hidden {
            self.renew_intercepts(counters, hw, hidden);
        }
    }

    /// The entry that comes counts `now`, and is no matter to others that are 0.
    #[cold]
    fn forget_zeros(&mut self, counters: &Counters, hw: &mut impl EntryHw, now: CounterSet) {
        let hidden = self.hidden();
        self.at_zero = self.at_zero & now;
        self.renew_intercepts(counters, hw, hidden);
    }

    /// Counters that the guest must not access.
    fn hidden(&self) -> CounterSet {
        self.ahead | self.at_zero
    }

    /// The guest must not access other counters than before, which were `hidden`.
    #[cold]
    fn renew_intercepts(&self, counters: &Counters, hw: &mut impl EntryHw, hidden: CounterSet) {
        if !hidden.is_empty() {
            hw.restore_intercepts(hidden, counters.model.passthrough, counters.mode);
        }
        if !self.hidden().is_empty() {
            hw.intercept_counters(self.hidden());
        }
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

/// As [`in_place::write`], and a counter that is ahead can be written as well.
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
        _ => in_place::write(pmu, hw, register, data, filter),
    }
}

/// KVM has completed an instruction while the guest's state is in hardware: counts it as `what`,
/// together with the entry that comes next. Returns whether the guest is owed a PMI.
///
/// What counts both needs no change. Should the entry not come, then it is to be counted what it
/// was to count, see [`GuestPmu::left_to_entry`].
#[must_use]
pub(crate) fn retire<V: Vendor<Units = Entry>>(
    pmu: &mut GuestPmu<V>,
    hw: &mut (impl EntryHw + InPlaceHw),
    what: Retired,
    in_user_mode: impl FnOnce() -> bool,
) -> bool {
    if pmu.left_to_entry.is_some() {
        // There is one entry, and this is the second instruction before it.
        return in_place::retire(pmu, hw, what, in_user_mode);
    }
    let counters = &pmu.counters;
    let interrupting = counters.interrupting;
    let alike = counters.emulated.counters(what) == pmu.units.counting;
    // A far transfer may change the privilege level, and WRMSR what counts.
    if alike && pmu.wrmsr.is_none() && !what.is(Retired::FAR) {
        pmu.left_to_entry = Some(Counting {
            counters: counters.emulated.at_level(pmu.units.counting, in_user_mode),
            interrupting,
        });
        return false;
    }
    in_place::read_global_ctrl(pmu, hw);
    let instruction = pmu.counting(what, in_user_mode);
    let entry = pmu.units.counting_now(&pmu.counters, hw);
    let both = instruction.counters & entry & !(instruction.interrupting ^ interrupting);
    let alone = Counting {
        counters: instruction.counters & !both,
        ..instruction
    };
    let owed = !alone.counters.is_empty() && in_place::count::<V>(&mut pmu.counters, hw, alone);
    let hidden = entry & !both;
    if !hidden.is_empty() {
        pmu.units.set_back(&pmu.counters, hw, hidden);
    }
    pmu.left_to_entry = Some(Counting {
        counters: entry & !pmu.units.at_zero,
        interrupting,
    });
    owed
}

/// As [`retire`], of a guest that is parked: a PMI that it is owed by the entry is told at once.
/// KVM may have the vCPU sleep, or go back to user space, before it is entered.
#[must_use]
pub(crate) fn retire_parked<V: Vendor<Units = Entry>>(
    pmu: &mut GuestPmu<V>,
    hw: &mut (impl EntryHw + InPlaceHw),
    what: Retired,
    in_user_mode: impl FnOnce() -> bool,
) -> bool {
    let owed = retire(pmu, hw, what, in_user_mode);
    let last = in_place::left_to_overflow(pmu, hw);
    let left = match &mut pmu.left_to_entry {
        Some(left) if !last.is_empty() => left,
        _ => return owed,
    };
    left.counters = left.counters & !last;
    let alone = Counting {
        counters: last,
        ..*left
    };
    let _ = in_place::count::<V>(&mut pmu.counters, hw, alone);
    pmu.units.set_back(&pmu.counters, hw, last);
    true
}

/// Writes `data` to `counter` in hardware, where it was ahead, and no other is.
fn write_ahead<V: Vendor<Units = Entry>>(
    pmu: &mut GuestPmu<V>,
    hw: &mut impl EntryHw,
    counter: Counter,
    data: u64,
) {
    let counters = &mut pmu.counters;
    // Reserved bits are dropped.
    let width = counters.model.width(counter);
    let value = width.to_guest(data);
    hw.set_counter(counter, width.to_hardware(value));
    // From which an overflow shows that sets no bit.
    counters.values[counter.slot()] = value;
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

    #[inline(always)]
    fn entered(&mut self) {
        self.ahead |= self.at_zero;
        self.at_zero = CounterSet::EMPTY;
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
                None => self.at_zero.set(counter, true),
            }
        }
        if !self.at_zero.is_empty() {
            hw.intercept_counters(self.at_zero);
        }
    }

    fn load(&mut self, _counters: &Counters, _hw: &mut H, _loaded: Loaded) {}

    /// They differ if nothing was left, and if the guest is at another privilege level by now.
    fn before_resume(&mut self, counters: &Counters, hw: &mut H, left: CounterSet) -> CounterSet {
        let now = self.counting_now(counters, hw);
        if !(self.at_zero & !now).is_empty() {
            self.forget_zeros(counters, hw, now);
        }
        let alone = now & !left & !self.at_zero;
        if !alone.is_empty() {
            self.set_back(counters, hw, alone);
        }
        left & !now
    }

    fn reload(&mut self, _hw: &mut H) {}

    /// A counter that is ahead is not 0, unless KVM did not come to enter the guest.
    #[inline(always)]
    fn put(&mut self, counters: &mut Counters, hw: &mut H) {
        let hidden = self.hidden();
        if hidden.is_empty() {
            return;
        }
        for counter in self.ahead.iter() {
            let value = counters.value(counter).saturating_sub(1);
            counters.set_value(counter, value);
        }
        hw.restore_intercepts(hidden, counters.model.passthrough, counters.mode);
        (self.ahead, self.at_zero) = (CounterSet::EMPTY, CounterSet::EMPTY);
    }
}
