// SPDX-License-Identifier: GPL-2.0

//! The callbacks as KVM calls them, and what makes it safe that they call a backend's methods.

use super::{
    backend::Backend,
    vcpu::{Config, HeldVcpu, Intercepts, LoadedVcpu, OwnerVcpu, State, Vcpu},
};
use crate::{
    caps::HostPmu,
    model::Mode,
    msr::Msr,
    register::GeneralProtection,
    retired::Retired,
    sys::{
        bindings,
        irq::{with_irqs_off, IrqsOff},
        perf::{Evicted, GuestContext},
    },
};
use core::{
    cell::{Cell, UnsafeCell},
    marker::PhantomData,
};
use kernel::{
    ffi::{c_int, c_uint, c_void},
    prelude::*,
};

/// The callbacks of a backend, as KVM takes them.
pub(crate) struct Vtable(pub(super) bindings::kvm_vpmu_backend);

impl Vtable {
    /// Those of `T`.
    pub(crate) fn of<T: Backend>() -> Self {
        Self(Callbacks::<T>::VTABLE)
    }
}

/// What KVM knows as the backend, and what goes with it.
///
/// KVM's pointer to its part is a pointer to all of it.
#[repr(C)]
pub(super) struct Registered {
    /// KVM's part.
    pub(super) backend: bindings::kvm_vpmu_backend,
    /// The host as it is when the backend is registered, as which it remains.
    pub(super) host: HostPmu,
}

/// The C callbacks, each a thin shell around its method of [`Backend`].
///
/// They are called by KVM and nobody else, which keeps the promises of `struct kvm_vpmu_backend`:
///
/// - C1: Pointers to vCPUs are valid for the call, and so are those that a value is to be written
///   to, which may be null where that is said.
/// - C2: Callbacks for a vCPU come one at a time, but for the `changed()` that comes when the vCPU
///   leaves its processor, and so in the middle of others that have interrupts on. It borrows the
///   vCPU's data only if that is parked, which they see to that it is not: so they can borrow it
///   for the call, mutably.
/// - C3: A vCPU's callbacks come after its `vcpu_create`, for which KVM has set aside `vcpu_size`
///   bytes, aligned for whatever is no larger than a pointer, for as long as there is the vCPU.
/// - C4: KVM's services do not call back.
/// - C5: Each callback comes in the context that its documentation in C says.
/// - C6: What `vcpu_create` gets as the backend is what was registered. It remains so until all
///   vCPUs are gone.
struct Callbacks<T: Backend>(PhantomData<T>);

/// What is kept for a vCPU.
struct Private<T: Backend> {
    /// The host, as it was when the backend was registered. That outlives the vCPU: the lifetime is
    /// the vCPU's.
    host: &'static HostPmu,
    /// Where the state of the PMU is.
    place: Cell<Place>,
    /// The backend's own.
    data: UnsafeCell<T::VcpuData>,
}

/// Where the state of a vCPU's PMU is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the vCPU's data.
    Memory,
    /// In hardware: `load()` has put it there, and `put()` has not come since.
    Hardware,
    /// In the hardware of the processor that the vCPU is loaded on, or in perf's copy of it. What is
    /// in the data is out of date.
    Parked,
}

/// What KVM says by bits of `enum kvm_vpmu_retired`, but for the privilege level.
const fn retired(what: u32) -> Retired {
    Retired::from_bits((what & !bindings::kvm_vpmu_retired_KVM_VPMU_RETIRED_AT_CPL0) as u8)
}

