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
/// perf has loaded the guest context on this processor and not put it since, or has left the guest
/// parked.
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
        // SAFETY: Interrupts are off, and by the caller's promise perf has agreed to lend the PMU,
        // and has it.
        unsafe { bindings::perf_load_guest_context(data_of(lvtpc)) };
        // INVARIANT: just loaded, and as interrupts stay off we remain on this processor.
        Self(irqs_off)
    }

    /// Gives the PMU back, and has perf leave the guest's state in hardware as it is, where nothing
    /// counts for it, for as long as the host does not need it. `Err` if the host needs it now.
    #[inline]
    pub(crate) fn park(self) -> Result<ManuallyDrop<Self>, Self> {
        // SAFETY: By the type's invariant the context is loaded on this processor, and interrupts
        // are off.
        if unsafe { bindings::perf_park_guest() } {
            // INVARIANT: As of `visit()`.
            Ok(ManuallyDrop::new(self))
        } else {
            Err(self)
        }
    }

    /// Takes the PMU back, with the guest's state as [`GuestContext::park`] has left it there; `lvtpc`
    /// is that of [`GuestContext::load`], and without it LVTPC stays as it is. `None` if perf has
    /// taken the state out in the meantime.
    ///
    /// # Safety
    ///
    /// The last context that was loaded on this processor was parked, and is the vCPU's. Its virtual
    /// machine has a claim on the PMU as for [`GuestContext::load`].
    #[inline]
    pub(crate) unsafe fn unpark(irqs_off: IrqsOff<'a>, lvtpc: Option<u32>) -> Option<Self> {
        // SAFETY: Interrupts are off, and by the caller's promise perf has agreed to lend the PMU,
        // at which the guest is parked or was.
        let is_parked = unsafe { bindings::perf_unpark_guest(data_of(lvtpc)) };
        // INVARIANT: just loaded, and as interrupts stay off we remain on this processor.
        is_parked.then(|| Self(irqs_off))
    }

    /// Uses the PMU at which the guest is parked, in between. `None` if perf has taken its state out.
    ///
    /// # Safety
    ///
    /// As of [`GuestContext::unpark`].
    #[inline]
    pub(crate) unsafe fn visit(irqs_off: IrqsOff<'a>) -> Option<ManuallyDrop<Self>> {
        // SAFETY: Interrupts are off.
        let is_parked = unsafe { bindings::perf_guest_is_parked() };
        // INVARIANT: While interrupts are off perf can't take the state out: it is as if the context
        // was loaded. That it isn't put, the wrapper sees to.
        is_parked.then(|| ManuallyDrop::new(Self(irqs_off)))
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

/// What perf is told of the guest's LVTPC.
fn data_of(lvtpc: Option<u32>) -> c_ulong {
    // A guest's LVTPC may have any bits: user space sets it.
    let data = match lvtpc {
        Some(lvtpc) => lvtpc & !bindings::PERF_GUEST_NO_PMI,
        None => bindings::PERF_GUEST_NO_PMI,
    };
    data as c_ulong
}

/// What was in hardware of a guest that was parked, when perf took it out.
///
/// # Invariants
///
/// perf does not change it for `'a`.
pub(crate) struct Evicted<'a>(&'a bindings::perf_guest_state);

impl<'a> Evicted<'a> {
    /// Has perf take out what [`GuestContext::park`] has left, unless it has done so already.
    ///
    /// # Safety
    ///
    /// The last context that was loaded on this processor was parked.
    pub(crate) unsafe fn new(_irqs_off: IrqsOff<'a>) -> Self {
        // SAFETY: Interrupts are off, and the caller's promise.
        let state = unsafe { &*bindings::perf_evict_guest() };
        // INVARIANT: It is there until a guest is parked on this processor again, for which
        // interrupts would have to be on.
        Self(state)
    }

    /// An overflow of the guest's has raised its interrupt, which nobody may get to know of.
    pub(crate) fn has_pmi(&self) -> bool {
        self.0.pmi
    }

    /// The counter with this bit in the global registers.
    pub(crate) fn counter(&self, bit: usize) -> u64 {
        self.0.counters.get(bit).copied().unwrap_or(0)
    }

    /// The global status.
    pub(crate) fn status(&self) -> u64 {
        self.0.status
    }

    /// IA32_PERF_METRICS.
    pub(crate) fn metrics(&self) -> u64 {
        self.0.metrics
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
