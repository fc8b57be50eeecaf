// SPDX-License-Identifier: GPL-2.0

//! The world switch: a guest's PMU into hardware and out of it.
//!
//! Two things change hands around VM-entry, and they are kept apart:
//!
//! - *Ownership*: perf gives this processor's PMU to the vCPU and takes it back. perf stops the
//!   host's events, so that nothing counts, and points LVTPC to the mediated PMI vector, unless
//!   nothing can interrupt ([`GuestPmu::can_interrupt`]). That is done by the caller; here it shows
//!   as possession of a [`Hw`], which exists only while the vCPU owns the PMU.
//! - *Running*: the guest's state is in hardware and its counters may count. That is [`load`] and
//!   [`put`]: of the counters, which are here, and of the vendor's units ([`crate::unit`]).
//!
//! Each VM-entry does both, but for a PMU that is at rest ([`crate::rest`]), for which there is
//! nothing to do, and for one whose state was left in hardware ([`crate::park`]).
//!
//! # Nothing counts while we switch
//!
//! The counters' own enables and the global control are both needed for a counter to count. perf
//! hands the PMU over with the global control 0.
//!
//! With VMX, VM-entry loads the guest's value and VM-exit loads 0 again, so that it is 0 in all of
//! `load` and `put`, and no order of the writes below can make a counter tick. With SVM `load`
//! writes it last and `put` clears it first. From there to VMRUN and from #VMEXIT to here it has
//! the guest's value, and instructions of the host go by, but each selector says GuestOnly: what
//! counts then is the guest alone. So the selectors have to be there when the global control is
//! given, and the global control gone when they are taken out.
//!
//! In either case the order is chosen for what may go wrong otherwise:
//!
//! 1. `load` writes counters before selectors, and `put` clears selectors before it ends: between
//!    the two, an enabled selector always stands beside the guest's own counter value.
//! 2. `put` takes the global control first: it is the value that the last VM-exit saved, and where
//!    VM-exit does not clear it, taking it is what stops the counters.
//! 3. `put` reads counters before the status. Both stand still; should one ever not, then the
//!    status is the later of the two, and an overflow is seen twice rather than lost.
//!
//! # What is not written
//!
//! WRMSR serializes and costs more than all else here, so nothing is written that hardware is known
//! to hold already.
//!
//! - After a `put` the counters hold the guest's values still, unless the host or another guest
//!   uses them, which perf knows ([`Hw::claim_counters`]). `load` writes those that the host has
//!   used, and those whose value somebody else than the guest has changed: user space, KVM that
//!   completed an instruction, or a unit. If another guest had them, it reads them all, and writes
//!   those that differ.
//! - Selectors are off when a vCPU gets the PMU (perf's promise) and are off again after `put`
//!   (ours), so that those which are to be off need no write.
//! - The status is written where it differs. A PMU that counts nothing and had no status bit set
//!   cannot have got one, since only an overflow sets one: `put` does not even read it. Nor does
//!   `load` if nobody else had the counters since `put` has cleared it.
//! - Of the status only those bits are written that are of the PMU which perf lends. Others tell of
//!   Processor Trace, of the uncore, or of the debug store, and are the host's to find. A guest
//!   must not find them: if there were any when the status was read last, or may be while it runs,
//!   it exits where it accesses the status.
//! - The global registers of a guest that cannot access them in hardware matter to its counters
//!   alone. While the guest counts nothing, hardware's values do not matter, and stay as the host
//!   left them. While it counts, its global control is as it was given, and need not be read.
//!
//! Counters have to be read in every `put`, also those which count nothing: the guest writes them
//! without an exit.

use crate::{
    counter::{Counter, CounterSet},
    counters::Counters,
    guest::GuestPmu,
    msr::EventSelector,
    pmi::{Lvtpc, Overflow},
    unit::{Loaded, SwitchUnit},
    vendor::Vendor,
};

/// Counters that `load` did not have to write.
pub(crate) type Elided = u32;

/// A guest's claim on the counters of the processor that it is on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    /// Which one it is: never 0, and no two guests have the same.
    pub(crate) number: u64,
    /// Counters that somebody else has used since the guest left its values in them.
    pub(crate) used: CounterSet,
    /// Bits of the status that are the host's, and may be set while the guest runs.
    pub(crate) host_status: u64,
    /// The host has no use for the PMU, so that the guest may be parked ([`crate::park`]).
    pub(crate) may_park: bool,
}