const _: () = {
    use super::super::bindings::*;

    const fn same(c: kvm_vpmu_retired, rust: Retired) -> bool {
        retired(c).is(rust) && rust.is(retired(c))
    }

    assert!(same(
        kvm_vpmu_retired_KVM_VPMU_RETIRED_INSTRUCTION,
        Retired::INSTRUCTION
    ));
    assert!(same(
        kvm_vpmu_retired_KVM_VPMU_RETIRED_BRANCH,
        Retired::BRANCH
    ));
    assert!(same(
        kvm_vpmu_retired_KVM_VPMU_RETIRED_TAKEN,
        Retired::TAKEN
    ));
    assert!(same(
        kvm_vpmu_retired_KVM_VPMU_RETIRED_CONDITIONAL,
        Retired::CONDITIONAL
    ));
    assert!(same(
        kvm_vpmu_retired_KVM_VPMU_RETIRED_CALL,
        Retired::NEAR_CALL
    ));
    assert!(same(
        kvm_vpmu_retired_KVM_VPMU_RETIRED_RETURN,
        Retired::NEAR_RETURN
    ));
    assert!(same(
        kvm_vpmu_retired_KVM_VPMU_RETIRED_INDIRECT,
        Retired::INDIRECT
    ));
    assert!(same(kvm_vpmu_retired_KVM_VPMU_RETIRED_FAR, Retired::FAR));
};

/// What KVM understands: 0, or 1 for a fault.
fn or_fault(result: Result<(), GeneralProtection>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(GeneralProtection) => 1,
    }
}

