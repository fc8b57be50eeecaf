// SPDX-License-Identifier: GPL-2.0

//! vCPUs, by what may be done with them.

use super::msr::GuestMsr;
use crate::{
    counter::FIXED_BASE,
    filter::EventFilter,
    intercepts::Access,
    model::{CpuidLeaf, GuestConfig},
    msr::{EventSelector, Msr},
    sys::{bindings, perf::GuestContext},
};
use core::ops::Deref;
use kernel::types::Opaque;

/// What KVM has to know of a vCPU's PMU whenever it enters or leaves the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing can count, and the guest exits wherever it accesses the PMU: hardware is not needed.
    AtRest,
    /// Hardware is needed.
    Awake,
}

impl State {
    /// The same for KVM.
    const fn to_c(self) -> u32 {
        match self {
            Self::AtRest => bindings::kvm_vpmu_state_KVM_VPMU_AT_REST,
            Self::Awake => 0,
        }
    }
}

/// What KVM itself has to know of a vCPU's PMU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Public {
    /// Version of the guest's PMU, 0 for none.
    pub(crate) version: u32,
    /// Bits of IA32_PERF_GLOBAL_CTRL that the guest can set, for nested VM-entry checks.
    pub(crate) global_ctrl_valid: u64,
    /// Bits of IA32_PERF_GLOBAL_STATUS that exist.
    pub(crate) global_status_valid: u64,
}

/// A vCPU, `struct kvm_vcpu`.
///
/// # Invariants
///
/// It is a vCPU of the registered backend and does not go away while a reference to it exists.
#[repr(transparent)]
pub(crate) struct Vcpu(Opaque<bindings::kvm_vcpu>);

impl Vcpu {
    /// # Safety
    ///
    /// For `'a`, `vcpu` points to a vCPU of the registered backend.
    #[inline(always)]
    pub(super) unsafe fn from_raw<'a>(vcpu: *mut bindings::kvm_vcpu) -> &'a Self {
        // SAFETY: The caller's promise; the layout is the same by `repr(transparent)`.
        unsafe { &*vcpu.cast() }
    }

    /// The event filter of its virtual machine.
    pub(crate) fn filter(&self) -> &impl EventFilter {
        self
    }

    /// The pointer that KVM knows it by.
    #[inline(always)]
    fn as_raw(&self) -> *mut bindings::kvm_vcpu {
        self.0.get()
    }

    /// Intercepts accesses to `msr`, except those in `free`.
    ///
    /// # Safety
    ///
    /// It is called in one of the callbacks that KVM lets change these intercepts.
    unsafe fn intercept_msr_here(&self, msr: Msr, free: Access) {
        let (reads, writes) = (bindings::KVM_VPMU_MSR_R, bindings::KVM_VPMU_MSR_W);
        for (access, free) in [(reads, free.reads), (writes, free.writes)] {
            match if free { GuestMsr::checked(msr) } else { None } {
                // SAFETY: The vCPU is valid by the type's invariant, and this is the place, as the
                // caller promises. The register is one for guests by its own type's.
                Some(msr) => unsafe {
                    bindings::kvm_vpmu_set_msr_intercept(
                        self.as_raw(),
                        msr.address(),
                        access,
                        false,
                    )
                },
                // SAFETY: The same, but it may be any register: an intercept harms nobody.
                None => unsafe {
                    bindings::kvm_vpmu_set_msr_intercept(self.as_raw(), msr.address(), access, true)
                },
            }
        }
    }

    /// Sets or clears the intercept of RDPMC, which stays where RDPMC reads counters that no guest can
    /// have; and has VM-entry load the guest's IA32_PERF_GLOBAL_CTRL, and VM-exit save it and load 0,
    /// or not. The latter is Intel's.
    ///
    /// # Safety
    ///
    /// As of [`Self::intercept_msr_here`].
    unsafe fn set_controls_here(&self, intercept_rdpmc: bool, switch_global_ctrl: bool) {
        // SAFETY: The function only looks at the processor's feature bits.
        let reads_foreign = unsafe { bindings::kmp_host_has_rdpmc_beyond_core() };
        let intercept_rdpmc = intercept_rdpmc || reads_foreign;
        // SAFETY: The vCPU is valid by the type's invariant, and this is the place, as the caller
        // promises.
        unsafe {
            bindings::kvm_vpmu_set_controls(self.as_raw(), intercept_rdpmc, switch_global_ctrl)
        };
    }

    /// Has all intercepts set again, before the next VM-entry.
    pub(crate) fn request_intercepts(&self) {
        // SAFETY: The vCPU is valid; the function may be called anywhere.
        unsafe { bindings::kmp_request_recalc_intercepts(self.as_raw()) };
    }

    /// Has KVM deliver a PMI to the guest before the next VM-entry.
    pub(crate) fn request_pmi(&self) {
        // SAFETY: The vCPU is valid by the type's invariant; the function may be called anywhere.
        unsafe { bindings::kmp_request_pmi(self.as_raw()) };
    }
}

