// SPDX-License-Identifier: GPL-2.0

//! KVM: virtual machines' vCPUs, and the backend that gives them their PMU.
//!
//! A backend implements [`Backend`]; a [`Registration`] makes KVM call it. What a callback may do
//! shows in the type of the vCPU that it gets:
//!
//! | type | the callback | may |
//! | --- | --- | --- |
//! | [`Vcpu`] | any, also in hard-irq context | make requests |
//! | [`HeldVcpu`] | holds vcpu->mutex, process context | ask for the guest's configuration and state, and for the event filter; publish |
//! | [`InterceptedVcpu`] | has been asked to set the intercepts | set them |
//! | [`OwnerVcpu`] | runs between load and put, interrupts off | use the PMU |
//!
//! C header: `arch/x86/include/asm/kvm_vpmu.h` of a kernel with the project's patches.

use super::{bindings, irq::IrqsOff, perf::GuestContext};
use crate::{
    caps::{HostPmu, HostVendor, PmuCaps},
    counter::Width,
    filter::EventFilter,
    guest::GeneralProtection,
    intercepts::Free,
    model::{CpuidLeaf, GuestConfig},
    msr::{EventSelector, Msr},
    nested::Mode,
    switch::Elided,
};
use core::{marker::PhantomData, ops::Deref};
use kernel::{
    error::{to_result, Result},
    ffi::{c_int, c_uint, c_void},
    prelude::*,
    str::CStr,
    types::Opaque,
};

/// Asks KVM for the host's PMU.  May sleep.
///
/// Without a vendor module of KVM everything is 0, and the vendor is [`HostVendor::None`]. While a
/// backend is registered the answer does not change.
pub fn host_pmu() -> HostPmu {
    let mut caps = bindings::kvm_vpmu_host_caps::default();
    // SAFETY: The pointer is valid for writes of a `struct kvm_vpmu_host_caps`.
    unsafe { bindings::kvm_vpmu_get_host_caps(&mut caps) };

    let has = |flag: u32| caps.flags & flag != 0;
    HostPmu {
        vendor: match caps.vendor {
            bindings::kvm_vpmu_vendor_KVM_VPMU_VENDOR_INTEL => HostVendor::Intel,
            bindings::kvm_vpmu_vendor_KVM_VPMU_VENDOR_AMD => HostVendor::Amd,
            _ => HostVendor::None,
        },
        mediated: has(bindings::kvm_vpmu_host_flags_KVM_VPMU_HOST_MEDIATED),
        pmu_enabled: has(bindings::kvm_vpmu_host_flags_KVM_VPMU_HOST_ENABLE_PMU),
        entry_load_global_ctrl: has(
            bindings::kvm_vpmu_host_flags_KVM_VPMU_HOST_ENTRY_LOAD_GLOBAL_CTRL,
        ),
        exit_load_global_ctrl: has(
            bindings::kvm_vpmu_host_flags_KVM_VPMU_HOST_EXIT_LOAD_GLOBAL_CTRL,
        ),
        exit_save_global_ctrl: has(
            bindings::kvm_vpmu_host_flags_KVM_VPMU_HOST_EXIT_SAVE_GLOBAL_CTRL,
        ),
        msr_bitmap: has(bindings::kvm_vpmu_host_flags_KVM_VPMU_HOST_MSR_BITMAP),
        rdpmc_exiting: has(bindings::kvm_vpmu_host_flags_KVM_VPMU_HOST_RDPMC_EXITING),
        // SAFETY: The function only looks at the processor's feature bits.
        transactions: unsafe { bindings::kmp_host_has_transactions() },
        // SAFETY: As above.
        rdpmc_beyond_core: unsafe { bindings::kmp_host_has_rdpmc_beyond_core() },
        pmu: PmuCaps {
            version: caps.version,
            gp: caps.num_counters_gp,
            fixed: caps.num_counters_fixed,
            gp_width: Width::new(caps.bit_width_gp),
            fixed_width: Width::new(caps.bit_width_fixed),
            events_mask_len: caps.events_mask_len,
            events_mask: caps.events_mask,
            perf_capabilities: caps.perf_capabilities,
        },
    }
}

