// SPDX-License-Identifier: GPL-2.0

//! What a guest may access without an exit. The registers are in the vendors' folders.

use crate::counter::CounterSet;

/// Which accesses of a register do not exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    /// RDMSR.
    pub(crate) reads: bool,
    /// WRMSR.
    pub(crate) writes: bool,
}

impl Access {
    /// Every access exits.
    pub(crate) const NONE: Self = Self::all_if(false);

    /// No access exits if `free`, else every one.
    pub(crate) const fn all_if(free: bool) -> Self {
        Self {
            reads: free,
            writes: free,
        }
    }

    /// This, but writes exit.
    pub(crate) const fn without_writes(self) -> Self {
        Self {
            writes: false,
            ..self
        }
    }
}

/// What of its PMU a guest may access without an exit. The default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passthrough {
    /// RDPMC does not exit.
    pub(crate) rdpmc: bool,
    /// The global control does not exit.
    pub(crate) global_ctrl: bool,
    /// Nor do the global status, and the register that clears bits of it.
    pub(crate) global_status: bool,
    /// These counters do not exit when they are accessed as MSRs.
    pub(crate) counters: CounterSet,
    /// Nor do their further addresses, see [`crate::model::Model::full_width_writes`].
    pub(crate) full_width: bool,
}
