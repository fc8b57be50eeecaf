// SPDX-License-Identifier: GPL-2.0

//! A guest's state that stays in hardware when the guest is left: it is *parked* there.
//!
//! As long as the host has no event of its own on the processor nobody needs the counters, and most
//! guests that are left are entered again soon. So nothing is saved, nothing is written, and memory
//! is out of date. That ends when somebody asks for what is in memory, when the vCPU leaves the
//! processor, or when perf needs the hardware: perf takes the state out, and
//! [`switch::save`](crate::switch::save()) finds it in perf's copy.
//!
//! Nothing may come of it that the guest, or the host, could tell from a PMU that is saved and
//! loaded: an overflow is told when the guest is left, as ever, for its interrupt may be late.
//!
//! Where the entry itself counts, as VMRUN does, what KVM completes meanwhile and the entry are one
//! sum: [`crate::amd::entry`].

use crate::{
    counters::{Counters, Counting},
    guest::GuestPmu,
    in_place::{self, InPlaceHw},
    pmi::{Lvtpc, Overflow},
    retired::Retired,
    switch::{self, Elided, Hw},
    unit::{SwitchUnit, Unit},
    vendor::Vendor,
};

/// Can `pmu` be parked, as far as that is known without a look at hardware?
///
/// Where the guest's accesses of the status exit that it has free, hardware's is about to change.
/// A counter that is narrower than hardware's has to be seen to when it has overflowed; whether
/// there is one is known since the state was loaded.
#[inline(always)]
pub(crate) fn may<V: Vendor>(pmu: &GuestPmu<V>) -> bool {
    let counters = &pmu.counters;
    counters.may_park
        && !counters.is_idle()
        && !counters.status_hidden
        && pmu.units.can_stay(counters)
}

/// The guest was left, and its state stays in hardware if that is possible: then returns what is
/// known of overflows since the guest was entered.
///
/// If not, nothing has changed but for what memory has of the global control.
#[must_use]
#[inline(always)]
pub(crate) fn stop<V: Vendor>(pmu: &mut GuestPmu<V>, hw: &mut impl InPlaceHw) -> Option<Overflow> {
    let counters = &mut pmu.counters;
    if counters.model.passthrough.global_ctrl {
        let ctrl = hw.exit_global_ctrl();
        // What the guest has not got, it has switched on.
        if ctrl & !counters.model.global_ctrl_valid != 0 {
            return None;
        }
        counters.global_ctrl = ctrl;
    }
    // To have memory count it tells of it now, and not when the vCPU may sleep already.
    if V::ENTRIES_COUNT && !in_place::left_to_overflow(pmu, hw).is_empty() {
        return None;
    }
    let counts = pmu.can_count();
    // Whether it has counted since is known in memory.
    if !counts && pmu.rest.is_due() {
        return None;
    }
    let overflow = if pmu.interrupting() == 0 || pmu.counters.lvtpc_masked {
        Overflow::None
    } else {
        look_for_overflows(pmu, hw)?
    };
    pmu.rest.left(counts);
    Some(overflow)
}

/// What came of entering a guest again.
#[must_use]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resumed {
    /// Counters that needed no write.
    pub(crate) elided: Elided,
    /// The guest is owed a PMI.
    pub(crate) owed: bool,
}

/// The guest is about to be entered again, with its state in hardware, and maybe with another VMCS
/// than it was left with. Its LVTPC is `lvtpc` now.
#[inline(always)]
pub(crate) fn resume<V, H>(pmu: &mut GuestPmu<V>, hw: &mut H, lvtpc: Lvtpc) -> Resumed
where
    V: Vendor,
    V::Units: SwitchUnit<H>,
    H: InPlaceHw,
{
    pmu.wrmsr = None;
    let unmasked = pmu.counters.lvtpc_masked && !lvtpc.is_masked();
    pmu.counters.lvtpc_masked = lvtpc.is_masked();
    // What has overflowed behind the mask is not to be told.
    if unmasked && pmu.interrupting() != 0 {
        let found = switch::read_status(&mut pmu.counters, hw);
        know_status(&mut pmu.counters, hw, found);
        switch::hide_status(&mut pmu.counters, hw);
    }
    let owed = V::ENTRIES_COUNT && settle_entry(pmu, hw);
    hw.keep_global_ctrl(pmu.counters.hw_global_ctrl());
    Resumed {
        elided: pmu.counters.model.number_of_counters,
        owed,
    }
}

/// Has the entry that comes now count what was left to it, and nothing else. Returns whether the
/// guest is owed a PMI.
fn settle_entry<V, H>(pmu: &mut GuestPmu<V>, hw: &mut H) -> bool
where
    V: Vendor,
    V::Units: SwitchUnit<H>,
    H: Hw,
{
    let counters = &mut pmu.counters;
    let left = pmu.left_to_entry.take().unwrap_or_default();
    let enabled = left.counters & counters.globally_enabled();
    let missed = pmu.units.before_resume(counters, hw, enabled);
    if missed.is_empty() {
        return false;
    }
    let missed = Counting {
        counters: missed,
        ..left
    };
    in_place::count::<V>(counters, hw, missed)
}

/// KVM has completed an instruction of the guest, whose state is in hardware: counts it as `what`.
/// Returns whether the guest is owed a PMI.
///
/// `in_user_mode` is that of [`GuestPmu::retire`].
#[must_use]
pub(crate) fn retire<V: Vendor>(
    pmu: &mut GuestPmu<V>,
    hw: &mut impl Hw,
    what: Retired,
    in_user_mode: impl FnOnce() -> bool,
) -> bool {
    let counting = pmu.counting(what, in_user_mode);
    !counting.counters.is_empty() && in_place::count::<V>(&mut pmu.counters, hw, counting)
}

/// What RDPMC reads with this ECX of a counter, in hardware. `None` if it is something else.
pub(crate) fn rdpmc<V: Vendor>(pmu: &GuestPmu<V>, hw: &impl Hw, ecx: u32) -> Option<u64> {
    let counter = V::rdpmc(pmu.model(), ecx)?;
    let width = pmu.model().width(counter);
    Some(width.to_guest(hw.counter(counter)))
}

/// As [`switch::save`] does; `None` if the status has somebody else's bits.
#[inline(never)]
fn look_for_overflows<V: Vendor>(
    pmu: &mut GuestPmu<V>,
    hw: &mut impl InPlaceHw,
) -> Option<Overflow> {
    let interrupting = pmu.interrupting();
    let counters = &mut pmu.counters;
    let found = hw.status();
    if found & !counters.model.status_lent != 0 {
        return None;
    }
    let new = found & !counters.global_status;
    know_status(counters, hw, found);
    let low = switch::moved_and_low(counters, hw);
    Some(switch::overflow_of(interrupting, new, low))
}

/// Has memory know the status `found` as well. Where the guest has none it would stay, and look
/// like another overflow the next time.
fn know_status(counters: &mut Counters, hw: &mut impl Hw, found: u64) {
    if counters.model.has_global_registers() {
        counters.save_status(found);
    } else if found != 0 {
        hw.clear_status(found);
    }
}