/// Tells the administrator, rate-limited, why perf's refusal made the creation of a vCPU fail.
pub fn warn_vm_refused(error: Error) {
    // SAFETY: The function prints a message.
    unsafe { bindings::kmp_warn_vm_refused(error.to_errno()) };
}

/// What KVM itself has to know of a vCPU's PMU.
#[derive(Clone, Copy, Debug)]
pub struct Public {
    /// Version of the guest's PMU, 0 for none.
    pub version: u32,
    /// May a counter of the guest be counting instructions?  Then KVM must not complete any in its
    /// exit fastpath.
    pub counts_instructions: bool,
    /// Bits of IA32_PERF_GLOBAL_CTRL that the guest can set, for nested VM-entry checks.
    pub global_ctrl_valid: u64,
    /// Bits of IA32_PERF_GLOBAL_STATUS that exist.
    pub global_status_valid: u64,
}

/// A vCPU, `struct kvm_vcpu`.
///
/// # Invariants
///
/// It is a vCPU of the registered backend and does not go away while a reference to it exists.
#[repr(transparent)]
pub struct Vcpu(Opaque<bindings::kvm_vcpu>);

impl Vcpu {
    /// # Safety
    ///
    /// For `'a`, `vcpu` points to a vCPU of the registered backend.
    #[inline(always)]
    unsafe fn from_raw<'a>(vcpu: *mut bindings::kvm_vcpu) -> &'a Self {
        // SAFETY: The caller's promise; the layout is the same by `repr(transparent)`.
        unsafe { &*vcpu.cast() }
    }

    #[inline(always)]
    fn as_raw(&self) -> *mut bindings::kvm_vcpu {
        self.0.get()
    }

    /// Sets the intercepts of accesses of `msr` that are not `free`, and clears those of the others.
    ///
    /// # Safety
    ///
    /// It is called in one of the callbacks that KVM lets change these intercepts.
    unsafe fn intercept_msr_here(&self, msr: Msr, free: Free) {
        let (reads, writes) = (bindings::KVM_VPMU_MSR_R, bindings::KVM_VPMU_MSR_W);
        for (access, free) in [(reads, free.reads), (writes, free.writes)] {
            // SAFETY: The vCPU is valid by the type's invariant, and the caller's promise.
            unsafe {
                bindings::kvm_vpmu_set_msr_intercept(self.as_raw(), msr.address(), access, !free)
            };
        }
    }

    /// Has KVM deliver a PMI to the guest before the next VM-entry.
    pub fn request_pmi(&self) {
        // SAFETY: The vCPU is valid by the type's invariant; the function may be called anywhere.
        unsafe { bindings::kvm_vpmu_request_pmi(self.as_raw()) };
    }
}

/// A vCPU whose mutex is held: nobody else changes the guest's state, and it may sleep.
///
/// # Invariants
///
/// vcpu->mutex is held, or nobody else knows of the vCPU yet.
pub struct HeldVcpu<'a>(&'a Vcpu);

impl HeldVcpu<'_> {
    /// Tells KVM what it has to know of the PMU.
    pub fn publish(&self, public: Public) {
        let public = bindings::kvm_vpmu_public {
            version: public.version,
            counts_instructions: public.counts_instructions,
            global_ctrl_rsvd: !public.global_ctrl_valid,
            global_status_rsvd: !public.global_status_valid,
        };
        // SAFETY: The vCPU is valid and held, and the function copies what the pointer points to.
        unsafe { bindings::kvm_vpmu_publish(self.as_raw(), &public) };
    }

    /// Publishes [`Public::counts_instructions`] alone.
    pub fn set_counts_instructions(&self, counts: bool) {
        // SAFETY: The vCPU is valid and held.
        unsafe { bindings::kvm_vpmu_set_counts_instructions(self.as_raw(), counts) };
    }

    /// Is the guest at CPL 1, 2 or 3?
    ///
    /// The vCPU has to be loaded for the answer to be right, as it is when an instruction was
    /// emulated.
    pub fn is_in_user_mode(&self) -> bool {
        // SAFETY: The vCPU is valid and held; a VMREAD of another VMCS would break no memory safety.
        unsafe { bindings::kvm_vpmu_guest_is_user(self.as_raw()) }
    }
}

