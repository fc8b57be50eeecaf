// SPDX-License-Identifier: GPL-2.0

//! The module's boundary to the kernel, and all of its `unsafe`: `crate::sys` in the code, `rust/`
//! in the tree. Everything in `src/` is safe code on top of it.
//!
//! These are no abstractions for just anybody. They speak of the kernel's PMUs and vCPUs in the
//! terms of `src/`, whose plain types they take and return, and implement the traits by which
//! `src/` asks for hardware and for a guest's configuration.
//!
//! - [`kvm`]: virtual machines, vCPUs, and the callbacks of a vPMU backend.
//! - `perf`: the PMU as perf lends it to a vCPU.
//! - [`pmu`]: the registers of a PMU that a vCPU owns.
//! - `irq`: proof that interrupts are off.
//! - [`params`]: module parameters.
//!
//! `helpers.c` and `bindings/` are the C side: what Rust can't call or declare itself.

mod bindings;
mod irq;
pub(crate) mod kvm;
pub(crate) mod params;
mod perf;
pub(crate) mod pmu;