impl<T: Backend> Callbacks<T> {
    /// All of them; the rest of the structure is filled in when it is registered.
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
        vcpu_size: size_of::<Private<T>>(),
        vcpu_create: Some(Self::vcpu_create),
        refresh: Some(Self::refresh),
        get_msr: Some(Self::get_msr),
        set_msr: Some(Self::set_msr),
        rdpmc: Some(Self::rdpmc),
        retired: Some(Self::retired),
        recalc_intercepts: Some(Self::recalc_intercepts),
        changed: Some(Self::changed),
        load: Some(Self::load),
        put: Some(Self::put),
    };

    /// What we keep for a vCPU.
    ///
    /// # Safety
    ///
    /// `vcpu` is that of the callback which calls, and `'a` ends with it.
    #[inline(always)]
    unsafe fn private<'a>(vcpu: *mut bindings::kvm_vcpu) -> &'a Private<T> {
        // SAFETY: `vcpu` is valid by C1. By C3 `vcpu_create()` has initialized what KVM keeps.
        unsafe { &*bindings::kmp_vcpu_priv(vcpu).cast() }
    }

    /// The data of a vCPU, for a callback that changes nothing, in memory.
    ///
    /// # Safety
    ///
    /// As of [`Self::data`]; if others do the same meanwhile, it does no harm.
    #[inline(always)]
    unsafe fn data_ref<'a>(vcpu: *mut bindings::kvm_vcpu) -> &'a T::VcpuData {
        // SAFETY: The caller's promise.
        unsafe { Self::save_parked(vcpu) };
        // SAFETY: The caller's promise.
        let private = unsafe { Self::private(vcpu) };
        // SAFETY: It isn't parked, nor will be by anybody but the next `put()`, and by C2 and C4
        // nobody borrows it mutably.
        unsafe { &*private.data.get() }
    }

    /// The data of a vCPU, in memory.
    ///
    /// # Safety
    ///
    /// As of [`Self::private`], and of what is parked the callback makes no other use.
    #[inline(always)]
    unsafe fn data<'a>(vcpu: *mut bindings::kvm_vcpu) -> &'a mut T::VcpuData {
        // SAFETY: The caller's promise.
        unsafe { Self::save_parked(vcpu) };
        // SAFETY: The caller's promise.
        let private = unsafe { Self::private(vcpu) };
        // SAFETY: By C2 and C4 nobody else borrows it, for it isn't parked, nor will be by anybody
        // but the next `put()`.
        unsafe { &mut *private.data.get() }
    }

    /// Has `read` look at what memory has of a vCPU. What changes in hardware is out of date if the
    /// vCPU is parked.
    ///
    /// # Safety
    ///
    /// As of [`Self::private`].
    unsafe fn peek<R>(vcpu: *mut bindings::kvm_vcpu, read: impl FnOnce(&T::VcpuData) -> R) -> R {
        // SAFETY: The callback's own vCPU.
        let private = unsafe { Self::private(vcpu) };
        // SAFETY: By C2 nobody else borrows it while interrupts are off.
        with_irqs_off(|_| read(unsafe { &*private.data.get() }))
    }

    /// Calls `call` with the vCPU as the owner of the PMU at which it is parked, in between; or
    /// doesn't, if it isn't.
    ///
    /// # Safety
    ///
    /// As of [`Self::private`].
    unsafe fn visit<R>(
        vcpu: *mut bindings::kvm_vcpu,
        call: impl FnOnce(&OwnerVcpu<'_>, &mut T::VcpuData) -> R,
    ) -> Option<R> {
        with_irqs_off(|irqs_off| {
            // SAFETY: The callback's own vCPU.
            let private = unsafe { Self::private(vcpu) };
            if private.place.get() != Place::Parked {
                return None;
            }
            // SAFETY: It is parked here, with the claim of `load()`.
            let context = unsafe { GuestContext::visit(irqs_off) }?;
            // SAFETY: The vCPU is valid by C1, the backend's by C3, loaded by C5, and parked.
            let owner = unsafe { OwnerVcpu::new(Vcpu::from_raw(vcpu), &context) };
            // SAFETY: By C2 nobody else borrows it while interrupts are off.
            Some(call(&owner, unsafe { &mut *private.data.get() }))
        })
    }

    /// Takes what is parked out of hardware, if it is.
    ///
    /// # Safety
    ///
    /// As of [`Self::private`], and nobody borrows the data of a vCPU that is parked.
    #[inline(always)]
    unsafe fn save_parked(vcpu: *mut bindings::kvm_vcpu) {
        // SAFETY: The callback's own vCPU.
        let private = unsafe { Self::private(vcpu) };
        if private.place.get() != Place::Parked {
            return;
        }
        with_irqs_off(|irqs_off| {
            // With interrupts on, it may have been done in the meantime.
            if private.place.get() == Place::Parked {
                // SAFETY: It is parked, and the caller's promise.
                unsafe { Self::save_parked_here(vcpu, irqs_off) };
            }
        });
    }

    /// Takes what is parked out of hardware.
    ///
    /// # Safety
    ///
    /// As of [`Self::save_parked`], and it is parked.
    #[cold]
    unsafe fn save_parked_here(vcpu: *mut bindings::kvm_vcpu, irqs_off: IrqsOff<'_>) {
        // SAFETY: The callback's own vCPU.
        let private = unsafe { Self::private(vcpu) };
        private.place.set(Place::Memory);
        // SAFETY: Nobody else borrows it, by the caller's promise.
        let data = unsafe { &mut *private.data.get() };
        // SAFETY: The vCPU is valid by C1, and the backend's by C3.
        let vcpu = unsafe { Vcpu::from_raw(vcpu) };
        // SAFETY: It was parked here: it hasn't left the processor since, for `changed()` would
        // have come.
        T::save(vcpu, data, &unsafe { Evicted::new(irqs_off) });
    }

    /// Tells KVM which state the PMU is in, in case that it is another one than KVM knows of.
    ///
    /// # Safety
    ///
    /// `vcpu` is that of the callback which calls. It is not between `load()` and `put()`, but this
    /// may be the end of `put()`.
    unsafe fn settle(vcpu: *mut bindings::kvm_vcpu) {
        // SAFETY: The callback's own vCPU.
        let state = T::state(unsafe { Self::data_ref(vcpu) });
        // SAFETY: The vCPU is held by C5, and the time is right by the caller's promise.
        unsafe { Self::held(vcpu).set_state(state) };
    }

    /// The vCPU of a callback that is the only one at it.
    ///
    /// # Safety
    ///
    /// The callback is one of these by C5, and `'a` ends with it.
    #[inline(always)]
    unsafe fn held<'a>(vcpu: *mut bindings::kvm_vcpu) -> HeldVcpu<'a> {
        // SAFETY: By C1 it is valid, by C3 the backend's, and nobody else is at it by C5.
        unsafe { HeldVcpu::new(Vcpu::from_raw(vcpu)) }
    }

    /// The same, of a callback that runs with the vCPU loaded.
    ///
    /// # Safety
    ///
    /// The callback is one of these by C5, and `'a` ends with it.
    #[inline(always)]
    unsafe fn loaded<'a>(vcpu: *mut bindings::kvm_vcpu) -> LoadedVcpu<'a> {
        // SAFETY: By C5 it is loaded as well.
        unsafe { LoadedVcpu::new(Self::held(vcpu)) }
    }

    /// Calls `call` with the vCPU as the owner of the PMU that it is.
    ///
    /// # Safety
    ///
    /// `vcpu` is that of the callback which calls, between its `load()` and its `put()`.
    unsafe fn as_owner<R>(
        vcpu: *mut bindings::kvm_vcpu,
        call: impl FnOnce(&OwnerVcpu<'_>) -> R,
    ) -> R {
        // SAFETY: `load()` and `put()` come with interrupts off by C5, which stay off in between.
        let irqs_off = unsafe { IrqsOff::assume() };
        // SAFETY: `load()` has kept the context on this processor, where nothing else could load one
        // since. Nobody else has come back to it, unless he has kept it as this does.
        let context = unsafe { GuestContext::resume(irqs_off) };
        // SAFETY: The vCPU is valid by C1, the backend's by C3, loaded by C5, and has the PMU since
        // `load()`.
        let owner = unsafe { OwnerVcpu::new(Vcpu::from_raw(vcpu), &context) };
        let result = call(&owner);
        context.keep();
        result
    }

    /// # Safety
    ///
    /// Called by KVM only, with a vCPU that has no data yet.
    unsafe extern "C" fn vcpu_create(
        backend: *const bindings::kvm_vpmu_backend,
        vcpu: *mut bindings::kvm_vcpu,
    ) -> c_int {
        const {
            assert!(!core::mem::needs_drop::<Private<T>>());
            assert!(align_of::<Private<T>>() <= align_of::<*mut c_void>());
        }
        // SAFETY: By C6 this is what a `Registered` begins with, which nobody changes and which is
        // there for longer than the vCPU.
        let registered: &Registered = unsafe { &*backend.cast() };
        let private: Private<T> = Private {
            host: &registered.host,
            place: Cell::new(Place::Memory),
            data: UnsafeCell::new(T::vcpu_create()),
        };
        // SAFETY: The vCPU is valid by C1.
        let room: *mut Private<T> = unsafe { bindings::kmp_vcpu_priv(vcpu) }.cast();
        // SAFETY: By C3 it is as large as the structure, and aligned for it by the assertion.
        unsafe { room.write(private) };
        0
    }

    /// # Safety
    ///
    /// Called by KVM only, with vcpu->mutex held or before anybody knows the vCPU.
    unsafe extern "C" fn refresh(
        vcpu: *mut bindings::kvm_vcpu,
        config: *const bindings::kvm_vpmu_config,
    ) {
        // SAFETY: The callback's own vCPU, which is held by C5.
        let (held, data) = unsafe { (Self::held(vcpu), Self::data(vcpu)) };
        // SAFETY: The callback's own vCPU.
        let host = unsafe { Self::private(vcpu) }.host;
        // SAFETY: It is valid by C1.
        let public = T::refresh(host, &Config(unsafe { &*config }), data);
        held.publish(public, T::state(data));
    }

    /// # Safety
    ///
    /// Called by KVM only, with vcpu->mutex held and `value` valid for a write, or null.
    unsafe extern "C" fn get_msr(
        vcpu: *mut bindings::kvm_vcpu,
        msr: u32,
        host_initiated: bool,
        value: *mut u64,
    ) -> c_int {
        let msr = Msr::new(msr);
        if value.is_null() {
            // SAFETY: The callback's own vCPU.
            let exists = unsafe { Self::peek(vcpu, |data| T::is_valid_msr(data, msr)) };
            return if exists { 0 } else { ENOENT.to_errno() };
        }
        // SAFETY: The callback's own vCPU.
        let data = unsafe { Self::data_ref(vcpu) };
        let result = T::get_msr(data, msr, host_initiated);
        // SAFETY: `value` is valid by C1.
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
        // SAFETY: The callback's own vCPU, which is held by C5.
        let (held, data) = unsafe { (Self::held(vcpu), Self::data(vcpu)) };
        let msr = Msr::new(msr);
        // SAFETY: The callback's own vCPU.
        if unsafe { Self::private(vcpu) }.place.get() == Place::Hardware {
            // SAFETY: It is in hardware, and this the callback's own vCPU.
            let done = unsafe {
                Self::as_owner(vcpu, |owner| T::set_msr_in_place(owner, data, msr, value))
            };
            return c_int::from(!done);
        }
        let result = T::set_msr(&held, data, msr, value, host_initiated);
        // SAFETY: The callback's own vCPU, which isn't loaded into hardware by C5.
        unsafe { Self::settle(vcpu) };
        or_fault(result)
    }

    /// # Safety
    ///
    /// Called by KVM only, with vcpu->mutex held and `value` valid for a write, or null.
    unsafe extern "C" fn rdpmc(vcpu: *mut bindings::kvm_vcpu, ecx: u32, value: *mut u64) -> c_int {
        if value.is_null() {
            // SAFETY: The callback's own vCPU.
            return c_int::from(unsafe { Self::peek(vcpu, |data| T::rdpmc_faults(data, ecx)) });
        }
        // SAFETY: The callback's own vCPU.
        let parked = unsafe { Self::visit(vcpu, |owner, data| T::rdpmc_parked(owner, data, ecx)) };
        let result = match parked.flatten() {
            Some(value) => Ok(value),
            // SAFETY: The callback's own vCPU.
            None => T::rdpmc(unsafe { Self::data_ref(vcpu) }, ecx),
        };
        // SAFETY: `value` is valid by C1.
        or_fault(result.map(|read| unsafe { value.write(read) }))
    }

    /// # Safety
    ///
    /// Called by KVM only, in the context that `what` has: with vcpu->mutex held; or when nobody
    /// knows the vCPU any more, whose L2 is left as it is destroyed.
    unsafe extern "C" fn changed(vcpu: *mut bindings::kvm_vcpu, what: bindings::kvm_vpmu_change) {
        match what {
            bindings::kvm_vpmu_change_KVM_VPMU_FILTER => {
                // SAFETY: The callback's own vCPU, which is held by C5.
                let (held, data) = unsafe { (Self::held(vcpu), Self::data(vcpu)) };
                T::filter_changed(&held, data);
            }
            bindings::kvm_vpmu_change_KVM_VPMU_MODE => {
                // SAFETY: The vCPU is valid by C1 and held by C5.
                let mode = unsafe {
                    Mode {
                        svme: bindings::kmp_guest_has_svme(vcpu),
                        l2: bindings::kmp_is_guest_mode(vcpu),
                    }
                };
                // SAFETY: The callback's own vCPU.
                T::mode_changed(unsafe { Self::data(vcpu) }, mode);
            }
            bindings::kvm_vpmu_change_KVM_VPMU_LEAVES_CPU => {
                // SAFETY: The callback's own vCPU. Others borrow the data only when it isn't parked,
                // so that nobody does if it is.
                return unsafe { Self::save_parked(vcpu) };
            }
            _ => return,
        }
        // SAFETY: The callback's own vCPU, which isn't loaded into hardware by C5.
        unsafe { Self::settle(vcpu) };
    }

    /// # Safety
    ///
    /// Called by KVM only, in the vCPU's own task with vcpu->mutex held.
    unsafe extern "C" fn retired(vcpu: *mut bindings::kvm_vcpu, what: u32) {
        let at_cpl0 = what & bindings::kvm_vpmu_retired_KVM_VPMU_RETIRED_AT_CPL0 != 0;
        let what = retired(what);
        // SAFETY: The callback's own vCPU.
        let private = unsafe { Self::private(vcpu) };
        if private.place.get() == Place::Hardware {
            // SAFETY: Interrupts are off from `load()` to `put()`, and nobody else borrows it.
            let data = unsafe { &mut *private.data.get() };
            // SAFETY: It is in hardware, and this the callback's own vCPU.
            unsafe {
                Self::as_owner(vcpu, |owner| {
                    T::retired_in_place(owner, data, what, at_cpl0)
                });
            }
            return;
        }
        let count = |owner: &OwnerVcpu<'_>, data: &mut T::VcpuData| {
            T::retired_parked(owner, data, what, at_cpl0);
        };
        // SAFETY: The callback's own vCPU.
        if unsafe { Self::visit(vcpu, count) }.is_some() {
            return;
        }
        // SAFETY: The callback's own vCPU, which is held and loaded by C5.
        let (loaded, data) = unsafe { (Self::loaded(vcpu), Self::data(vcpu)) };
        T::retired(&loaded, data, what, at_cpl0);
    }

    /// # Safety
    ///
    /// Called by KVM only, with vcpu->mutex held and the vCPU loaded.
    unsafe extern "C" fn recalc_intercepts(vcpu: *mut bindings::kvm_vcpu, has_pmu: bool) {
        // SAFETY: The callback's own vCPU, which is held and loaded by C5.
        let (loaded, data) = unsafe { (Self::loaded(vcpu), Self::data_ref(vcpu)) };
        let is_lent = has_pmu && T::state(data) != State::AtRest;
        // SAFETY: This is the callback for it.
        let intercepts = unsafe { Intercepts::new(loaded, is_lent) };
        T::set_intercepts(&intercepts, has_pmu.then_some(data));
    }

    /// # Safety
    ///
    /// Called by KVM only, in the vCPU's own task with interrupts off, which stay off until
    /// `put()`.
    unsafe extern "C" fn load(vcpu: *mut bindings::kvm_vcpu, lvtpc: u32) -> c_uint {
        // SAFETY: They are by C5, and stay so until `put()` has ended.
        let irqs_off = unsafe { IrqsOff::assume() };
        // SAFETY: The callback's own vCPU.
        let private = unsafe { Self::private(vcpu) };
        // SAFETY: By C2 nobody else borrows it while interrupts are off.
        let data = unsafe { &mut *private.data.get() };
        let lvtpc = T::can_interrupt(data).then_some(lvtpc);
        if private.place.get() == Place::Parked {
            // SAFETY: It is parked here, and KVM's claim stands by C5.
            if let Some(context) = unsafe { GuestContext::unpark(irqs_off, lvtpc) } {
                private.place.set(Place::Hardware);
                // SAFETY: As below.
                let owner = unsafe { OwnerVcpu::new(Vcpu::from_raw(vcpu), &context) };
                let elided = T::resume(&owner, data, lvtpc.unwrap_or(0));
                context.keep();
                return elided;
            }
            // SAFETY: It is parked, and nobody borrows it but this callback, which doesn't go on to
            // use what it has read.
            unsafe { Self::save_parked_here(vcpu, irqs_off) };
        }
        // SAFETY: KVM's promises of this callback.
        unsafe { Self::load_from_memory(vcpu, irqs_off, lvtpc) }
    }

    /// Puts the state into hardware.
    ///
    /// # Safety
    ///
    /// As of [`Self::load`], with interrupts off, and it is in memory. `lvtpc` is the guest's, if
    /// anything can interrupt.
    #[inline(never)]
    unsafe fn load_from_memory(
        vcpu: *mut bindings::kvm_vcpu,
        irqs_off: IrqsOff<'_>,
        lvtpc: Option<u32>,
    ) -> c_uint {
        // SAFETY: The callback's own vCPU.
        let private = unsafe { Self::private(vcpu) };
        private.place.set(Place::Hardware);
        // SAFETY: By C2 nobody else borrows it while interrupts are off.
        let data = unsafe { &mut *private.data.get() };

        // Ownership first: from here on nothing counts until VM-entry.
        // SAFETY: KVM has claimed the PMU for the vCPU's virtual machine by C5.
        let context = unsafe { GuestContext::load(irqs_off, lvtpc) };
        // SAFETY: The vCPU is valid by C1, the backend's by C3, loaded by C5, and was just given
        // the PMU.
        let owner = unsafe { OwnerVcpu::new(Vcpu::from_raw(vcpu), &context) };
        let elided = T::load(&owner, data, lvtpc.unwrap_or(0));
        context.keep();
        elided
    }

    /// # Safety
    ///
    /// Called by KVM only, once after each `load()`, on the same processor and with interrupts off
    /// since then.
    unsafe extern "C" fn put(vcpu: *mut bindings::kvm_vcpu, completed: bool) {
        // SAFETY: They are by C5, and stay so until `put()` has ended.
        let irqs_off = unsafe { IrqsOff::assume() };
        // SAFETY: By C5 `load()` came before, on this processor, and has kept the context. As
        // interrupts were off ever since, nothing else could load one here.
        let context = unsafe { GuestContext::resume(irqs_off) };
        // SAFETY: The callback's own vCPU.
        let private = unsafe { Self::private(vcpu) };
        // SAFETY: By C2 nobody else borrows it while interrupts are off.
        let data = unsafe { &mut *private.data.get() };
        T::left(data, completed);
        let context = if T::may_park(data) {
            // SAFETY: The callback's own vCPU, and the data's only borrow.
            match unsafe { Self::park(vcpu, data, context, irqs_off) } {
                Ok(()) => return private.place.set(Place::Parked),
                Err(context) => context,
            }
        } else {
            context
        };
        // SAFETY: This is that callback, and the context the vCPU's.
        unsafe { Self::put_into_memory(vcpu, context) };
    }

    /// Takes the state out of hardware, and gives the PMU back to perf.
    ///
    /// # Safety
    ///
    /// `vcpu` is that of the callback `put()`, and `context` is the vCPU's.
    #[inline(never)]
    unsafe fn put_into_memory(vcpu: *mut bindings::kvm_vcpu, context: GuestContext<'_>) {
        // SAFETY: The callback's own vCPU.
        let private = unsafe { Self::private(vcpu) };
        // SAFETY: By C2 nobody else borrows it while interrupts are off.
        let data = unsafe { &mut *private.data.get() };
        private.place.set(Place::Memory);
        // SAFETY: The vCPU is valid by C1, the backend's by C3, loaded by C5, and has the PMU since
        // `load()`.
        let owner = unsafe { OwnerVcpu::new(Vcpu::from_raw(vcpu), &context) };
        let rests = T::put(&owner, data);
        // Ownership goes back to perf last.
        drop(context);
        if rests {
            // SAFETY: The callback's own vCPU, for which this ends what `load()` began.
            unsafe { Self::settle(vcpu) };
        }
    }

    /// Leaves the state where it is, if both perf and the backend agree to it.
    ///
    /// # Safety
    ///
    /// `vcpu` is that of the callback `put()`, and `context` is the vCPU's.
    #[inline(always)]
    unsafe fn park<'a>(
        vcpu: *mut bindings::kvm_vcpu,
        data: &mut T::VcpuData,
        context: GuestContext<'a>,
        irqs_off: IrqsOff<'a>,
    ) -> Result<(), GuestContext<'a>> {
        let context = context.park()?;
        // SAFETY: The vCPU is valid by C1, the backend's by C3, loaded by C5, and has had the PMU
        // since `load()`, at which it is parked now.
        let owner = unsafe { OwnerVcpu::new(Vcpu::from_raw(vcpu), &context) };
        if T::park(&owner, data) {
            return Ok(());
        }
        // SAFETY: It was just parked. That perf has no use for the PMU can't have changed since.
        unsafe { GuestContext::unpark(irqs_off, None) }.map_or(Ok(()), Err)
    }
}
