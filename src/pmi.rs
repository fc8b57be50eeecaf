// SPDX-License-Identifier: GPL-2.0

//! Performance-monitoring interrupts: when a guest is owed one.
//!
//! While the guest runs, its overflows raise the PMI in hardware: the local APIC's LVTPC entry
//! holds the mediated PMI vector then, whose arrival makes KVM inject the guest's own PMI. Two more
//! sources are decided in software:
//!
//! - an instruction that KVM completed overflows a saved counter ([`crate::retired`]);
//! - the guest leaves the processor with an overflow whose interrupt is still on its way
//!   ([`crate::switch`]). By then LVTPC is perf's again, and the interrupt would go to the host.
//!
//! A PMI that both software and hardware ask for is one PMI: each makes the same KVM request, which
//! KVM serves after both, just before the next VM-entry.

#![forbid(unsafe_code)]

/// Is the guest owed a performance-monitoring interrupt?
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pmi {
    /// No.
    None,
    /// Yes: deliver what the guest's LVTPC says, unless that is masked.
    Owed,
}

impl Pmi {
    /// [`Pmi::Owed`] if `owed`.
    pub const fn owed_if(owed: bool) -> Self {
        if owed {
            Self::Owed
        } else {
            Self::None
        }
    }
}

/// The value of the guest's LVTPC, the local APIC's vector table entry of PMIs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lvtpc(u32);

impl Lvtpc {
    /// An overflow raises no interrupt, and none stays pending.
    const MASKED: u32 = 1 << 16;

    /// The register with these bits.
    pub const fn new(bits: u32) -> Self {
        Self(bits)
    }

    /// The bits.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Is the interrupt masked?
    pub const fn is_masked(self) -> bool {
        self.0 & Self::MASKED != 0
    }
}
