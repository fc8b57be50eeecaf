// SPDX-License-Identifier: GPL-2.0

//! Which MSRs a guest may be let access.
//!
//! The tables of what a guest accesses freely are in `src/`, where a mistake must not cost more
//! than a wrong count. Among the MSRs there are some that would cost the host its memory
//! (IA32_DS_AREA, VM_HSAVE_PA, EFER), so that the last word is here.

use crate::{amd, counter, msr::Msr, sys::bindings};

/// An MSR that a guest can be let access.
///
/// # Invariants
///
/// The register is a counter, or one of those that switch all counters on and off or tell which of
/// them overflowed. Whatever a guest writes there has no effect on memory, and what it reads is its
/// own while it owns the PMU.
#[derive(Clone, Copy)]
pub(super) struct GuestMsr(Msr);

impl GuestMsr {
    /// The register at `msr`, if a guest can be let access it.
    pub(super) const fn new(msr: Msr) -> Option<Self> {
        if is_counter(msr) || is_global(msr) {
            // INVARIANT: It is one of the registers that the type is about.
            Some(Self(msr))
        } else {
            None
        }
    }

    /// The address.
    pub(super) const fn address(self) -> u32 {
        self.0.address()
    }

    /// As [`Self::new`]; where a guest can't be let access the register the kernel warns.
    pub(super) fn checked(msr: Msr) -> Option<Self> {
        let checked = Self::new(msr);
        if checked.is_none() {
            // SAFETY: The function prints a warning.
            unsafe { bindings::kmp_warn_not_for_guests(msr.address()) };
        }
        checked
    }
}

/// Is `msr` a counter, or IA32_PERF_METRICS, which is made of one?
const fn is_counter(msr: Msr) -> bool {
    msr.index_from(Msr::IA32_PMC0, counter::MAX_GP).is_some()
        || msr.index_from(Msr::IA32_A_PMC0, counter::MAX_GP).is_some()
        || msr.index_from(Msr::IA32_FIXED_CTR0, counter::MAX_FIXED).is_some()
        || msr.address() == Msr::IA32_PERF_METRICS.address()
        || msr.index_from(Msr::LEGACY_PERF_CTR0, amd::LEGACY_COUNTERS).is_some()
        // Selectors are even, counters are odd.
        || matches!(msr.index_from(Msr::PERF_CTL0, 2 * amd::CORE_COUNTERS), Some(n) if n % 2 == 1)
}

/// Is `msr` a global register whose state is the guest's while it owns the PMU? Those that set bits
/// of the status are not among them, nor is what tells of other users of the PMU.
const fn is_global(msr: Msr) -> bool {
    // Status, control, and what clears the status, each at the next address.
    msr.index_from(Msr::IA32_PERF_GLOBAL_STATUS, 3).is_some()
        || msr.index_from(Msr::PERF_CNTR_GLOBAL_STATUS, 3).is_some()
}

const _: () = {
    // IA32_DEBUGCTL, IA32_PEBS_ENABLE, IA32_DS_AREA, EFER and VM_HSAVE_PA; and of the PMU the first
    // selectors, what comes right behind the counters, and what sets the status.
    let foreign = [0x1d9, 0x3f1, 0x600, 0xc000_0080, 0xc001_0117];
    let intel = [0x0c9, 0x186, 0x30d, 0x38d, 0x391, 0x4c9];
    let amd = [0xc000_0303, 0xc001_0000, 0xc001_0008, 0xc001_0200];
    assert!(none_is_open(&foreign) && none_is_open(&intel) && none_is_open(&amd));

    const fn none_is_open(msrs: &[u32]) -> bool {
        let mut n = 0;
        while n < msrs.len() {
            if GuestMsr::new(Msr::new(msrs[n])).is_some() {
                return false;
            }
            n += 1;
        }
        true
    }
};
