// SPDX-License-Identifier: GPL-2.0

//! Module parameters.
//!
//! Linux 6.18's `module!` takes none, so they are defined in `rust/helpers.c`.

use super::bindings;

/// The parameter `rest_after`, see [`crate::rest`]. The administrator can write it at any time.
pub(crate) fn rest_after() -> u32 {
    // SAFETY: The function reads a variable, once.
    unsafe { bindings::kmp_parameter_rest_after() }
}

/// The parameter `enable_mediated_pmu`. It does not change after the module is loaded.
pub(crate) fn enable_mediated_pmu() -> bool {
    // SAFETY: The function reads a variable that nobody writes once module initialization began.
    unsafe { bindings::kmp_parameter_enabled() }
}
