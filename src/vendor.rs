// SPDX-License-Identifier: GPL-2.0

//! What differs between the vendors' PMUs, as one trait.
//!
//! [`crate::intel`] and [`crate::amd`] implement it. Code outside of a vendor's folder has no
//! vendor's rules.

use crate::{
    caps::{HostPmu, PmuCaps, Requirement},
    counter::{Counter, CounterSet},
    intercepts::{Access, Passthrough},
    model::{GuestConfig, Mode, Model},
    msr::{EventSelector, Msr},
    register::Register,
    retired::Event,
    unit::Unit,
};

/// A vendor's rules for hosts and guests.
pub(crate) trait Vendor: Sized + 'static {
    /// What a log line calls the vendor.
    const NAME: &'static str;

    /// What a host must have.
    const REQUIREMENTS: &'static [Requirement];

    /// Every counter that a guest could ever have.
    const COUNTERS: CounterSet;

    /// Do RDPMC's own faults come before its intercept?
    const RDPMC_FAULTS_FIRST: bool;

    /// Does the guest's entry count in the guest, as an instruction and maybe a branch?
    const ENTRIES_COUNT: bool;

    /// What changes hands beside the counters.
    type Units: Unit + Send;

    /// What guests may have at most on this host.
    fn offer(host: &HostPmu) -> PmuCaps;

    /// The PMU of a guest that user space configured so, but for the units.
    fn model(host: &HostPmu, config: &impl GuestConfig) -> Model;

    /// The register at address `msr`, `None` if the guest's PMU has none there, or a unit has it.
    fn register(model: &Model, msr: Msr) -> Option<Register>;

    /// Is `msr` one of the PMU although no register is there, if only to fault?
    fn claims(model: &Model, msr: Msr) -> bool;

    /// The counter that RDPMC reads with this ECX, `None` if it is no counter.
    fn rdpmc(model: &Model, ecx: u32) -> Option<Counter>;

    /// Every register but the units', each with what the guest may do with it without an exit.
    fn intercepts(free: Passthrough) -> impl Iterator<Item = (Msr, Access)>;

    /// Does a general-purpose counter count in `mode` if the guest wrote this selector?
    fn counts_in(selector: EventSelector, mode: Mode) -> bool;

    /// What a general-purpose counter with this selector counts of retired instructions, `None` if
    /// nothing.
    fn event(selector: EventSelector) -> Option<Event>;
}