impl Deref for HeldVcpu<'_> {
    type Target = Vcpu;

    fn deref(&self) -> &Vcpu {
        self.0
    }
}

impl GuestConfig for HeldVcpu<'_> {
    fn cpuid(&self, leaf: u32, index: u32) -> Option<CpuidLeaf> {
        let mut found = bindings::kvm_vpmu_cpuid::default();
        // SAFETY: The vCPU is valid and held, and the pointer is valid for writes.
        let exists =
            unsafe { bindings::kvm_vpmu_guest_cpuid(self.as_raw(), leaf, index, &mut found) };
        exists.then_some(CpuidLeaf {
            eax: found.eax,
            ebx: found.ebx,
            ecx: found.ecx,
            edx: found.edx,
        })
    }

    fn perf_capabilities(&self) -> u64 {
        // SAFETY: The vCPU is valid and held.
        unsafe { bindings::kvm_vpmu_guest_perf_capabilities(self.as_raw()) }
    }
}

impl EventFilter for HeldVcpu<'_> {
    fn allows(&self, selector: EventSelector) -> bool {
        // SAFETY: The vCPU is valid; the function protects its access of the filter itself.
        unsafe { bindings::kvm_vpmu_gp_event_allowed(self.as_raw(), selector.bits()) }
    }

    fn allows_fixed(&self, index: u8) -> bool {
        // SAFETY: As above.
        unsafe { bindings::kvm_vpmu_fixed_counter_allowed(self.as_raw(), index.into()) }
    }
}

/// A vCPU whose intercepts are to be set.
///
/// # Invariants
///
/// KVM asked for it: the vCPU is held and loaded, kvm->srcu is held for read.
pub struct InterceptedVcpu<'a>(HeldVcpu<'a>);

impl InterceptedVcpu<'_> {
    /// Sets the intercepts of accesses of `msr` that are not `free`, and clears those of the others.
    ///
    /// What user space filters stays intercepted.
    pub fn intercept_msr(&self, msr: Msr, free: Free) {
        // SAFETY: By the type's invariant this is the place to set intercepts.
        unsafe { self.intercept_msr_here(msr, free) };
    }

    /// Sets or clears the intercept of RDPMC.
    pub fn intercept_rdpmc(&self, intercept: bool) {
        // SAFETY: As above.
        unsafe { bindings::kvm_vpmu_set_rdpmc_intercept(self.as_raw(), intercept) };
    }

    /// Has VM-entry load the guest's IA32_PERF_GLOBAL_CTRL, and VM-exit save it and load 0.  Intel.
    pub fn switch_global_ctrl(&self, enable: bool) {
        // SAFETY: As above.
        unsafe { bindings::kvm_vpmu_switch_global_ctrl(self.as_raw(), enable) };
    }
}

impl<'a> Deref for InterceptedVcpu<'a> {
    type Target = HeldVcpu<'a>;

    fn deref(&self) -> &HeldVcpu<'a> {
        &self.0
    }
}

/// A vCPU that owns its processor's PMU.
///
/// # Invariants
///
/// The vCPU is loaded on this processor, interrupts are off, and perf has given the PMU to it.
pub struct OwnerVcpu<'a> {
    vcpu: &'a Vcpu,
    _context: &'a GuestContext<'a>,
}

