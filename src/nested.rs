// SPDX-License-Identifier: GPL-2.0

//! Guests that run guests.
//!
//! L1 and L2 use one PMU, and its registers are the same for both. They are told apart in two places:
//!
//! - What L2 accesses without an exit is for L1 to say, too: KVM merges L1's intercepts with ours.
//! - A selector can name where it counts, in L1 or in L2 ([`Vendor::counts_in`]). To hardware both are
//!   guests, so that a counter which does not count where the vCPU is has to stay out of hardware.
//!
//! Transitions between L1 and L2 are KVM's to emulate, with the counters saved in [`GuestPmu`].
//!
//! [`GuestPmu`]: crate::guest::GuestPmu
//! [`Vendor::counts_in`]: crate::vendor::Vendor::counts_in

#![forbid(unsafe_code)]

/// Where a vCPU is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// The guest has enabled SVM, by EFER.SVME.
    pub svme: bool,
    /// It is the guest's guest that runs, L2.
    pub l2: bool,
}
