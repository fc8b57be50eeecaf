// SPDX-License-Identifier: GPL-2.0

//! KVM: virtual machines' vCPUs, and the backend that gives them their PMU.
//!
//! A backend implements [`Backend`]; a [`BackendModule`] makes KVM call it. What a callback may do
//! shows in the type of the vCPU that it gets:
//!
//! | type | the callback | may |
//! | --- | --- | --- |
//! | `Vcpu` | any | make requests |
//! | [`HeldVcpu`] | is the only one at the vCPU | ask for the event filter |
//! | [`LoadedVcpu`] | and the vCPU is loaded | ask for the guest's state, too |
//! | [`Intercepts`] | has been asked to set the intercepts | set them |
//! | [`OwnerVcpu`] | runs between load and put, or comes to a vCPU that is parked, interrupts off | use the PMU |
//!
//! C header: `arch/x86/include/asm/kvm_vpmu.h` of a kernel with the project's patches.

mod backend;
mod callbacks;
mod host;
mod module;
mod msr;
mod vcpu;

pub(crate) use backend::Backend;
pub(crate) use callbacks::Vtable;
pub(crate) use host::{host_pmu, not_supported};
pub(crate) use module::{BackendModule, Provider};
pub(crate) use vcpu::{Config, HeldVcpu, Intercepts, LoadedVcpu, OwnerVcpu, Public, State, Vcpu};
