// SPDX-License-Identifier: GPL-2.0

//! Registers of a guest's PMU by what they are, whatever their addresses.

use crate::{counter::Counter, msr::Msr};

/// A register of a guest's PMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    /// What a general-purpose counter counts.
    Selector(Counter),
    /// A counter, and what a write of this address does.
    Counter(Counter, WriteWidth),
    /// The global control register.
    GlobalCtrl,
    /// The global status register.
    GlobalStatus,
    /// The register that clears bits of the status.
    GlobalStatusReset,
    /// The register that sets bits of the status.
    GlobalStatusSet,
    /// A register of a [`Unit`](crate::unit::Unit), which knows it by its address.
    Unit(Msr),
}

/// What writing a counter by one of its addresses does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteWidth {
    /// The guest writes 32 bits, which are sign-extended; user space writes the whole counter.
    SignExtended,
    /// The whole counter is written; a bit above its width is reserved.
    Full,
    /// The whole counter is written; to the guest a bit above its width is reserved, of what user
    /// space writes it is dropped.
    FullByGuest,
    /// The whole counter is written; bits above its width are dropped.
    Truncated,
}

/// Who accesses a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Initiator {
    /// The guest, by RDMSR or WRMSR.
    Guest,
    /// User space, by KVM_GET_MSRS or KVM_SET_MSRS.
    Host,
}

/// The access faults: \#GP in the guest, an MSR not read or written in user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GeneralProtection;

/// Faults if `data` has a bit outside of `valid`.
pub(crate) fn check(data: u64, valid: u64) -> Result<(), GeneralProtection> {
    if data & !valid == 0 {
        Ok(())
    } else {
        Err(GeneralProtection)
    }
}