/// This processor's PMU, owned by a vCPU: what each vendor's has. Units ask for more by traits of
/// their own.
///
/// Interrupts are off while a value of this exists, and hardware counts nothing but between
/// VM-entry and VM-exit.
pub(crate) trait Hw {
    /// Claims the counters for a guest whose last claim, on whatever processor, had `number`; 0 if
    /// it never had one.
    ///
    /// The number stays the same just if no other guest had the counters of this processor since.
    /// If nobody used any, then the status has no bits of the lent PMU's that were not there when
    /// the PMU was given back.
    fn claim_counters(&mut self, number: u64) -> Claim;

    /// The value of `counter` (RDPMC).
    fn counter(&self, counter: Counter) -> u64;

    /// Sets `counter`, all of its bits.
    fn set_counter(&mut self, counter: Counter, value: u64);

    /// Sets the event selector of general-purpose `counter`.
    fn set_selector(&mut self, counter: Counter, selector: EventSelector);

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

    /// Has the guest exit if it accesses the status, until its intercepts are set anew.
    fn intercept_status(&mut self);

    /// Has the guest's intercepts set anew before it is entered again.
    fn renew_intercepts(&mut self);
}

/// Puts the state of `pmu` into hardware: the guest may run.
///
/// `lvtpc` is the guest's LVTPC, which hardware has got already if anything can interrupt.
pub(crate) fn load<V, H>(pmu: &mut GuestPmu<V>, hw: &mut H, lvtpc: Lvtpc) -> Elided
where
    V: Vendor,
    V::Units: SwitchUnit<H>,
    H: Hw,
{
    pmu.wrmsr = None;
    let (counters, units) = (&mut pmu.counters, &mut pmu.units);
    counters.lvtpc_masked = lvtpc.is_masked();
    counters.stopped = CounterSet::EMPTY;
    if !counters.model.exists() {
        return 0;
    }
    units.before_load(counters, hw);
    let loaded = load_counters::<V>(counters, hw);
    set_selectors::<V>(counters, hw, |counter| counters.hw_selector(counter));
    units.load(counters, hw, loaded);
    if counters.needs_global_registers() {
        load_status(counters, hw);
    }
    hw.give_global_ctrl(counters.hw_global_ctrl());
    elided(counters, loaded)
}

/// Takes the state of `pmu` out of hardware, which the host may use then.
///
/// After it the PMU may be at rest. Returns what is known of overflows since [`load`].
pub(crate) fn put<V, H>(pmu: &mut GuestPmu<V>, hw: &mut H) -> Overflow
where
    V: Vendor,
    V::Units: SwitchUnit<H>,
    H: Hw,
{
    let counters = &mut pmu.counters;
    if !counters.model.exists() {
        return Overflow::None;
    }
    if counters.model.passthrough.global_ctrl {
        counters.global_ctrl = hw.take_global_ctrl() & counters.model.global_ctrl_valid;
    } else {
        hw.drop_global_ctrl(counters.hw_global_ctrl());
    }
    let counts = pmu.can_count();
    let counters = &pmu.counters;
    let has_stopped = !counts && !counters.switched_on.is_empty();
    let (overflow, counted) = take_out(pmu, hw, has_stopped);
    pmu.rest.left(counts || counted);
    overflow
}

/// Takes the state of `pmu` out of what hardware was when perf took it from where
/// [`crate::park::stop`] has left it.
///
/// Returns what is known of overflows that were not told then, of which there may be none but those
/// that are told twice rather than lost.
pub(crate) fn save<V, H>(pmu: &mut GuestPmu<V>, hw: &mut H) -> Overflow
where
    V: Vendor,
    V::Units: SwitchUnit<H>,
    H: Hw,
{
    take_out(pmu, hw, false).0
}

