// SPDX-License-Identifier: GPL-2.0

//! What differs between the vendors' PMUs, as one trait.
//!
//! [`crate::intel`] implements it. Code outside of a vendor's own file has no vendor's rules.

#![forbid(unsafe_code)]

use crate::{
    caps::{HostPmu, HostVendor, PmuCaps, Requirement},
    guest::Register,
    intercepts::Passthrough,
    model::{GuestConfig, Model},
    msr::{EventSelector, Msr},
    rdpmc::Operand,
    retired::Retired,
};

/// A vendor's rules for hosts and guests.
pub trait Vendor: 'static {
    /// Whose rules these are.
    const VENDOR: HostVendor;

    /// What a log line calls the vendor.
    const NAME: &'static str;

    /// What a host must have.
    const REQUIREMENTS: &'static [Requirement];

    /// What guests may have at most on this host.
    fn offer(host: &HostPmu) -> PmuCaps;

    /// The PMU of a guest that user space configured so.
    fn model(host: &HostPmu, config: &impl GuestConfig) -> Model;

    /// The register at address `msr`, `None` if the guest's PMU has none there.
    fn register(model: &Model, msr: Msr) -> Option<Register>;

    /// What RDPMC reads with this ECX, `None` if it faults.
    fn rdpmc(model: &Model, ecx: u32) -> Option<Operand>;

    /// Every PMU register, each with whether the guest may access it without an exit.
    fn intercepts(free: Passthrough) -> impl Iterator<Item = (Msr, bool)>;

    /// Does a general-purpose counter with this selector count an emulated instruction as `retired`?
    fn selects(selector: EventSelector, retired: Retired) -> bool;

    /// Does fixed counter `index` count an emulated instruction as `retired`?
    fn fixed_counts(index: u8, retired: Retired) -> bool;
}
