// SPDX-License-Identifier: GPL-2.0

//! A module that registers a backend.

use super::callbacks::{Registered, Vtable};
use crate::{
    caps::{HostPmu, PmuCaps},
    sys::bindings,
};
use core::marker::PhantomData;
use kernel::{
    error::{to_result, Error, Result},
    prelude::*,
};

/// What a module has found to register.
pub(crate) trait Provider: Sized {
    /// Looks at the host. `None` if there is nothing to do, and nothing wrong with that.
    ///
    /// # Errors
    ///
    /// The module cannot be loaded, and the administrator has been told why.
    fn find() -> Result<Option<Self>>;

    /// The backend.
    fn vtable(&self) -> Vtable;

    /// The host, which does not change while the backend is registered.
    fn host(&self) -> &HostPmu;

    /// What guests may have at most.
    fn caps(&self) -> PmuCaps;

    /// Tells the administrator what came of the registration: `EBUSY` if there is a backend
    /// already, `ENODEV` without a vendor module of KVM, `ENOMEM`.
    fn tell(&self, registered: Result<(), Error>);
}

/// A module that provides virtual machines with PMUs while it is loaded.
///
/// A registration must not go away while a virtual machine has the backend. Each holds a reference
/// on the module, so that the module's exit is a good place to take the backend back. Its
/// initialization is none: were it to fail after the registration, a virtual machine could have the
/// backend by then. So there is nobody who could drop a registration but this type, which registers
/// last.
pub(crate) struct BackendModule<P> {
    /// What is registered, if anything.
    _registration: Option<Registration>,
    /// Who was asked.
    _provider: PhantomData<fn() -> P>,
}

impl<P: Provider> kernel::Module for BackendModule<P> {
    fn init(module: &'static ThisModule) -> Result<Self> {
        let registration = match P::find()? {
            Some(provider) => {
                let registered = Registration::new(module, &provider);
                provider.tell(registered.as_ref().map(|_| ()).map_err(|error| *error));
                Some(registered?)
            }
            None => None,
        };
        Ok(Self {
            _registration: registration,
            _provider: PhantomData,
        })
    }
}

/// A backend that KVM calls.
///
/// Dropping it takes the backend back, which is for [`BackendModule`] to do.
///
/// # Invariants
///
/// The structure is registered with KVM, and is neither moved nor changed.
struct Registration(KBox<Registered>);

// SAFETY: KVM takes back a registration from any task.
unsafe impl Send for Registration {}
// SAFETY: It holds no data that a shared reference could change.
unsafe impl Sync for Registration {}

impl Registration {
    /// Registers the backend: virtual machines that are created from now on get it. May sleep.
    fn new(module: &'static ThisModule, provider: &impl Provider) -> Result<Self> {
        let backend = bindings::kvm_vpmu_backend {
            owner: module.as_ptr().cast(),
            caps: to_c(&provider.caps()),
            ..provider.vtable().0
        };
        let host = *provider.host();
        let registered = KBox::new(Registered { backend, host }, GFP_KERNEL)?;
        // SAFETY: The callbacks are those of `Callbacks`, which do what KVM expects of them. The
        // structure stays where it is, as it is, until `drop()`.
        to_result(unsafe { bindings::kvm_vpmu_register_backend(as_c(&registered)) })?;
        // INVARIANT: just registered.
        Ok(Self(registered))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant it is registered. KVM waits until no virtual machine has
        // it any more.
        unsafe { bindings::kvm_vpmu_unregister_backend(as_c(&self.0)) };
    }
}

/// What KVM knows of it: its beginning. The callbacks find all of it there.
fn as_c(registered: &Registered) -> *const bindings::kvm_vpmu_backend {
    core::ptr::from_ref(registered).cast()
}

/// The same for KVM.
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
