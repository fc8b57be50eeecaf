// SPDX-License-Identifier: GPL-2.0

//! The PMU as perf lends it.
//!
//! perf lends twice. A virtual machine holds a [`MediatedPmu`] for as long as it exists; meanwhile no
//! event can be opened that would count in guests. A vCPU holds a [`GuestContext`] from before
//! VM-entry to after VM-exit; meanwhile the PMU of that processor is its own.
//!
//! C headers: `include/linux/perf_event.h` and `arch/x86/include/asm/perf_guest.h` of a kernel with the
//! project's patches.

use super::{bindings, irq::IrqsOff};
use core::mem::ManuallyDrop;
use kernel::{
    error::{to_result, Result},
    ffi::c_ulong,
};

/// perf's promise to have no events that include guests.
///
/// Dropping it ends the promise. Both may sleep.
pub struct MediatedPmu(());

impl MediatedPmu {
    /// Asks perf for the PMU on behalf of a virtual machine.  May sleep.
    ///
    /// # Errors
    ///
    /// `EBUSY` if there are events that include guests, `EOPNOTSUPP` if no PMU can be mediated.
    pub fn new() -> Result<Self> {
        // SAFETY: The function has no preconditions but process context; a caller elsewhere is told
        // by the kernel's own checks and breaks no memory safety.
        to_result(unsafe { bindings::perf_create_mediated_pmu() })?;
        Ok(Self(()))
    }
}

impl Drop for MediatedPmu {
    fn drop(&mut self) {
        // SAFETY: `new()` has made the call that this one undoes, and a value is dropped once.
        unsafe { bindings::perf_release_mediated_pmu() };
    }
}

/// This processor's PMU, owned by a vCPU: perf's events are stopped, the global control is 0, no
/// selector is enabled, and LVTPC raises the mediated PMI vector if the vCPU has a use for it.
///
/// Dropping it gives the PMU back to perf. It must be in the state in which it was given: the global
/// control 0 and no selector enabled; values of counters do not matter.
///
/// # Invariants
///
/// perf has loaded the guest context on this processor and not put it since.
pub struct GuestContext<'a>(IrqsOff<'a>);

impl<'a> GuestContext<'a> {
    /// Takes the PMU from perf. `lvtpc` is the guest's LVTPC, whose mask bit hardware gets.
    ///
    /// Unless it `can_interrupt`, LVTPC is left as it is, and no counter may raise an interrupt until
    /// the PMU is given back.
    #[inline]
    pub fn load(irqs_off: IrqsOff<'a>, lvtpc: u32, can_interrupt: bool) -> Self {
        // A guest's LVTPC may have any bits: user space sets it.
        let data = if can_interrupt {
            lvtpc & !bindings::PERF_GUEST_NO_PMI
        } else {
            bindings::PERF_GUEST_NO_PMI
        };
        // SAFETY: Interrupts are off.  Were the context loaded already, perf would warn.
        unsafe { bindings::perf_load_guest_context(data as c_ulong) };
        // INVARIANT: just loaded, and as interrupts stay off we remain on this processor.
        Self(irqs_off)
    }

    /// Keeps the PMU beyond `'a`, until [`GuestContext::resume`].
    #[inline]
    pub fn keep(self) {
        let _ = ManuallyDrop::new(self);
    }

    /// Comes back to a context that was kept.
    ///
    /// # Safety
    ///
    /// The last context that was loaded on this processor was kept by [`GuestContext::keep`], and
    /// nobody has resumed it since.
    #[inline]
    pub unsafe fn resume(irqs_off: IrqsOff<'a>) -> Self {
        // INVARIANT: The caller's promise.
        Self(irqs_off)
    }
}

impl Drop for GuestContext<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type's invariant the context is loaded on this processor, and interrupts are
        // off.
        unsafe { bindings::perf_put_guest_context() };
    }
}
