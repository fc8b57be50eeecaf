// SPDX-License-Identifier: GPL-2.0

//! A mediated vPMU for KVM x86: guests get the processor's own performance counters.
//!
//! How to read this: [`model`] says what a guest's PMU consists of and [`guest`] what its registers
//! do, [`intercepts`] what of it the guest accesses without an exit, [`filter`] what of it reaches
//! hardware, and [`switch`] how it gets there and back; [`nested`] has guests of guests. [`vendor`] is what differs between vendors,
//! [`intel`] and [`amd`]; [`platform`] is where that meets hardware, and [`backend`] connects all this
//! with KVM. `sys` holds the abstractions over the kernel, and all unsafe code.

pub mod amd;
pub mod backend;
pub mod caps;
pub mod counter;
pub mod filter;
pub mod guest;
pub mod intel;
pub mod intercepts;
pub mod model;
pub mod msr;
pub mod nested;
pub mod platform;
pub mod pmi;
pub mod rdpmc;
pub mod retired;
pub mod switch;
#[path = "../rust/mod.rs"]
pub mod sys;
pub mod vendor;

use backend::Module;
use kernel::prelude::*;

module! {
    type: Module,
    name: "kvm_mediated_pmu",
    authors: ["KVM mediated PMU maintainers"],
    description: "Mediated vPMU for KVM x86",
    license: "GPL v2",
}