/// A vCPU that nobody else is at: what is kept of the guest does not change meanwhile.
///
/// It need not be loaded. Whether one may sleep is for each callback to say.
///
/// # Invariants
///
/// vcpu->mutex is held, or nobody else knows of the vCPU: not yet, or not any more.
pub(crate) struct HeldVcpu<'a>(&'a Vcpu);

impl<'a> HeldVcpu<'a> {
    /// # Safety
    ///
    /// Nobody else is at the vCPU for `'a`, see the type.
    #[inline(always)]
    pub(super) unsafe fn new(vcpu: &'a Vcpu) -> Self {
        // INVARIANT: The caller's promise.
        Self(vcpu)
    }

    /// Tells KVM that the PMU is in `state`. If it goes to rest or wakes up, all intercepts are set
    /// again before the next VM-entry.
    ///
    /// # Safety
    ///
    /// The vCPU is not between load() and put(), but put() may have done all but to return.
    pub(super) unsafe fn set_state(&self, state: State) {
        // SAFETY: The vCPU is valid and held, and the time is right by the caller's promise.
        unsafe { bindings::kmp_set_state(self.as_raw(), state.to_c()) };
    }

    /// Tells KVM what it has to know of the PMU, which is in `state`.
    pub(super) fn publish(&self, public: Public, state: State) {
        let public = bindings::kvm_vpmu_public {
            version: public.version,
            state: state.to_c(),
            global_ctrl_rsvd: !public.global_ctrl_valid,
            global_status_rsvd: !public.global_status_valid,
        };
        // SAFETY: The vCPU is valid and held, and the function copies what the pointer points to.
        unsafe { bindings::kmp_publish(self.as_raw(), &public) };
    }
}

impl Deref for HeldVcpu<'_> {
    type Target = Vcpu;

    fn deref(&self) -> &Vcpu {
        self.0
    }
}

/// A vCPU that nobody else is at, and whose guest's state is at hand.
///
/// # Invariants
///
/// The vCPU is loaded on this processor.
pub(crate) struct LoadedVcpu<'a>(HeldVcpu<'a>);

impl<'a> LoadedVcpu<'a> {
    /// # Safety
    ///
    /// The vCPU is loaded on this processor, and stays so for `'a`.
    #[inline(always)]
    pub(super) unsafe fn new(vcpu: HeldVcpu<'a>) -> Self {
        // INVARIANT: The caller's promise.
        Self(vcpu)
    }

    /// Is the guest at CPL 1, 2 or 3?
    pub(crate) fn is_in_user_mode(&self) -> bool {
        // SAFETY: The vCPU is valid, held and loaded.
        unsafe { bindings::kvm_vpmu_guest_is_user(self.as_raw()) }
    }
}

impl<'a> Deref for LoadedVcpu<'a> {
    type Target = HeldVcpu<'a>;

    fn deref(&self) -> &HeldVcpu<'a> {
        &self.0
    }
}

/// What user space made of a vCPU.
pub(crate) struct Config<'a>(pub(super) &'a bindings::kvm_vpmu_config);

impl GuestConfig for Config<'_> {
    /// KVM tells of the leaves that matter.
    fn cpuid(&self, leaf: u32) -> Option<CpuidLeaf> {
        let found = match leaf {
            0x7 => &self.0.features,
            0xa => &self.0.perfmon,
            0x8000_0001 => &self.0.amd_features,
            0x8000_0022 => &self.0.amd_perfmon,
            _ => return None,
        };
        Some(CpuidLeaf {
            eax: found.eax,
            ebx: found.ebx,
            ecx: found.ecx,
            edx: found.edx,
        })
    }

    fn perf_capabilities(&self) -> u64 {
        self.0.perf_capabilities
    }
}

/// In whatever context: the filter is protected by itself.
impl EventFilter for Vcpu {
    fn allows(&self, selector: EventSelector) -> bool {
        // SAFETY: The vCPU is valid; the function protects its access of the filter itself.
        unsafe { bindings::kvm_vpmu_event_allowed(self.as_raw(), 0, selector.bits()) }
    }

    fn allows_fixed(&self, index: u8) -> bool {
        // SAFETY: The vCPU is valid; the function protects its access of the filter itself.
        unsafe { bindings::kvm_vpmu_event_allowed(self.as_raw(), FIXED_BASE + u32::from(index), 0) }
    }
}

/// The permission to set a vCPU's intercepts, and the vCPU.
///
/// # Invariants
///
/// KVM asked for it: kvm->srcu is held for read.
pub(crate) struct Intercepts<'a> {
    /// The vCPU.
    vcpu: LoadedVcpu<'a>,
    /// The PMU in hardware is the guest's when it is entered. Else everything there is the host's,
    /// and stays intercepted.
    is_lent: bool,
}

impl<'a> Intercepts<'a> {
    /// # Safety
    ///
    /// KVM has asked for the intercepts to be set, and waits for that.
    pub(super) unsafe fn new(vcpu: LoadedVcpu<'a>, is_lent: bool) -> Self {
        // INVARIANT: The caller's promise.
        Self { vcpu, is_lent }
    }

