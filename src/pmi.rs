// SPDX-License-Identifier: GPL-2.0

//! Performance-monitoring interrupts: when a guest is owed one.
//!
//! While the guest runs, its overflows raise the PMI in hardware: the local APIC's LVTPC entry
//! holds the mediated PMI vector then, whose arrival makes KVM inject the guest's own PMI. Two more
//! sources are decided in software:
//!
//! - an instruction that KVM completed overflows a counter, be it in memory or in hardware
//!   ([`crate::retired`], [`crate::in_place`]);
//! - the guest leaves the processor with an overflow whose interrupt is still on its way
//!   ([`crate::switch`]). Processors may take their time, or may raise none if LVTPC has been
//!   masked meanwhile: so where the status has a new overflow the guest gets its PMI without. The
//!   host waits for the interrupt all the same, so that it doesn't come as a second PMI.
//!
//! Of an overflow whose status bit the guest has cleared, or had set before, only hardware's
//! interrupt tells. The host waits for it where there may be one. One that arrives when LVTPC is
//! perf's again perf hands to KVM, which gives it to the vCPU if that is still there.
//!
//! A PMI that both software and hardware ask for is one PMI: each makes the same KVM request, which
//! KVM serves after both, just before the next VM-entry.

/// What is known of overflows that interrupt, of a stay in the guest, when it has ended.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overflow {
    /// There was none.
    None,
    /// There was one. The guest is owed a PMI; the interrupt that hardware has raised for it may
    /// still be on its way.
    New,
    /// There may have been one a moment ago, by the value of a counter that interrupts. If so, the
    /// interrupt of hardware's is all that tells, and it may still be on its way.
    Unclear,
}

/// The value of the guest's LVTPC, the local APIC's vector table entry of PMIs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lvtpc(u32);

impl Lvtpc {
    /// An overflow raises no interrupt, and none stays pending.
    const MASKED: u32 = 1 << 16;

    /// The register with these bits.
    pub(crate) const fn new(bits: u32) -> Self {
        Self(bits)
    }

    /// Is the interrupt masked?
    pub(crate) const fn is_masked(self) -> bool {
        self.0 & Self::MASKED != 0
    }
}
