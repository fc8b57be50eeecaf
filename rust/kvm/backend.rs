// SPDX-License-Identifier: GPL-2.0

//! What a backend does: the callbacks as safe methods.

use super::vcpu::{Config, HeldVcpu, Intercepts, LoadedVcpu, OwnerVcpu, Public, State, Vcpu};
use crate::{
    caps::HostPmu, model::Mode, msr::Msr, register::GeneralProtection, retired::Retired,
    switch::Elided, sys::perf::Evicted,
};
use kernel::str::CStr;

/// A provider of guest PMUs.
///
/// KVM chooses the backend of a virtual machine when its first vCPU is created. Callbacks of one
/// vCPU never run at the same time. Where nothing else is said, a callback may sleep.
///
/// Only a vCPU whose CPUID has a PMU has one of the backend's: others see no callback but
/// [`Backend::set_intercepts`].
pub(crate) trait Backend: Sized + 'static {
    /// What KVM calls the backend in its log.
    const NAME: &'static CStr;

    /// What belongs to a vCPU. It isn't dropped, nor does it need to be.
    type VcpuData: Send;

    /// A vCPU is being created.
    fn vcpu_create() -> Self::VcpuData;

    /// CPUID or IA32_PERF_CAPABILITIES of the guest were set: its PMU is a new one, in its RESET
    /// state. Returns what KVM has to know of it.
    fn refresh(host: &HostPmu, config: &Config<'_>, data: &mut Self::VcpuData) -> Public;

    /// The state that the PMU is in. KVM is told after each callback that may have changed it.
    fn state(data: &Self::VcpuData) -> State;

    /// Is `msr` the PMU's, whether or not accesses of it fault?
    fn is_valid_msr(data: &Self::VcpuData, msr: Msr) -> bool;

    /// The guest, or user space if `host_initiated`, reads the register at `msr`.
    fn get_msr(
        data: &Self::VcpuData,
        msr: Msr,
        host_initiated: bool,
    ) -> Result<u64, GeneralProtection>;

    /// The guest, or user space if `host_initiated`, writes the register at `msr`.
    fn set_msr(
        vcpu: &HeldVcpu<'_>,
        data: &mut Self::VcpuData,
        msr: Msr,
        value: u64,
        host_initiated: bool,
    ) -> Result<(), GeneralProtection>;

    /// The guest executes RDPMC, and its privileges suffice.
    fn rdpmc(data: &Self::VcpuData, ecx: u32) -> Result<u64, GeneralProtection>;

    /// Would RDPMC with this operand fault, whatever the guest's privileges are, before an
    /// intercept has its turn? That must not depend on what changes in hardware.
    fn rdpmc_faults(data: &Self::VcpuData, ecx: u32) -> bool;

    /// The virtual machine's event filter changed.
    fn filter_changed(vcpu: &HeldVcpu<'_>, data: &mut Self::VcpuData);

    /// KVM completed an instruction of the guest, which is to be counted as `what`. It may come in
    /// parts, of which none is counted twice. If it was `at_cpl0` the guest may be at another
    /// privilege level by now. Must not sleep.
    fn retired(vcpu: &LoadedVcpu<'_>, data: &mut Self::VcpuData, what: Retired, at_cpl0: bool);

    /// The guest writes the register at `msr` while the vCPU owns the PMU, which has the guest's
    /// state, and is to be entered again at once. Returns whether that is done; if not nothing has
    /// changed, and KVM comes again by [`Backend::set_msr`]. Interrupts are off.
    fn set_msr_in_place(
        vcpu: &OwnerVcpu<'_>,
        data: &mut Self::VcpuData,
        msr: Msr,
        value: u64,
    ) -> bool;

    /// As [`Backend::retired`], while the vCPU owns the PMU, which has the guest's state.
    /// Interrupts are off.
    fn retired_in_place(
        vcpu: &OwnerVcpu<'_>,
        data: &mut Self::VcpuData,
        what: Retired,
        at_cpl0: bool,
    );

    /// Sets all intercepts. Without `data` the vCPU has no PMU of the backend's, maybe no more.
    fn set_intercepts(vcpu: &Intercepts<'_>, data: Option<&Self::VcpuData>);

    /// The vCPU is in `mode` now, which may be the last that happens to it. Must not sleep. On
    /// Intel the mode is no matter.
    fn mode_changed(data: &mut Self::VcpuData, mode: Mode);

    /// Can an overflow raise an interrupt between the next load and its put? Interrupts are off.
    fn can_interrupt(data: &Self::VcpuData) -> bool;

    /// The vCPU owns the PMU, which is not at rest, and enters the guest next. Interrupts are off.
    /// `lvtpc` is the guest's LVTPC, which hardware has got, if the vCPU can interrupt. Returns how
    /// many counters needed no write.
    fn load(vcpu: &OwnerVcpu<'_>, data: &mut Self::VcpuData, lvtpc: u32) -> Elided;

    /// The vCPU has left the guest. If `completed` the last that happened was
    /// [`Backend::retired_in_place`], with no entry after it. What follows is to do with the state:
    /// [`Backend::park`] or [`Backend::put`]. Interrupts are off.
    fn left(data: &mut Self::VcpuData, completed: bool);

    /// The vCPU has left the guest and is about to give back the PMU. Interrupts are off. Returns
    /// whether its state has changed by that: the PMU is at rest.
    fn put(vcpu: &OwnerVcpu<'_>, data: &mut Self::VcpuData) -> bool;

    /// Could the state stay in hardware when the guest is left, which it was just now?
    fn may_park(data: &Self::VcpuData) -> bool;

    /// The guest was left, and the host does not need the PMU: does the state stay in hardware?
    /// Interrupts are off. If not [`Backend::put`] follows; else, after [`Backend::resume`] or in its
    /// place, [`Backend::save`] before anything that does not come in place.
    fn park(vcpu: &OwnerVcpu<'_>, data: &mut Self::VcpuData) -> bool;

    /// As [`Backend::load`], with the state in hardware.
    fn resume(vcpu: &OwnerVcpu<'_>, data: &mut Self::VcpuData, lvtpc: u32) -> Elided;

    /// As [`Backend::retired`], while the state is parked. Interrupts are off.
    fn retired_parked(
        vcpu: &OwnerVcpu<'_>,
        data: &mut Self::VcpuData,
        what: Retired,
        at_cpl0: bool,
    );

    /// As [`Backend::rdpmc`], while the state is parked. `None` if it has to be taken out of hardware
    /// for that. Interrupts are off.
    fn rdpmc_parked(vcpu: &OwnerVcpu<'_>, data: &Self::VcpuData, ecx: u32) -> Option<u64>;

    /// The state that was parked has left the hardware, as `state`. Interrupts are off.
    fn save(vcpu: &Vcpu, data: &mut Self::VcpuData, state: &Evicted<'_>);
}
