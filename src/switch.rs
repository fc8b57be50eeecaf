// SPDX-License-Identifier: GPL-2.0

//! The world switch: a guest's PMU into hardware and out of it.
//!
//! Two things change hands around VM-entry, and they are kept apart:
//!
//! - *Ownership*: perf gives this processor's PMU to the vCPU and takes it back. perf stops the host's
//!   events, so that nothing counts, and points LVTPC to the mediated PMI vector, unless nothing can
//!   interrupt ([`GuestPmu::can_interrupt`]). That is done by the caller; here it shows as possession
//!   of a [`Hw`], which exists only while the vCPU owns the PMU.
//! - *Running*: the guest's state is in hardware and its counters may count. That is [`load`] and
//!   [`put`].
//!
//! Today each VM-entry does both. Leaving the guest's state in hardware until someone else wants the
//! PMU is a decision of the caller's, and needs nothing new here.
//!
//! # Nothing counts while we switch
//!
//! The counters' own enables and the global control are both needed for a counter to count. perf hands
//! the PMU over with the global control 0.
//!
//! On Intel, VM-entry loads the guest's value and VM-exit loads 0 again, so that it is 0 in all of
//! `load` and `put`, and no order of the writes below can make a counter tick. On AMD `load` writes it
//! last and `put` clears it first. From there to VMRUN and from #VMEXIT to here it has the guest's
//! value, and instructions of the host go by, but each selector says GuestOnly: what counts then is
//! the guest alone. So the selectors have to be there when the global control is given, and the
//! global control gone when they are taken out.
//!
//! In either case the order is chosen for what may go wrong otherwise:
//!
//! 1. `load` writes counters before selectors, and `put` clears selectors before it ends: between the
//!    two, an enabled selector always stands beside the guest's own counter value.
//! 2. `put` takes the global control first: it is the value that the last VM-exit saved, and on
//!    processors where VM-exit does not clear it, taking it is what stops the counters.
//! 3. `put` reads counters before the status. Both stand still; should one ever not, then the status
//!    is the later of the two, and an overflow is seen twice rather than lost.
//!
//! # Entering counts
//!
//! On AMD entering the guest is itself an instruction of the guest, and a branch ([`Vendor::ENTRY_RETIRES`]).
//! The guest does not know of it, so `load` sets back by one each counter that is about to count it, and
//! the guest begins with its own value. The counter that is 0 is an exception, since it would
//! overflow: it has a count too much until `put` takes it away, and the guest exits if it accesses the
//! counter meanwhile. Right after an overflow that is the rule on a processor whose interrupts are
//! prompt, and a rarity on others.
//!
//! # What is not written
//!
//! WRMSR serializes and costs more than all else here, so nothing is written that hardware is known to
//! hold already.
//!
//! - After a `put` the counters hold the guest's values still, unless the host or another guest uses
//!   them, which perf knows ([`Hw::claim_counters`]). If nobody did, `load` writes those of which
//!   something else than the guest has changed the value: user space, or KVM that completed an
//!   instruction, or set it back for the entry. Else it reads them all, and writes those that differ.
//! - Selectors and IA32_FIXED_CTR_CTRL are off when a vCPU gets the PMU (perf's promise) and are off
//!   again after `put` (ours), so that those which are to be off need no write.
//! - The status is written where it differs. A PMU that counts nothing and had no status bit set
//!   cannot have got one, since only an overflow sets one: `put` does not even read it.
//! - The global registers of a guest that cannot access them in hardware matter to its counters alone.
//!   While it counts nothing they are nobody's, and stay as the host left them. While it does, its
//!   global control is as it was given, and need not be read.
//!
//! Counters have to be read in every `put`, also those which count nothing: the guest writes them
//! without an exit.

#![forbid(unsafe_code)]

use crate::{
    counter::{Counter, CounterSet},
    guest::GuestPmu,
    intercepts::Passthrough,
    msr::{global_ctrl, global_status, EventSelector, FixedCtrCtrl},
    nested::Mode,
    pmi::{Lvtpc, Pmi},
    vendor::Vendor,
};

/// Counters that `load` did not have to write.
pub type Elided = u32;

/// This processor's PMU, owned by a vCPU.
///
/// Interrupts are off while a value of this exists, and hardware counts nothing but between
/// VM-entry and VM-exit.
pub trait Hw {
    /// Claims the counters for a guest whose last claim, on whatever processor, was `claim`; 0 if it
    /// never had one.
    ///
    /// The result is `claim` just if nobody else had the counters of this processor since. It is never
    /// 0, and no two guests get the same.
    fn claim_counters(&mut self, claim: u64) -> u64;

    /// The value of `counter` (RDPMC).
    fn counter(&self, counter: Counter) -> u64;

    /// Sets `counter`, all of its bits.
    fn set_counter(&mut self, counter: Counter, value: u64);

    /// IA32_PERF_METRICS (RDPMC). Asked for only of guests that have it, and so has the host then.
    fn metrics(&self) -> u64 {
        0
    }

