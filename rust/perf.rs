// SPDX-License-Identifier: GPL-2.0

//! The PMU as perf lends it.
//!
//! perf lends twice. KVM claims the PMU for a virtual machine; meanwhile no event can be opened
//! that would count in guests. By that the machine's vCPUs get a [`GuestContext`], from before
//! VM-entry to after VM-exit; meanwhile the PMU of that processor is their own.
//!
//! C headers: `include/linux/perf_event.h` and `arch/x86/include/asm/perf_guest.h` of a kernel with
//! the project's patches.

use super::{bindings, irq::IrqsOff};
use core::mem::ManuallyDrop;
use kernel::ffi::c_ulong;

/// This processor's PMU, owned by a vCPU: perf's events are stopped, the global control is 0, no
/// selector is enabled, and LVTPC raises the mediated PMI vector if the vCPU has a use for it.
///
/// Dropping it gives the PMU back to perf. It must be in the state in which it was given: the
/// global control 0 and no selector enabled; values of counters do not matter.
///
/// # Invariants
///
/// perf has loaded the guest context on this processor and not put it since.
pub(crate) struct GuestContext<'a>(IrqsOff<'a>);

impl<'a> GuestContext<'a> {
    /// Takes the PMU of this processor from perf, on behalf of a vCPU. `lvtpc` is the guest's LVTPC,
    /// whose mask bit hardware gets.
    ///
    /// Without it, LVTPC is left as it is, and no counter may raise an interrupt until the PMU is
    /// given back.
    ///
    /// # Safety
    ///
    /// The vCPU's virtual machine has a claim on the PMU (`perf_create_mediated_pmu()`), which lasts
    /// until the PMU is given back, and no context is loaded on this processor.
    #[inline]
    pub(crate) unsafe fn load(irqs_off: IrqsOff<'a>, lvtpc: Option<u32>) -> Self {
        // A guest's LVTPC may have any bits: user space sets it.
        let data = match lvtpc {
            Some(lvtpc) => lvtpc & !bindings::PERF_GUEST_NO_PMI,
            None => bindings::PERF_GUEST_NO_PMI,
        };
        // SAFETY: Interrupts are off, and by the caller's promise perf has agreed to lend the PMU,
        // and has it.
        unsafe { bindings::perf_load_guest_context(data as c_ulong) };
        // INVARIANT: just loaded, and as interrupts stay off we remain on this processor.
        Self(irqs_off)
    }

    /// Keeps the PMU beyond `'a`, until [`GuestContext::resume`].
    #[inline]
    pub(crate) fn keep(self) {
        let _ = ManuallyDrop::new(self);
    }

    /// Comes back to a context that was kept.
    ///
    /// # Safety
    ///
    /// The last context that was loaded on this processor was kept by [`GuestContext::keep`], and
    /// nobody has resumed it since.
    #[inline]
    pub(crate) unsafe fn resume(irqs_off: IrqsOff<'a>) -> Self {
        // INVARIANT: The caller's promise.
        Self(irqs_off)
    }
}

impl Drop for GuestContext<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type's invariant the context is loaded on this processor, and interrupts
        // are off.
        unsafe { bindings::perf_put_guest_context() };
    }
}