/// Takes the state of `pmu` out of hardware, but for the global control, which is known. Returns
/// what is known of overflows, and if it is `asked` whether a counter that is on has moved.
#[inline(always)]
fn take_out<V, H>(pmu: &mut GuestPmu<V>, hw: &mut H, asked: bool) -> (Overflow, bool)
where
    V: Vendor,
    V::Units: SwitchUnit<H>,
    H: Hw,
{
    let (counters, units) = (&mut pmu.counters, &mut pmu.units);
    let loaded = asked.then_some(counters.values);
    let low = put_counters::<V>(counters, hw);
    let counted = loaded.is_some_and(|loaded| counters.have_counted_since(&loaded));
    units.put(counters, hw);
    let overflow = put_status(pmu, hw, low);
    set_selectors::<V>(&pmu.counters, hw, |_| EventSelector::OFF);
    if pmu.counters.status_hidden && !pmu.counters.status_differs() {
        pmu.counters.status_hidden = false;
        hw.renew_intercepts();
    }
    (overflow, counted)
}

/// How many counters needed no write.
#[inline(always)]
fn elided(counters: &Counters, loaded: Loaded) -> Elided {
    if loaded.written.is_empty() {
        return counters.model.number_of_counters;
    }
    (counters.model.counters & !loaded.written).len()
}

/// Makes hardware's counters the guest's.
///
/// A counter that is narrower than hardware's is not left to itself: when it overflows, hardware is
/// left without the bits above it, see [`crate::model::CounterWidth`].
fn load_counters<V: Vendor>(counters: &mut Counters, hw: &mut impl Hw) -> Loaded {
    let claim = hw.claim_counters(counters.claim);
    let kept = claim.number == counters.claim;
    let used = if kept { claim.used } else { CounterSet::ALL };
    counters.claim = claim.number;
    counters.host_status = claim.host_status;
    counters.may_park = claim.may_park && counters.model.is_native();
    counters.status_known &= used.is_empty();
    let written = if kept && counters.model.is_native() {
        counters.changed | (used & counters.model.counters)
    } else {
        find_differing::<V>(counters, hw)
    };
    counters.changed = CounterSet::EMPTY;
    if !written.is_empty() {
        write_counters::<V>(counters, hw, written);
    }
    Loaded { used, written }
}

/// Counters of which hardware does not hold the guest's value.
#[inline(never)]
fn find_differing<V: Vendor>(counters: &Counters, hw: &impl Hw) -> CounterSet {
    let model = &counters.model;
    let mut differing = CounterSet::EMPTY;
    model.counters.unrolled(V::COUNTERS, |counter| {
        let value = counters.values[counter.slot()];
        if hw.counter(counter) != model.width(counter).to_hardware(value) {
            differing |= counter.bit();
        }
    });
    differing
}

/// Writes the counters in `differing`.
#[inline(never)]
fn write_counters<V: Vendor>(counters: &Counters, hw: &mut impl Hw, differing: CounterSet) {
    let write = |counter: Counter| {
        let value = counters.values[counter.slot()];
        hw.set_counter(counter, counters.model.width(counter).to_hardware(value));
    };
    // Beside the NMI watchdog it is but its counter, at each VM-entry.
    if differing.len() < 3 {
        differing.iter().for_each(write);
    } else {
        differing.unrolled(V::COUNTERS, write);
    }
}

/// More than any counter counts until the interrupt of its overflow has come, which takes some
/// microseconds at most.
pub(crate) const JUST_OVERFLOWED: u64 = 1 << 16;

/// May a counter have overflowed a moment ago that has this `value`, and was `known` to have
/// another?
#[inline(always)]
fn may_just_have_overflowed(value: u64, known: u64) -> bool {
    value < JUST_OVERFLOWED && value != known
}

/// Saves the counters, also those that count nothing: the guest may have written them.
///
/// Returns those that may have overflowed a moment ago: they have counted since `load`, or were
/// written, and have not got far. Whether they are still on tells nothing. The guest may have
/// switched them off since, in a handler of PMIs, and also before the PMI has come.
#[inline(always)]
fn put_counters<V: Vendor>(counters: &mut Counters, hw: &impl Hw) -> CounterSet {
    let none_interrupts = counters.interrupting.is_empty();
    let (values, model) = (&mut counters.values, &counters.model);
    if none_interrupts {
        model.counters.unrolled(V::COUNTERS, |counter| {
            values[counter.slot()] = model.width(counter).to_guest(hw.counter(counter));
        });
        return CounterSet::EMPTY;
    }
    let mut low = CounterSet::EMPTY;
    model.counters.unrolled(V::COUNTERS, |counter| {
        let value = model.width(counter).to_guest(hw.counter(counter));
        let loaded = core::mem::replace(&mut values[counter.slot()], value);
        if may_just_have_overflowed(value, loaded) {
            low |= counter.bit();
        }
    });
    low
}

