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

use crate::{
    guest::GuestPmu,
    in_place::{self, InPlaceHw},
    pmi::{Lvtpc, Overflow},
    retired::Retired,
    switch::{self, Elided, Hw},
    unit::Unit,
    vendor::Vendor,
};

/// Can `pmu` be parked, as far as that is known without a look at hardware?
///
/// Where the guest's access of the global control exits hardware's is not the guest's, and where
/// that of the status does it is about to change.
#[inline(always)]
pub(crate) fn may<V: Vendor>(pmu: &GuestPmu<V>) -> bool {
    let counters = &pmu.counters;
    counters.may_park
        && counters.model.passthrough.global_ctrl
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
    let ctrl = hw.exit_global_ctrl();
    // What the guest has not got, it has switched on.
    if ctrl & !counters.model.global_ctrl_valid != 0 {
        return None;
    }
    counters.global_ctrl = ctrl;
    if !pmu.can_count() {
        return None;
    }
    let overflow = if pmu.interrupting() == 0 || pmu.counters.lvtpc_masked {
        Overflow::None
    } else {
        look_for_overflows(pmu, hw)?
    };
    pmu.rest.left(true);
    Some(overflow)
}

/// The guest is about to be entered again, with its state in hardware, and maybe with another VMCS
/// than it was left with. Its LVTPC is `lvtpc` now.
#[inline(always)]
pub(crate) fn resume<V: Vendor>(pmu: &mut GuestPmu<V>, hw: &mut impl Hw, lvtpc: Lvtpc) -> Elided {
    pmu.wrmsr = None;
    let unmasked = pmu.counters.lvtpc_masked && !lvtpc.is_masked();
    pmu.counters.lvtpc_masked = lvtpc.is_masked();
    // What has overflowed behind the mask is not to be told.
    if unmasked && pmu.interrupting() != 0 {
        let found = switch::read_status(&mut pmu.counters, hw);
        pmu.counters.save_status(found);
        switch::hide_status(&mut pmu.counters, hw);
    }
    hw.give_global_ctrl(pmu.counters.hw_global_ctrl());
    pmu.counters.model.number_of_counters
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
    if !pmu.may_count(what) {
        pmu.wrmsr = None;
        return false;
    }
    in_place::count(pmu, hw, what, in_user_mode)
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
    counters.save_status(found);
    let low = switch::moved_and_low(counters, hw);
    Some(switch::overflow_of(interrupting, new, low))
}
