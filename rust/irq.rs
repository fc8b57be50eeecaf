// SPDX-License-Identifier: GPL-2.0

//! Proof that interrupts are off.

use core::marker::PhantomData;
use kernel::types::NotThreadSafe;

/// Interrupts are off on this processor, and stay off for `'a`.
///
/// So nothing preempts or moves the code that has this, but NMIs.
///
/// # Invariants
///
/// Interrupts are off as long as a value exists.
#[derive(Clone, Copy)]
pub struct IrqsOff<'a>(PhantomData<(&'a (), NotThreadSafe)>);

impl IrqsOff<'_> {
    /// Asserts that interrupts are off; lockdep checks it where it is configured.
    ///
    /// # Safety
    ///
    /// Interrupts are off on this processor, and the caller chooses a lifetime in which nobody turns
    /// them on.
    #[inline]
    pub unsafe fn assert() -> Self {
        #[cfg(CONFIG_PROVE_LOCKING)]
        // SAFETY: The function only looks at the state of this processor.
        unsafe {
            super::bindings::kmp_assert_irqs_disabled()
        };
        // INVARIANT: The caller's promise.
        Self(PhantomData)
    }
}