/// Sets the selectors of all counters that are active.
#[inline(always)]
fn set_selectors<V: Vendor>(
    counters: &Counters,
    hw: &mut impl Hw,
    selector: impl Fn(Counter) -> EventSelector,
) {
    let active = counters.active & CounterSet::ALL_GP;
    if !active.is_empty() {
        active.unrolled(V::COUNTERS & CounterSet::ALL_GP, |counter| {
            hw.set_selector(counter, selector(counter));
        });
    }
}

/// Reads what of hardware's status is the lent PMU's, and keeps what else was there in mind.
pub(crate) fn read_status(counters: &mut Counters, hw: &mut impl Hw) -> u64 {
    let found = hw.status();
    let lent = counters.model.status_lent;
    counters.foreign_status = found & !lent;
    found & lent
}

/// Makes hardware's status the guest's, as far as it is the lent PMU's.
///
/// What is somebody else's stays, and what the guest has of such bits by its saved state is not put
/// there: the guest exits then if it accesses the status.
fn load_status(counters: &mut Counters, hw: &mut impl Hw) {
    let found = if counters.status_known {
        0
    } else {
        read_status(counters, hw)
    };
    let wanted = counters.global_status & counters.model.status_lent;
    if found & !wanted != 0 {
        hw.clear_status(found & !wanted);
    }
    if wanted & !found != 0 {
        hw.set_status(wanted & !found);
    }
    counters.status_known = true;
    hide_status(counters, hw);
}

/// Has the guest exit where it would read another status in hardware than its own.
pub(crate) fn hide_status(counters: &mut Counters, hw: &mut impl Hw) {
    if counters.passthrough().global_status && counters.status_differs() {
        counters.status_hidden = true;
        hw.intercept_status();
    }
}

/// Saves the status and leaves hardware with none. Returns what is known of overflows.
///
/// An overflow that set a bit since `load` is owed a PMI if its counter interrupts and LVTPC was
/// not masked: hardware has raised one, which has arrived or will be requested by us. LVTPC counts
/// as it was in hardware: an overflow behind the mask raises nothing, not even when the guest's
/// exit is the one that takes the mask away.
///
/// An overflow does not show where `load` has set the bit of an earlier one, nor where the guest
/// has cleared the bit, of which no exit tells. Its PMI relies on hardware's interrupt alone, as it
/// does on a bare machine. That may still be on its way if the counter has not got far.
fn put_status<V: Vendor>(pmu: &mut GuestPmu<V>, hw: &mut impl Hw, low: CounterSet) -> Overflow {
    let counters = &mut pmu.counters;
    let loaded = counters.global_status & counters.model.status_lent;
    let idle = counters.is_idle() && counters.stopped.is_empty();
    if idle && (loaded == 0 || !counters.needs_global_registers()) {
        return Overflow::None;
    }
    let found = read_status(counters, hw);
    if found != 0 {
        hw.clear_status(found);
    }
    if counters.model.has_global_registers() {
        counters.save_status(found);
    }
    let interrupting = pmu.interrupting();
    if pmu.counters.lvtpc_masked {
        return Overflow::None;
    }
    overflow_of(interrupting, found & !loaded, low)
}

/// What is known of overflows if bits of the status that are set have not been so before, and some
/// counters are low.
pub(crate) fn overflow_of(interrupting: u64, new: u64, low: CounterSet) -> Overflow {
    if interrupting & new != 0 {
        Overflow::New
    } else if interrupting & low.bits() != 0 {
        Overflow::Unclear
    } else {
        Overflow::None
    }
}

/// Of the counters that interrupt, those which may have overflowed a moment ago, see
/// [`put_counters`].
pub(crate) fn moved_and_low(counters: &mut Counters, hw: &impl Hw) -> CounterSet {
    let mut low = CounterSet::EMPTY;
    for counter in counters.interrupting.iter() {
        let value = counters.model.width(counter).to_guest(hw.counter(counter));
        let known = core::mem::replace(&mut counters.values[counter.slot()], value);
        low.set(counter, may_just_have_overflowed(value, known));
    }
    low
}
