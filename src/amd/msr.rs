// SPDX-License-Identifier: GPL-2.0

//! MSR addresses of AMD's core performance counters, and what only their selectors have.
//!
//! Names are the manual's, APM Vol. 2 chapter 13.

use crate::msr::{EventSelector, Msr};

/// MSR addresses of the APM, appendix A.8.
impl Msr {
    /// Event selector of core counter 0 at its legacy address, the others follow.
    pub(crate) const LEGACY_PERF_CTL0: Self = Self::new(0xc001_0000);
    /// Core counter 0 at its legacy address, the others follow.
    pub(crate) const LEGACY_PERF_CTR0: Self = Self::new(0xc001_0004);
    /// Event selector of core counter 0; the others follow at every second address.
    pub(crate) const PERF_CTL0: Self = Self::new(0xc001_0200);
    /// Core counter 0; the others follow at every second address.
    pub(crate) const PERF_CTR0: Self = Self::new(0xc001_0201);
    /// Overflows, read only.
    pub(crate) const PERF_CNTR_GLOBAL_STATUS: Self = Self::new(0xc000_0300);
    /// Enables of all counters.
    pub(crate) const PERF_CNTR_GLOBAL_CTL: Self = Self::new(0xc000_0301);
    /// Clears bits of the status.
    pub(crate) const PERF_CNTR_GLOBAL_STATUS_CLR: Self = Self::new(0xc000_0302);
    /// Sets bits of the status.
    pub(crate) const PERF_CNTR_GLOBAL_STATUS_SET: Self = Self::new(0xc000_0303);

    /// The register of core counter `index` whose sibling of counter 0 this is.
    pub(crate) const fn of_core_counter(self, index: u8) -> Self {
        self.nth(2 * index as u32)
    }
}

/// Fields of PERF_CTL that IA32_PERFEVTSEL does not have.
impl EventSelector {
    /// EventSelect\[11:8\].
    pub(crate) const EVENT_HIGH: u64 = 0xf << 32;
    /// GuestOnly: count in guests; with HostOnly, everywhere. It takes EFER.SVME to count at all.
    pub(crate) const GUEST_ONLY: u64 = 1 << 40;
    /// HostOnly: count outside of guests.
    pub(crate) const HOST_ONLY: u64 = 1 << 41;
}
