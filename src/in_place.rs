// SPDX-License-Identifier: GPL-2.0

//! What KVM completes while the guest's state is in hardware, to enter the guest again at once.
//!
//! Between VM-exit and VM-entry nothing counts, so that counters and selectors can be changed there
//! as well as in memory. That is for what is frequent and short, and KVM's fastpath: instructions
//! without a part in the PMU, and writes of selectors. Whatever else may come of a write, be it a
//! fault or an interrupt, is left to when the state is in memory.
//!
//! Where the entry itself counts, as VMRUN does, what was completed and the entry are one sum:
//! [`crate::amd::entry`].

use crate::{
    counter::CounterSet,
    counters::{Counters, Counting},
    filter::EventFilter,
    guest::GuestPmu,
    msr::EventSelector,
    register::{Initiator, Register},
    retired::Retired,
    switch::{Hw, JUST_OVERFLOWED},
    unit::{Selects, SwitchUnit, Unit},
    vendor::Vendor,
};

/// Hardware on which nothing counts between VM-exit and VM-entry.
pub(crate) trait InPlaceHw: Hw {
    /// The guest's global control as of the last VM-exit.
    fn exit_global_ctrl(&self) -> u64;

    /// Has the global control be `ctrl` as soon as the guest is entered, as it was when the guest
    /// was left, which may be entered by another VMCS now.
    fn keep_global_ctrl(&mut self, ctrl: u64);
}

/// What became of a write.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// It can't be done in place: nothing has changed.
    No,
    /// The guest can be entered again.
    Yes,
    /// The state has to leave the hardware before the guest is entered again.
    Leave,
}

/// The guest has exited to write `data` to `register`. Writes it, and has hardware follow, if that
/// can be done in place.
///
/// The WRMSR remains to be counted, by [`retire`].
pub(crate) fn write<V, H>(
    pmu: &mut GuestPmu<V>,
    hw: &mut H,
    register: Register,
    data: u64,
    filter: &impl EventFilter,
) -> Written
where
    V: Vendor,
    V::Units: SwitchUnit<H>,
    H: InPlaceHw,
{
    let Some(selects) = pmu.selects(register, data) else {
        return Written::No;
    };
    // LVTPC is the guest's only if something could interrupt when its state was loaded.
    let needs_lvtpc = selects.interrupts && !pmu.can_interrupt();
    if changes_global_ctrl(&pmu.counters, selects) || needs_lvtpc || confuses_pmis(pmu, hw, selects)
    {
        return Written::No;
    }
    read_global_ctrl(pmu, hw);
    let active = pmu.counters.active;
    let written = pmu.write(register, data, Initiator::Guest, filter);
    if written.is_err() {
        return Written::No;
    }
    let counters = &mut pmu.counters;
    let changed = active ^ counters.active;
    counters.stopped |= active & changed;
    for counter in (selects.counters & CounterSet::ALL_GP).iter() {
        let active = counters.active.contains(counter);
        let selector = active.then(|| counters.hw_selector(counter));
        hw.set_selector(counter, selector.unwrap_or(EventSelector::OFF));
    }
    if let Register::Unit(_) = register {
        pmu.units.reload(hw);
    }
    // The event filter may have become another one, of which KVM has not told yet: then more has
    // changed by it than the guest has written.
    if (changed & !selects.counters).is_empty() {
        Written::Yes
    } else {
        Written::Leave
    }
}

/// KVM has completed an instruction and is about to enter the guest again: counts it as `what`.
/// Returns whether the guest is owed a PMI, for which it must not be entered at once.
///
/// `in_user_mode` is that of [`GuestPmu::retire`].
#[must_use]
pub(crate) fn retire<V, H>(
    pmu: &mut GuestPmu<V>,
    hw: &mut H,
    what: Retired,
    in_user_mode: impl FnOnce() -> bool,
) -> bool
where
    V: Vendor,
    H: InPlaceHw,
{
    if !pmu.may_count(what) {
        pmu.wrmsr = None;
        return false;
    }
    read_global_ctrl(pmu, hw);
    let counting = pmu.counting(what, in_user_mode);
    count::<V>(&mut pmu.counters, hw, counting)
}