    /// Sets IA32_PERF_METRICS.
    fn set_metrics(&mut self, _value: u64) {}

    /// Sets the event selector of general-purpose `counter`.
    fn set_selector(&mut self, counter: Counter, selector: EventSelector);

    /// Sets IA32_FIXED_CTR_CTRL, if there are fixed counters.
    fn set_fixed_ctrl(&mut self, _ctrl: FixedCtrCtrl) {}

    /// The global status.
    fn status(&self) -> u64;

    /// Clears the bits of `status` that are set in `bits`.
    fn clear_status(&mut self, bits: u64);

    /// Sets the bits of `status` that are set in `bits`.
    fn set_status(&mut self, bits: u64);

    /// The guest's global control as of the last VM-exit; nothing counts when this returns.
    fn take_global_ctrl(&mut self) -> u64;

    /// The same where the guest cannot have changed what it was `given`.
    fn drop_global_ctrl(&mut self, given: u64);

    /// Has the global control be `ctrl` as soon as the guest is entered. Until then nothing counts.
    fn give_global_ctrl(&mut self, ctrl: u64);

    /// Will the guest be entered at CPL 1, 2 or 3?  Asked where entering counts.
    fn in_user_mode(&self) -> bool {
        false
    }

    /// Has the guest exit if it accesses `counters`, until [`Hw::reveal`].
    fn hide(&mut self, _counters: CounterSet) {}

    /// Lets the guest, which is in `mode`, access `counters` again as far as it is `free` to.
    fn reveal(&mut self, _counters: CounterSet, _free: Passthrough, _mode: Mode) {}
}

/// Puts the state of `pmu` into hardware: the guest may run.
///
/// `lvtpc` is the guest's LVTPC, which hardware has got already if anything can interrupt.
pub fn load<V: Vendor>(pmu: &mut GuestPmu, hw: &mut impl Hw, lvtpc: Lvtpc) -> Elided {
    pmu.pmi_masked = lvtpc.is_masked();
    if !pmu.model.exists() {
        return 0;
    }
    if V::ENTRY_RETIRES {
        deduct_entry(pmu, hw);
    }
    let elided = load_counters::<V>(pmu, hw);
    set_selectors::<V>(pmu, hw, |counter| pmu.hw_selector(counter));
    if pmu.hw_fixed_ctrl() != FixedCtrCtrl::OFF {
        hw.set_fixed_ctrl(pmu.hw_fixed_ctrl());
    }
    if pmu.needs_global_registers() {
        load_status(hw, pmu.global_status);
    }
    hw.give_global_ctrl(pmu.hw_global_ctrl());
    elided
}

/// Takes the state of `pmu` out of hardware, which the host may use then.
///
/// Returns whether the guest is owed a PMI for an overflow since [`load`].
pub fn put<V: Vendor>(pmu: &mut GuestPmu, hw: &mut impl Hw) -> Pmi {
    if !pmu.model.exists() {
        return Pmi::None;
    }
    if pmu.model.passthrough.global {
        pmu.global_ctrl = hw.take_global_ctrl() & pmu.model.global_ctrl_valid;
    } else {
        hw.drop_global_ctrl(pmu.hw_global_ctrl());
    }
    put_counters::<V>(pmu, hw);
    if V::ENTRY_RETIRES {
        deduct_late(pmu, hw);
    }
    let pmi = put_status(pmu, hw);
    set_selectors::<V>(pmu, hw, |_| EventSelector::OFF);
    if pmu.hw_fixed_ctrl() != FixedCtrCtrl::OFF {
        hw.set_fixed_ctrl(FixedCtrCtrl::OFF);
    }
    pmi
}

/// Sets counters back by what entering the guest adds to them.
///
/// One that is 0 cannot be: it would overflow. It is one ahead instead for as long as the guest
/// runs, which the guest must not find out.
fn deduct_entry(pmu: &mut GuestPmu, hw: &mut impl Hw) {
    for counter in pmu.counting_entry(|| hw.in_user_mode()).iter() {
        match pmu.counters[counter.slot()].checked_sub(1) {
            Some(value) => pmu.set_counter(counter, value),
            None => pmu.ahead.set(counter, true),
        }
    }
    if !pmu.ahead.is_empty() {
        hw.hide(pmu.ahead);
    }
}

/// Sets counters back that [`deduct_entry`] could not: they are not 0 any more, unless the guest was
/// not entered.
#[inline(always)]
fn deduct_late(pmu: &mut GuestPmu, hw: &mut impl Hw) {
    if pmu.ahead.is_empty() {
        return;
    }
    for counter in pmu.ahead.iter() {
        let value = pmu.counters[counter.slot()].saturating_sub(1);
        pmu.set_counter(counter, value);
    }
    hw.reveal(pmu.ahead, pmu.model.passthrough, pmu.mode);
    pmu.ahead = CounterSet::EMPTY;
}