    /// Intercepts accesses to `msr`, except those in `free`.
    ///
    /// What user space filters stays intercepted, and what is not for guests to access: with a
    /// warning, since whoever has it `free` is mistaken.
    pub(crate) fn intercept_msr(&self, msr: Msr, free: Access) {
        let free = if self.is_lent { free } else { Access::NONE };
        // SAFETY: By the type's invariant this is the place to set intercepts.
        unsafe { self.intercept_msr_here(msr, free) };
    }

    /// Sets or clears the intercept of RDPMC; and has VM-entry load the guest's
    /// IA32_PERF_GLOBAL_CTRL, and VM-exit save it and load 0, or not: Intel.
    pub(crate) fn set_controls(&self, intercept_rdpmc: bool, switch_global_ctrl: bool) {
        let intercept_rdpmc = intercept_rdpmc || !self.is_lent;
        // SAFETY: By the type's invariant this is the place to set such controls.
        unsafe { self.set_controls_here(intercept_rdpmc, switch_global_ctrl) };
    }
}

impl<'a> Deref for Intercepts<'a> {
    type Target = LoadedVcpu<'a>;

    fn deref(&self) -> &LoadedVcpu<'a> {
        &self.vcpu
    }
}

/// A vCPU that owns its processor's PMU.
///
/// # Invariants
///
/// The vCPU is loaded on this processor, interrupts are off, and perf has given the PMU to it, or
/// has left it parked there. KVM is between its `load()` and its `put()`, or in one of them, or
/// comes to what is parked.
pub(crate) struct OwnerVcpu<'a> {
    /// The vCPU.
    vcpu: &'a Vcpu,
    /// What it owns.
    _context: &'a GuestContext<'a>,
}

impl<'a> OwnerVcpu<'a> {
    /// # Safety
    ///
    /// The vCPU is loaded on this processor, and `context` was given to it by its `load()`.
    #[inline(always)]
    pub(super) unsafe fn new(vcpu: &'a Vcpu, context: &'a GuestContext<'a>) -> Self {
        // INVARIANT: The caller's promise; interrupts are off as long as there is a context.
        Self {
            vcpu,
            _context: context,
        }
    }

    /// The guest's IA32_PERF_GLOBAL_CTRL as VM-exit saved it. Intel.
    #[inline(always)]
    pub(crate) fn read_guest_global_ctrl(&self) -> u64 {
        // SAFETY: By the type's invariant the vCPU's VMCS is this processor's current one.
        unsafe { bindings::kvm_vpmu_read_guest_global_ctrl(self.as_raw()) }
    }

    /// Sets what VM-entry loads into IA32_PERF_GLOBAL_CTRL. Intel.
    #[inline(always)]
    pub(crate) fn write_guest_global_ctrl(&self, ctrl: u64) {
        // SAFETY: By the type's invariant the vCPU's VMCS is this processor's current one. A value
        // that VM-entry does not take makes it fail, and nothing else.
        unsafe { bindings::kvm_vpmu_write_guest_global_ctrl(self.as_raw(), ctrl) };
    }

    /// Waits, for some microseconds at most, for the interrupt of an overflow of the guest's, for
    /// which its PMI is `requested` already or not.
    ///
    /// Whatever has come by then comes to KVM, as the guest's; and what comes later as well, unless
    /// it is requested. Counters must not count any more.
    #[cold]
    pub(crate) fn wait_for_pmi(&self, requested: bool) {
        // SAFETY: By the type's invariant perf has given this processor's PMU to the vCPU, and
        // interrupts are off.
        unsafe { bindings::perf_wait_for_guest_pmi(requested) };
    }

    /// Will the guest be entered at CPL 1, 2 or 3?
    pub(crate) fn is_in_user_mode(&self) -> bool {
        // SAFETY: By the type's invariant the vCPU is loaded.
        unsafe { bindings::kvm_vpmu_guest_is_user(self.as_raw()) }
    }

    /// Sets the intercepts of `msr` as [`Intercepts::intercept_msr`] does, for L1: L2 has those
    /// set at once, and what is cleared when all intercepts are set again.
    pub(crate) fn intercept_msr(&self, msr: Msr, free: Access) {
        // SAFETY: By the type's invariant the vCPU is loaded, and KVM is between its load() and its put(),
        // in one of them, or in retired(), where intercepts may be set and cleared. What is cleared too
        // early is set again when all are.
        unsafe { self.intercept_msr_here(msr, free) };
    }

    /// Has the guest exit if it accesses `msrs`, until all intercepts are set again, which is asked
    /// for.
    pub(crate) fn intercept_msrs(&self, msrs: &[Msr]) {
        for msr in msrs {
            self.intercept_msr(*msr, Access::NONE);
        }
        self.request_intercepts();
    }

    /// Sets or clears the intercept of RDPMC. AMD.
    pub(crate) fn intercept_rdpmc(&self, intercept: bool) {
        // SAFETY: As of `intercept_msr()`. There is no other such control on AMD.
        unsafe { self.set_controls_here(intercept, false) };
    }
}

impl Deref for OwnerVcpu<'_> {
    type Target = Vcpu;

    fn deref(&self) -> &Vcpu {
        self.vcpu
    }
}
