// SPDX-License-Identifier: GPL-2.0

//! What differs between the vendors' PMUs, as one trait.
//!
//! [`crate::intel`] and [`crate::amd`] implement it. Code outside of a vendor's own file has no vendor's rules.

#![forbid(unsafe_code)]

use crate::{
    caps::{HostPmu, HostVendor, PmuCaps, Requirement},
    counter::CounterSet,
    guest::Register,
    intercepts::{Free, Passthrough},
    model::{GuestConfig, Model},
    msr::{EventSelector, Msr},
    nested::Mode,
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

    /// Every counter that a guest could ever have.
    const COUNTERS: CounterSet;

    /// Is entering the guest itself an instruction of the guest?
    const ENTRY_RETIRES: bool;

    /// What guests may have at most on this host.
    fn offer(host: &HostPmu) -> PmuCaps;

    /// The PMU of a guest that user space configured so.
    fn model(host: &HostPmu, config: &impl GuestConfig) -> Model;

    /// The register at address `msr`, `None` if the guest's PMU has none there.
    fn register(model: &Model, msr: Msr) -> Option<Register>;

    /// Is `msr` one of the PMU, if only to say what accesses of it do?
    fn is_valid(model: &Model, msr: Msr) -> bool {
        Self::register(model, msr).is_some()
    }

    /// What RDPMC reads with this ECX, `None` if it faults.
    fn rdpmc(model: &Model, ecx: u32) -> Option<Operand>;

    /// Every PMU register, each with what the guest may do with it without an exit.
    fn intercepts(free: Passthrough) -> impl Iterator<Item = (Msr, Free)>;

    /// Does a general-purpose counter count in `mode` if the guest wrote this selector?
    fn counts_in(_selector: EventSelector, _mode: Mode) -> bool {
        true
    }

    /// Does a general-purpose counter with this selector count an emulated instruction as `retired`?
    fn selects(selector: EventSelector, retired: Retired) -> bool;

    /// Does a general-purpose counter with this selector count the guest's entry? Asked where that
    /// retires.
    fn counts_entry(_selector: EventSelector) -> bool {
        false
    }

    /// Does fixed counter `index` count an emulated instruction as `retired`?
    fn fixed_counts(index: u8, retired: Retired) -> bool;
}
