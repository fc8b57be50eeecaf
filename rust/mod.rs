// SPDX-License-Identifier: GPL-2.0

//! Safe abstractions over what the module uses of the kernel: all `unsafe` of the project is here.
//!
//! - [`kvm`]: virtual machines, vCPUs, and the callbacks of a vPMU backend.
//! - [`perf`]: the PMU as perf lends it, to virtual machines and to a processor.
//! - [`pmu`]: the registers of a PMU that a vCPU owns.
//! - [`errno`]: errors that the kernel crate has no name for.
//! - [`irq`]: proof that interrupts are off.
//! - [`params`]: module parameters.

mod bindings;
pub mod errno;
pub mod irq;
pub mod kvm;
pub mod params;
pub mod perf;
pub mod pmu;
