// SPDX-License-Identifier: GPL-2.0

//! Proof that interrupts are off.

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
            super::bindings::kmp_check_irqs_disabled()
        };
        // INVARIANT: The caller's promise.
        Self(PhantomData)
    }
}
