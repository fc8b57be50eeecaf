// SPDX-License-Identifier: GPL-2.0

//! A mediated vPMU for KVM x86: guests get the processor's own performance counters.
//!
//! How to read this, from what is given to what comes of it:
//!
//! - [`caps`] is what a host has, [`model`] what a guest's PMU consists of, and [`register`] its
//!   registers. [`counter`] and [`msr`] have the numbers that these are known by.
//! - [`counters`] is the state of a guest's counters, and [`unit`] what there is beside them.
//!   [`guest`] puts both together: what reads and writes of registers do.
//! - [`intercepts`] says what of it the guest accesses without an exit, [`filter`] what of it
//!   reaches hardware, [`retired`] what of it counts the instructions that KVM completes.
//! - [`switch`] gets all that into hardware and back, [`rest`] is when there is no need to, and
//!   [`pmi`] when the guest is interrupted.
//! - [`vendor`] is what differs between vendors, [`intel`] and [`amd`]. Nothing else knows them.
//! - [`backend`] connects all this with KVM.
//!
//! `sys`, in the folder `rust/`, is the boundary to the kernel, with all unsafe code. But for it
//! and [`backend`] nothing here needs a kernel: `src/lib.rs` has the same files, to be tested
//! without.

#![deny(unsafe_code)]
#![warn(clippy::missing_docs_in_private_items)]

mod amd;
mod backend;
mod caps;
mod counter;
mod counters;
mod filter;
mod guest;
mod in_place;
mod intel;
mod intercepts;
mod model;
mod msr;
mod park;
mod pmi;
mod register;
mod rest;
mod retired;
mod switch;
#[allow(unsafe_code)]
#[path = "../rust/mod.rs"]
mod sys;
mod unit;
mod vendor;

use backend::Module;
use kernel::prelude::*;

module! {
    type: Module,
    name: "kvm_mediated_pmu",
    authors: ["KVM mediated PMU maintainers"],
    description: "Mediated vPMU for KVM x86",
    license: "GPL v2",
}
