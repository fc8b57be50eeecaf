// SPDX-License-Identifier: GPL-2.0

//! Proof that interrupts are off.

use super::bindings;
use core::marker::PhantomData;
use kernel::types::NotThreadSafe;

/// Interrupts are off on this processor, and stay off for `'a`.
///
/// Only NMIs can interrupt code that holds this.
///
/// # Invariants
///
/// Interrupts are off as long as a value exists.
#[derive(Clone, Copy)]
pub(crate) struct IrqsOff<'a>(PhantomData<(&'a (), NotThreadSafe)>);

impl IrqsOff<'_> {
    /// Assumes that interrupts are off. Kernels that look for such mistakes check it, and warn.
    ///
    /// # Safety
    ///
    /// Interrupts are off on this processor, and the caller chooses a lifetime in which nobody
    /// turns them on.
    #[inline]
    pub(crate) unsafe fn assume() -> Self {
        #[cfg(any(CONFIG_PROVE_LOCKING, CONFIG_DEBUG_ATOMIC_SLEEP))]
        // SAFETY: The function only looks at the state of this processor.
        unsafe {
            bindings::kmp_check_irqs_disabled()
        };
        // INVARIANT: The caller's promise.
        Self(PhantomData)
    }
}

/// Calls `call` with interrupts off.
pub(crate) fn with_irqs_off<R>(call: impl FnOnce(IrqsOff<'_>) -> R) -> R {
    // SAFETY: The function turns interrupts off, which can be done anywhere.
    let flags = unsafe { bindings::kmp_irq_save() };
    // INVARIANT: They are off until the call has returned, and the value's lifetime is no longer.
    let result = call(IrqsOff(PhantomData));
    // SAFETY: These are the flags of the call above, which nobody has restored yet.
    unsafe { bindings::kmp_irq_restore(flags) };
    result
}