/// Makes hardware's counters the guest's.
///
/// A counter that is narrower than hardware's is not left to itself: when it overflows, hardware is
/// left without the bits above it, see [`crate::model::CounterWidth`].
fn load_counters<V: Vendor>(pmu: &mut GuestPmu, hw: &mut impl Hw) -> Elided {
    let claim = hw.claim_counters(pmu.claim);
    let kept = claim == pmu.claim && pmu.model.is_native();
    pmu.claim = claim;
    if kept && pmu.changed == 0 {
        return pmu.model.number_of_counters;
    }
    let differing = if kept {
        pmu.changed
    } else {
        find_differing::<V>(pmu, hw)
    };
    pmu.changed = 0;
    write_counters::<V>(pmu, hw, differing)
}

/// What hardware holds that is not the guest's, in the layout of [`GuestPmu::changed`].
#[inline(never)]
fn find_differing<V: Vendor>(pmu: &GuestPmu, hw: &impl Hw) -> u64 {
    let model = &pmu.model;
    let mut differing = 0;
    model.counters.unrolled(V::COUNTERS, |counter| {
        let value = model
            .width(counter)
            .to_hardware(pmu.counters[counter.slot()]);
        if hw.counter(counter) != value {
            differing |= counter.bit().bits();
        }
    });
    if model.metrics && hw.metrics() != pmu.metrics {
        differing |= global_ctrl::PERF_METRICS;
    }
    differing
}

/// Writes the counters in `differing`.
///
/// IA32_PERF_METRICS comes after the counters, and is written if fixed counter 3 is, too: it holds
/// fractions of that, so that what it reads now need not be what it will read.
#[inline(never)]
fn write_counters<V: Vendor>(pmu: &GuestPmu, hw: &mut impl Hw, differing: u64) -> Elided {
    let model = &pmu.model;
    let mut written = 0;
    CounterSet::from_bits(differing).unrolled(V::COUNTERS, |counter| {
        let value = pmu.counters[counter.slot()];
        hw.set_counter(counter, model.width(counter).to_hardware(value));
        written += 1;
    });
    let with_metrics = global_ctrl::PERF_METRICS | Counter::SLOTS.bit().bits();
    if model.metrics && differing & with_metrics != 0 {
        hw.set_metrics(pmu.metrics);
    }
    model.number_of_counters.wrapping_sub(written)
}

/// Saves the counters, also those that count nothing: the guest may have written them.
fn put_counters<V: Vendor>(pmu: &mut GuestPmu, hw: &impl Hw) {
    let (counters, model) = (&mut pmu.counters, &pmu.model);
    model.counters.unrolled(V::COUNTERS, |counter| {
        counters[counter.slot()] = model.width(counter).from_hardware(hw.counter(counter));
    });
    if model.metrics {
        pmu.metrics = hw.metrics();
    }
}

/// Sets the selectors of all counters that are programmed.
#[inline(always)]
fn set_selectors<V: Vendor>(
    pmu: &GuestPmu,
    hw: &mut impl Hw,
    selector: impl Fn(Counter) -> EventSelector,
) {
    if !pmu.programmed().is_empty() {
        pmu.programmed().unrolled(V::COUNTERS, |counter| {
            hw.set_selector(counter, selector(counter));
        });
    }
}

/// Makes hardware's status the guest's, whatever the host left there.
///
/// CondChgd can't be set, though user space may have it in a guest's saved state.
fn load_status(hw: &mut impl Hw, wanted: u64) {
    let found = hw.status();
    let wanted = wanted & !global_status::COND_CHGD;
    if found & !wanted != 0 {
        hw.clear_status(found & !wanted);
    }
    if wanted & !found != 0 {
        hw.set_status(wanted & !found);
    }
}

/// Saves the status and leaves hardware with none.
///
/// An overflow that set a bit since `load` is owed a PMI if its counter interrupts and LVTPC was not
/// masked: hardware has raised one, which has arrived or will be requested by us. LVTPC counts as it
/// was in hardware: an overflow behind the mask raises nothing, not even when the guest's exit is the
/// one that takes the mask away.
///
/// An overflow does not show where `load` has set the bit of an earlier one, even if the guest has
/// cleared that since, of which no exit tells. Its PMI relies on hardware's vector alone, as it does on
/// a bare machine.
fn put_status(pmu: &mut GuestPmu, hw: &mut impl Hw) -> Pmi {
    let loaded = pmu.global_status;
    if pmu.is_idle() && (loaded == 0 || !pmu.needs_global_registers()) {
        return Pmi::None;
    }
    let found = hw.status();
    if found != 0 {
        hw.clear_status(found);
    }
    if pmu.model.has_global_registers() {
        let not_loaded = loaded & global_status::COND_CHGD;
        pmu.global_status = (found | not_loaded) & pmu.model.global_status_valid;
    }
    // Nothing in IA32_FIXED_CTR_CTRL keeps IA32_PERF_METRICS from interrupting.
    let interrupting = pmu.interrupting.bits() | global_status::OVF_PERF_METRICS;
    let overflowed = found & !loaded & interrupting;
    Pmi::owed_if(overflowed != 0 && !pmu.pmi_masked)
}