impl OwnerVcpu<'_> {
    /// The guest's IA32_PERF_GLOBAL_CTRL as VM-exit saved it.  Intel.
    #[inline(always)]
    pub fn read_guest_global_ctrl(&self) -> u64 {
        // SAFETY: By the type's invariant the vCPU's VMCS is this processor's current one.
        unsafe { bindings::kvm_vpmu_read_guest_global_ctrl(self.as_raw()) }
    }

    /// Sets what VM-entry loads into IA32_PERF_GLOBAL_CTRL.  Intel.
    #[inline(always)]
    pub fn write_guest_global_ctrl(&self, ctrl: u64) {
        // SAFETY: As above; a value that VM-entry does not take makes it fail, and nothing else.
        unsafe { bindings::kvm_vpmu_write_guest_global_ctrl(self.as_raw(), ctrl) };
    }

    /// Will the guest be entered at CPL 1, 2 or 3?
    pub fn is_in_user_mode(&self) -> bool {
        // SAFETY: By the type's invariant the vCPU is loaded.
        unsafe { bindings::kvm_vpmu_guest_is_user(self.as_raw()) }
    }

    /// Sets the intercepts of `msr` as [`InterceptedVcpu::intercept_msr`] does, for L1: L2 has those
    /// set at once, and what is cleared when all intercepts are set again.
    pub fn intercept_msr(&self, msr: Msr, free: Free) {
        // SAFETY: By the type's invariant this is load(), which may set intercepts, or put(), which may
        // clear what load() has set.
        unsafe { self.intercept_msr_here(msr, free) };
    }

    /// Sets or clears the intercept of RDPMC.
    pub fn intercept_rdpmc(&self, intercept: bool) {
        // SAFETY: As above.
        unsafe { bindings::kvm_vpmu_set_rdpmc_intercept(self.as_raw(), intercept) };
    }

    /// Has all intercepts set again, before the next VM-entry.
    pub fn request_intercepts(&self) {
        // SAFETY: The vCPU is valid; the function may be called anywhere.
        unsafe { bindings::kvm_vpmu_request_recalc_intercepts(self.as_raw()) };
    }
}

impl Deref for OwnerVcpu<'_> {
    type Target = Vcpu;

    fn deref(&self) -> &Vcpu {
        self.vcpu
    }
}

