// SPDX-License-Identifier: GPL-2.0

//! Where a vendor's rules meet the vendor's hardware and virtualization extension.
//!
//! [`Vendor`] is pure; this is the part of a vendor that needs the kernel.

#![forbid(unsafe_code)]

use crate::{
    amd::Amd,
    intel::Intel,
    model::Model,
    switch::Hw,
    sys::{
        kvm::{InterceptedVcpu, OwnerVcpu},
        pmu::{AmdPmu, IntelPmu},
    },
    vendor::Vendor,
};

/// A vendor whose processors the module can run on.
pub trait Platform: Vendor {
    /// The registers of a PMU that a vCPU owns.
    type Pmu<'a>: Hw;

    /// Do RDPMC's own faults come before its intercept?
    const RDPMC_FAULTS_FIRST: bool;

    /// The PMU that `vcpu` owns.
    fn pmu<'a>(vcpu: &'a OwnerVcpu<'a>) -> Self::Pmu<'a>;

    /// Sets the controls of VM-entry and VM-exit that are not intercepts, for a guest with `model`.
    fn set_controls(vcpu: &InterceptedVcpu<'_>, model: &Model);
}

impl Platform for Intel {
    type Pmu<'a> = IntelPmu<'a>;

    const RDPMC_FAULTS_FIRST: bool = false;

    #[inline(always)]
    fn pmu<'a>(vcpu: &'a OwnerVcpu<'a>) -> IntelPmu<'a> {
        IntelPmu::new(vcpu)
    }

    /// A guest without a PMU needs no switch: perf leaves the global control 0 while the guest runs.
    fn set_controls(vcpu: &InterceptedVcpu<'_>, model: &Model) {
        vcpu.switch_global_ctrl(model.exists());
    }
}

impl Platform for Amd {
    type Pmu<'a> = AmdPmu<'a>;

    const RDPMC_FAULTS_FIRST: bool = true;

    #[inline(always)]
    fn pmu<'a>(vcpu: &'a OwnerVcpu<'a>) -> AmdPmu<'a> {
        AmdPmu::new(vcpu)
    }

    /// SVM has none.
    fn set_controls(_vcpu: &InterceptedVcpu<'_>, _model: &Model) {}
}