/// Counts one by `counting`. Returns whether the guest is owed a PMI.
#[must_use]
#[inline(never)]
pub(crate) fn count<V: Vendor>(
    counters: &mut Counters,
    hw: &mut impl Hw,
    counting: Counting,
) -> bool {
    let mut overflowed = CounterSet::EMPTY;
    let model = &counters.model;
    counting.counters.unrolled(V::COUNTERS, |counter| {
        let width = model.width(counter);
        let value = width.to_guest(hw.counter(counter).wrapping_add(1));
        hw.set_counter(counter, width.to_hardware(value));
        if value == 0 {
            overflowed |= counter.bit();
        }
    });
    if !overflowed.is_empty() && counters.model.has_global_registers() {
        hw.set_status(overflowed.bits());
        // Where it is put that must not look like an overflow with an interrupt on its way.
        counters.global_status |= overflowed.bits();
    }
    !(overflowed & counting.interrupting).is_empty()
}

/// The guest has been entered since its state was loaded, or since KVM completed an instruction
/// last: what was left to the entry has been counted.
#[inline(always)]
pub(crate) fn entered<V: Vendor>(pmu: &mut GuestPmu<V>) {
    pmu.left_to_entry = None;
    pmu.units.entered();
}

/// The state is in memory again: counts what was left to an entry that does not come. Returns
/// whether the guest is owed a PMI.
#[must_use]
pub(crate) fn end<V: Vendor>(pmu: &mut GuestPmu<V>) -> bool {
    let Some(counting) = pmu.left_to_entry.take() else {
        return false;
    };
    let counters = counting.counters & pmu.counters.globally_enabled();
    let overflowed = pmu.counters.increment(counters);
    !(overflowed & counting.interrupting).is_empty()
}

/// Counters that interrupt, and overflow with what was left to an entry.
#[inline(always)]
pub(crate) fn left_to_overflow<V: Vendor>(pmu: &GuestPmu<V>, hw: &impl Hw) -> CounterSet {
    match pmu.left_to_entry {
        Some(left) => overflowing(&pmu.counters, hw, left),
        None => CounterSet::EMPTY,
    }
}

/// Counters that interrupt, and overflow if one is counted by `left`.
fn overflowing(counters: &Counters, hw: &impl Hw, left: Counting) -> CounterSet {
    let mut last = left.counters & left.interrupting & counters.globally_enabled();
    for counter in last.iter() {
        let width = counters.model.width(counter);
        let value = width.to_guest(hw.counter(counter));
        last.set(counter, value == width.mask());
    }
    last
}

/// Might hardware need another global control after what `selects` does?
///
/// Where the guest writes it freely it is the guest's. Else it is off for as long as no counter is
/// active, and enables all of them otherwise.
fn changes_global_ctrl(counters: &Counters, selects: Selects) -> bool {
    let others = counters.active & !selects.counters;
    !counters.model.passthrough.global_ctrl && others.is_empty()
}

/// Where the guest writes the global control without an exit, hardware knows it.
pub(crate) fn read_global_ctrl<V: Vendor>(pmu: &mut GuestPmu<V>, hw: &impl InPlaceHw) {
    let counters = &mut pmu.counters;
    if counters.model.passthrough.global_ctrl {
        counters.global_ctrl = hw.exit_global_ctrl() & counters.model.global_ctrl_valid;
    }
}

/// Would a PMI be lost by what `selects` does, or one be told that there is none?
///
/// What is known of overflows is told when the state is put, by the counters that interrupt then. A
/// counter that interrupts now must not have overflowed just before, for its PMI may not have come
/// yet; and one that will must not have overflowed before it did.
fn confuses_pmis<V: Vendor>(pmu: &GuestPmu<V>, hw: &impl Hw, selects: Selects) -> bool {
    let interrupting = selects.counters & pmu.counters.interrupting;
    if interrupting.is_empty() && !selects.interrupts {
        return false;
    }
    let model = &pmu.counters.model;
    let is_low = |counter| model.width(counter).to_guest(hw.counter(counter)) < JUST_OVERFLOWED;
    if interrupting.iter().any(is_low) {
        return true;
    }
    let new = hw.status() & !pmu.counters.global_status;
    new & selects.counters.bits() != 0
}