/// A provider of guest PMUs.
///
/// KVM chooses the backend of a virtual machine when its first vCPU is created. Callbacks of one vCPU
/// never run at the same time, apart from [`Backend::pmi`], which may interrupt any of them and
/// therefore gets no data. Where nothing else is said, a callback may sleep.
pub trait Backend: Sized + 'static {
    /// What KVM calls the backend in its log.
    const NAME: &'static CStr;

    /// What belongs to a virtual machine; dropped with it.
    type VmData: Send + Sync;

    /// What belongs to a vCPU; dropped with it.
    type VcpuData: Send;

    /// A virtual machine is about to create its first vCPU.
    ///
    /// # Errors
    ///
    /// Its creation fails with the error then, and the next vCPU tries again.
    fn vm_create() -> Result<Self::VmData>;

    /// A vCPU is being created.
    ///
    /// # Errors
    ///
    /// Its creation fails with the error.
    fn vcpu_create() -> Result<Self::VcpuData>;

    /// CPUID or IA32_PERF_CAPABILITIES of the guest were set: its PMU is a new one, in its RESET
    /// state.  Has to publish.
    fn refresh(vcpu: &HeldVcpu<'_>, data: &mut Self::VcpuData);

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

    /// Would RDPMC with this operand fault, whatever the guest's privileges are, before an intercept
    /// has its turn?
    fn rdpmc_faults(data: &Self::VcpuData, ecx: u32) -> bool;

    /// The virtual machine's event filter changed.
    fn filter_changed(vcpu: &HeldVcpu<'_>, data: &mut Self::VcpuData);

    /// KVM completed an instruction of the guest.  Interrupts may be off: must not sleep.
    fn instruction_retired(vcpu: &HeldVcpu<'_>, data: &mut Self::VcpuData);

    /// The instruction was a branch, too.  Must not sleep.
    fn branch_retired(vcpu: &HeldVcpu<'_>, data: &mut Self::VcpuData);

    /// Sets all intercepts.
    fn set_intercepts(vcpu: &InterceptedVcpu<'_>, data: &Self::VcpuData);

    /// The vCPU is in `mode` now.  Must not sleep.  AMD.
    fn mode_changed(vcpu: &HeldVcpu<'_>, data: &mut Self::VcpuData, mode: Mode);

    /// Can an overflow raise an interrupt between the next load and its put?  Interrupts are off.
    fn can_interrupt(data: &Self::VcpuData) -> bool;

    /// The vCPU owns the PMU and enters the guest next.  Interrupts are off.  `lvtpc` is the guest's
    /// LVTPC, which hardware has got if the vCPU can interrupt.  Returns how many counters needed no write.
    fn load(vcpu: &OwnerVcpu<'_>, data: &mut Self::VcpuData, lvtpc: u32) -> Elided;

    /// The vCPU has left the guest and is about to give back the PMU.  Interrupts are off.
    fn put(vcpu: &OwnerVcpu<'_>, data: &mut Self::VcpuData);

    /// The mediated PMI vector was raised on the processor that the vCPU is loaded on.  Hard-irq
    /// context.
    fn pmi(vcpu: &Vcpu);
}

/// A backend that KVM calls.
///
/// Dropping it takes the backend back. No virtual machine has it then: each holds a reference on the
/// module, whose exit is the only place to drop it.
///
/// # Invariants
///
/// The structure is registered with KVM, and is neither moved nor changed.
pub struct Registration<T: Backend> {
    backend: KBox<bindings::kvm_vpmu_backend>,
    _callbacks: PhantomData<T>,
}

// SAFETY: A registration does nothing but exist, and KVM takes it back from any task.
unsafe impl<T: Backend> Send for Registration<T> {}
// SAFETY: A shared reference to a registration allows nothing.
unsafe impl<T: Backend> Sync for Registration<T> {}

impl<T: Backend> Registration<T> {
    /// Registers the backend: virtual machines that are created from now on get it.  May sleep.
    ///
    /// `caps` is what guests may have at most.
    ///
    /// # Errors
    ///
    /// `EBUSY` if there is a backend already, `ENODEV` without a vendor module of KVM, `ENOMEM`.
    pub fn new(module: &'static ThisModule, caps: &PmuCaps) -> Result<Self> {
        let backend = KBox::new(
            bindings::kvm_vpmu_backend {
                owner: module.as_ptr().cast(),
                caps: to_c(caps),
                ..Callbacks::<T>::VTABLE
            },
            GFP_KERNEL,
        )?;
        // SAFETY: The callbacks are those of `Callbacks`, which fulfil the contract.  The structure
        // stays where it is, as it is, until `drop()`.
        to_result(unsafe { bindings::kvm_vpmu_register_backend(&*backend) })?;
        // INVARIANT: just registered.
        Ok(Self {
            backend,
            _callbacks: PhantomData,
        })
    }
}

impl<T: Backend> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant it is registered; and nobody uses it, see the type.
        unsafe { bindings::kvm_vpmu_unregister_backend(&*self.backend) };
    }
}

fn to_c(caps: &PmuCaps) -> bindings::kvm_vpmu_guest_caps {
    bindings::kvm_vpmu_guest_caps {
        version: caps.version,
        num_counters_gp: caps.gp,
        num_counters_fixed: caps.fixed,
        bit_width_gp: caps.gp_width.bits(),
        bit_width_fixed: caps.fixed_width.bits(),
        events_mask_len: caps.events_mask_len,
        events_mask: caps.events_mask,
        reserved: 0,
        perf_capabilities: caps.perf_capabilities,
    }
}

/// The C callbacks, each a thin shell around its method of [`Backend`].
///
/// They rely on KVM's side of the contract, `struct kvm_vpmu_backend`:
///
/// - pointers to virtual machines and vCPUs are valid for the call;
/// - callbacks for a vCPU come one at a time, but for `pmi`; so the vCPU's data can be borrowed
///   mutably for the call, and `pmi` does not touch it;
/// - none but `vcpu_create` comes before that has succeeded, nor after `vcpu_destroy`;
/// - KVM's services do not call back.
struct Callbacks<T: Backend>(PhantomData<T>);

/// What KVM understands: 0, or 1 for a fault.
fn or_fault(result: Result<(), GeneralProtection>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(GeneralProtection) => 1,
    }
}

impl<T: Backend> Callbacks<T> {
    const VTABLE: bindings::kvm_vpmu_backend = bindings::kvm_vpmu_backend {
        owner: core::ptr::null_mut(),
        name: kernel::str::as_char_ptr_in_const_context(T::NAME),
        caps: bindings::kvm_vpmu_guest_caps {
            version: 0,
            num_counters_gp: 0,
            num_counters_fixed: 0,
            bit_width_gp: 0,
            bit_width_fixed: 0,
            events_mask_len: 0,
            events_mask: 0,
            reserved: 0,
            perf_capabilities: 0,
        },
        vm_create: Some(Self::vm_create),
        vm_destroy: Some(Self::vm_destroy),
        vcpu_create: Some(Self::vcpu_create),
        vcpu_destroy: Some(Self::vcpu_destroy),
        refresh: Some(Self::refresh),
        is_valid_msr: Some(Self::is_valid_msr),
        get_msr: Some(Self::get_msr),
        set_msr: Some(Self::set_msr),
        rdpmc: Some(Self::rdpmc),
        check_rdpmc: Some(Self::check_rdpmc),
        handle_event: Some(Self::handle_event),
        deliver_pmi: Some(Self::deliver_pmi),
        instruction_retired: Some(Self::instruction_retired),
        branch_retired: Some(Self::branch_retired),
        recalc_intercepts: Some(Self::recalc_intercepts),
        mode_changed: Some(Self::mode_changed),
        load: Some(Self::load),
        put: Some(Self::put),
        pmi: Some(Self::pmi),
    };

    /// The data of a vCPU.
    ///
    /// # Safety
    ///
    /// `vcpu` is a vCPU of this backend, and the caller is a callback that may borrow its data for
    /// `'a`, see the type.
    #[inline(always)]
    unsafe fn data<'a>(vcpu: *mut bindings::kvm_vcpu) -> &'a mut T::VcpuData {
        // SAFETY: `vcpu` is valid, and `vcpu_create()` has stored a pointer to a box's content, which
        // `vcpu_destroy()` has not taken back yet.  Nobody else borrows it.
        unsafe { &mut *bindings::kvm_vpmu_priv(vcpu).cast() }
    }

    /// The vCPU of a callback that runs with vcpu->mutex held.
    ///
    /// # Safety
    ///
    /// So it is, for `'a`.
    #[inline(always)]
    unsafe fn held<'a>(vcpu: *mut bindings::kvm_vcpu) -> HeldVcpu<'a> {
        // SAFETY: The caller's promise.
        // INVARIANT: As above.
        HeldVcpu(unsafe { Vcpu::from_raw(vcpu) })
    }

    /// # Safety
    ///
    /// Called by KVM only, with a VM that has no data yet.
    unsafe extern "C" fn vm_create(kvm: *mut bindings::kvm) -> c_int {
        let result = T::vm_create().and_then(|data| Ok(KBox::new(data, GFP_KERNEL)?));
        match result {
            Ok(data) => {
                let data: *mut c_void = KBox::into_raw(data).cast();
                // SAFETY: The VM is valid by the contract.
                unsafe { bindings::kvm_vpmu_set_vm_priv(kvm, data) };
                0
            }
            Err(error) => error.to_errno(),
        }
    }

    /// # Safety
    ///
    /// Called by KVM only, once, after `vm_create()` and after all vCPUs are gone.
    unsafe extern "C" fn vm_destroy(kvm: *mut bindings::kvm) {
        // SAFETY: The VM is valid by the contract, and the pointer is from `vm_create()`.
        let data = unsafe { bindings::kvm_vpmu_vm_priv(kvm) };
        // SAFETY: As above.
        unsafe { bindings::kvm_vpmu_set_vm_priv(kvm, core::ptr::null_mut()) };
        // SAFETY: `vm_create()` has got it from `KBox::into_raw()`; nobody uses it any more.
        drop(unsafe { KBox::<T::VmData>::from_raw(data.cast()) });
    }

    /// # Safety
    ///
    /// Called by KVM only, with a vCPU that has no data yet.
    unsafe extern "C" fn vcpu_create(vcpu: *mut bindings::kvm_vcpu) -> c_int {
        let result = T::vcpu_create().and_then(|data| Ok(KBox::new(data, GFP_KERNEL)?));
        match result {
            Ok(data) => {
                let data: *mut c_void = KBox::into_raw(data).cast();
                // SAFETY: The vCPU is valid by the contract.
                unsafe { bindings::kvm_vpmu_set_priv(vcpu, data) };
                0
            }
            Err(error) => error.to_errno(),
        }
    }

    /// # Safety
    ///
    /// Called by KVM only, once, after `vcpu_create()`.
    unsafe extern "C" fn vcpu_destroy(vcpu: *mut bindings::kvm_vcpu) {
        // SAFETY: The vCPU is valid by the contract, and the pointer is from `vcpu_create()`.
        let data = unsafe { bindings::kvm_vpmu_priv(vcpu) };
        // SAFETY: `vcpu_create()` has got it from `KBox::into_raw()`; no callback comes any more.
        drop(unsafe { KBox::<T::VcpuData>::from_raw(data.cast()) });
    }

    /// # Safety
    ///
    /// Called by KVM only, with vcpu->mutex held or before anybody knows the vCPU.
    unsafe extern "C" fn refresh(vcpu: *mut bindings::kvm_vcpu) {
        // SAFETY: The contract.
        T::refresh(&unsafe { Self::held(vcpu) }, unsafe { Self::data(vcpu) });
    }

    /// # Safety
    ///
    /// Called by KVM only, with vcpu->mutex held.
    unsafe extern "C" fn is_valid_msr(vcpu: *mut bindings::kvm_vcpu, msr: u32) -> bool {
        // SAFETY: The contract.
        T::is_valid_msr(unsafe { Self::data(vcpu) }, Msr::new(msr))
    }

    /// # Safety
    ///
    /// Called by KVM only, with vcpu->mutex held and `value` valid for a write.
    unsafe extern "C" fn get_msr(
        vcpu: *mut bindings::kvm_vcpu,
        msr: u32,
        host_initiated: bool,
        value: *mut u64,
    ) -> c_int {
        // SAFETY: The contract.
        let data = unsafe { Self::data(vcpu) };
        let result = T::get_msr(data, Msr::new(msr), host_initiated);
        // SAFETY: `value` is valid for a write.
        or_fault(result.map(|read| unsafe { value.write(read) }))
    }

    /// # Safety
    ///
    /// Called by KVM only, with vcpu->mutex held.
    unsafe extern "C" fn set_msr(
        vcpu: *mut bindings::kvm_vcpu,
        msr: u32,
        host_initiated: bool,
        value: u64,
    ) -> c_int {
        // SAFETY: The contract.
        let (held, data) = unsafe { (Self::held(vcpu), Self::data(vcpu)) };
        or_fault(T::set_msr(
            &held,
            data,
            Msr::new(msr),
            value,
            host_initiated,
        ))
    }

    /// # Safety
    ///
    /// Called by KVM only, with vcpu->mutex held and `value` valid for a write.
    unsafe extern "C" fn rdpmc(vcpu: *mut bindings::kvm_vcpu, ecx: u32, value: *mut u64) -> c_int {
        // SAFETY: The contract.
        let result = T::rdpmc(unsafe { Self::data(vcpu) }, ecx);
        // SAFETY: `value` is valid for a write.
        or_fault(result.map(|read| unsafe { value.write(read) }))
    }

    /// # Safety
    ///
    /// Called by KVM only, with vcpu->mutex held.
    unsafe extern "C" fn check_rdpmc(vcpu: *mut bindings::kvm_vcpu, ecx: u32) -> c_int {
        // SAFETY: The contract.
        c_int::from(T::rdpmc_faults(unsafe { Self::data(vcpu) }, ecx))
    }

    /// # Safety
    ///
    /// Called by KVM only, with vcpu->mutex held.
    unsafe extern "C" fn handle_event(vcpu: *mut bindings::kvm_vcpu) {
        // SAFETY: The contract.
        let (held, data) = unsafe { (Self::held(vcpu), Self::data(vcpu)) };
        T::filter_changed(&held, data);
    }

    /// KVM raises LVTPC itself; there is nothing to add.
    ///
    /// # Safety
    ///
    /// Called by KVM only.
    unsafe extern "C" fn deliver_pmi(_vcpu: *mut bindings::kvm_vcpu) {}

    /// # Safety
    ///
    /// Called by KVM only, in the vCPU's own task with vcpu->mutex held.
    unsafe extern "C" fn instruction_retired(vcpu: *mut bindings::kvm_vcpu) {
        // SAFETY: The contract.
        let (held, data) = unsafe { (Self::held(vcpu), Self::data(vcpu)) };
        T::instruction_retired(&held, data);
    }

    /// # Safety
    ///
    /// Called by KVM only, in the vCPU's own task with vcpu->mutex held.
    unsafe extern "C" fn branch_retired(vcpu: *mut bindings::kvm_vcpu) {
        // SAFETY: The contract.
        let (held, data) = unsafe { (Self::held(vcpu), Self::data(vcpu)) };
        T::branch_retired(&held, data);
    }

    /// # Safety
    ///
    /// Called by KVM only, with vcpu->mutex held and the vCPU loaded.
    unsafe extern "C" fn recalc_intercepts(vcpu: *mut bindings::kvm_vcpu) {
        // SAFETY: The contract.
        let (held, data) = unsafe { (Self::held(vcpu), Self::data(vcpu)) };
        // INVARIANT: This is the callback for it.
        T::set_intercepts(&InterceptedVcpu(held), data);
    }

    /// # Safety
    ///
    /// Called by KVM only, with vcpu->mutex held or before anybody knows the vCPU.
    unsafe extern "C" fn mode_changed(vcpu: *mut bindings::kvm_vcpu) {
        // SAFETY: The contract.
        let (held, data) = unsafe { (Self::held(vcpu), Self::data(vcpu)) };
        // SAFETY: The vCPU is valid and held.
        let mode = unsafe {
            Mode {
                svme: bindings::kvm_vpmu_guest_has_svme(vcpu),
                l2: bindings::kvm_vpmu_is_guest_mode(vcpu),
            }
        };
        T::mode_changed(&held, data, mode);
    }

    /// # Safety
    ///
    /// Called by KVM only, in the vCPU's own task with interrupts off, which stay off until `put()`.
    unsafe extern "C" fn load(vcpu: *mut bindings::kvm_vcpu) -> c_uint {
        // SAFETY: The contract.
        let irqs_off = unsafe { IrqsOff::assert() };
        // SAFETY: The vCPU is valid and held by the contract.
        let lvtpc = unsafe { bindings::kvm_vpmu_guest_lvtpc(vcpu) };
        // SAFETY: The contract.
        let data = unsafe { Self::data(vcpu) };

        // Ownership first: from here on nothing counts until VM-entry.
        let context = GuestContext::load(irqs_off, lvtpc, T::can_interrupt(data));
        // INVARIANT: The vCPU is loaded by the contract, and the PMU was just given to it.
        let owner = OwnerVcpu {
            // SAFETY: The contract.
            vcpu: unsafe { Vcpu::from_raw(vcpu) },
            _context: &context,
        };
        let elided = T::load(&owner, data, lvtpc);
        context.keep();
        elided
    }

    /// # Safety
    ///
    /// Called by KVM only, once after each `load()`, on the same processor and with interrupts off
    /// since then.
    unsafe extern "C" fn put(vcpu: *mut bindings::kvm_vcpu) {
        // SAFETY: The contract.
        let irqs_off = unsafe { IrqsOff::assert() };
        // SAFETY: `load()` has kept the context, and as interrupts were off ever since, nothing else
        // could load one here.
        let context = unsafe { GuestContext::resume(irqs_off) };
        // INVARIANT: As in `load()`.
        let owner = OwnerVcpu {
            // SAFETY: The contract.
            vcpu: unsafe { Vcpu::from_raw(vcpu) },
            _context: &context,
        };
        // SAFETY: The contract.
        T::put(&owner, unsafe { Self::data(vcpu) });
        // Ownership goes back to perf last.
        drop(context);
    }

    /// # Safety
    ///
    /// Called by KVM only, in hard-irq context.
    unsafe extern "C" fn pmi(vcpu: *mut bindings::kvm_vcpu) {
        // SAFETY: The vCPU is loaded on this processor by the contract, so it exists.
        T::pmi(unsafe { Vcpu::from_raw(vcpu) });
    }
}
