// SPDX-License-Identifier: GPL-2.0

//! MSR addresses of Intel's PMU, and the registers behind them with their fields.
//!
//! Names are the manual's: SDM Vol. 4 for addresses, Vol. 3B chapter "Performance Monitoring" for
//! the layouts.

use crate::msr::{EventSelector, Msr, Privileges};

/// Addresses.
impl Msr {
    /// General-purpose counter 0. Writes are 32 bits, sign-extended to the counter's width.
    pub(crate) const IA32_PMC0: Self = Self::new(0x0c1);
    /// Event selector of general-purpose counter 0.
    pub(crate) const IA32_PERFEVTSEL0: Self = Self::new(0x186);
    /// Fixed-function counter 0.
    pub(crate) const IA32_FIXED_CTR0: Self = Self::new(0x309);
    /// Where the slots of fixed-function counter 3 went, as fractions.
    pub(crate) const IA32_PERF_METRICS: Self = Self::new(0x329);
    /// Enables of the fixed-function counters.
    pub(crate) const IA32_FIXED_CTR_CTRL: Self = Self::new(0x38d);
    /// Overflows and other conditions, read only.
    pub(crate) const IA32_PERF_GLOBAL_STATUS: Self = Self::new(0x38e);
    /// Enables of all counters.
    pub(crate) const IA32_PERF_GLOBAL_CTRL: Self = Self::new(0x38f);
    /// Clears bits of the status; version 4 renamed it from IA32_PERF_GLOBAL_OVF_CTRL.
    pub(crate) const IA32_PERF_GLOBAL_STATUS_RESET: Self = Self::new(0x390);
    /// Sets bits of the status, version 4 and later.
    pub(crate) const IA32_PERF_GLOBAL_STATUS_SET: Self = Self::new(0x391);
    /// Which counters are in use, version 4 and later.
    pub(crate) const IA32_PERF_GLOBAL_INUSE: Self = Self::new(0x392);
    /// General-purpose counter 0 again; writes take the counter's full width.
    pub(crate) const IA32_A_PMC0: Self = Self::new(0x4c1);
}

/// Fields of IA32_PERFEVTSELx that others' event selectors do not have.
impl EventSelector {
    /// PC, pin control: defined up to version 3, without effect where pins are gone.
    pub(crate) const PIN_CONTROL: u64 = 1 << 19;
    /// ANY: count for all threads of the core, versions 3 and 4.
    pub(crate) const ANY_THREAD: u64 = 1 << 21;
    /// IN_TX: count only inside of transactions.
    pub(crate) const IN_TX: u64 = 1 << 32;
    /// IN_TXCP: do not count what an aborted transaction did; counter 2 only.
    pub(crate) const IN_TXCP: u64 = 1 << 33;
}

/// A value of IA32_FIXED_CTR_CTRL: four bits for each fixed counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FixedCtrCtrl(u64);

impl FixedCtrCtrl {
    /// Field bit: count at CPL 0.
    pub(crate) const OS: u64 = 1 << 0;
    /// Field bit: count at CPL 1, 2 and 3.
    pub(crate) const USR: u64 = 1 << 1;
    /// Field bit: raise a performance-monitoring interrupt on overflow.
    pub(crate) const PMI: u64 = 1 << 3;

    /// Bits of a field.
    const STRIDE: u32 = 4;
    /// All bits of field 0.
    const FIELD: u64 = 0xf;

    /// No fixed counter counts.
    pub(crate) const OFF: Self = Self(0);

    /// The register with these bits.
    pub(crate) const fn new(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits.
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// `bits` of a field, moved to the field of fixed counter `index`.
    pub(crate) const fn place(index: u8, bits: u64) -> u64 {
        (bits & Self::FIELD) << (index as u32 * Self::STRIDE)
    }

    /// The field of fixed counter `index`, in bits 3:0.
    pub(crate) const fn field(self, index: u8) -> u64 {
        (self.0 >> (index as u32 * Self::STRIDE)) & Self::FIELD
    }

    /// The register with the field of fixed counter `index` cleared.
    pub(crate) const fn without(self, index: u8) -> Self {
        Self(self.0 & !Self::place(index, Self::FIELD))
    }

    /// At which privilege levels fixed counter `index` counts.
    pub(crate) const fn privileges(self, index: u8) -> Privileges {
        let field = self.field(index);
        Privileges {
            user: field & Self::USR != 0,
            kernel: field & Self::OS != 0,
        }
    }
}

/// Fields of IA32_PERF_GLOBAL_CTRL beside the counters' enables.
pub(crate) mod global_ctrl {
    /// EN_PERF_METRICS: IA32_PERF_METRICS follows fixed counter 3.
    pub(crate) const PERF_METRICS: u64 = 1 << 48;
}

/// Fields of IA32_PERF_GLOBAL_STATUS beside the counters' overflow bits.
pub(crate) mod global_status {
    /// OVF_PERF_METRICS: something that IA32_PERF_METRICS is made of overflowed, and raised a PMI.
    pub(crate) const OVF_PERF_METRICS: u64 = 1 << 48;
    /// LBR_Frz and CTR_Frz: LBRs or counters are frozen, since version 4. No guest has them, but a
    /// counter does not count while they are set.
    pub(crate) const FROZEN: u64 = (1 << 58) | (1 << 59);
    /// OvfDSBuffer: the debug store's buffer reached its threshold.
    pub(crate) const OVF_DS_BUFFER: u64 = 1 << 62;
    /// CondChgd: the state of performance monitoring changed.
    pub(crate) const COND_CHGD: u64 = 1 << 63;
}

/// Fields of IA32_PERF_CAPABILITIES.
pub(crate) mod perf_capabilities {
    /// FW_WRITE: IA32_A_PMCx exist.
    pub(crate) const FW_WRITE: u64 = 1 << 13;
    /// PERF_METRICS_AVAILABLE: IA32_PERF_METRICS exists, and RDPMC reads it.
    pub(crate) const PERF_METRICS: u64 = 1 << 15;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_fields() {
        let ctrl = FixedCtrCtrl::new(0xb_2010);
        assert_eq!(ctrl.field(0), 0);
        assert_eq!(ctrl.field(1), 1);
        assert_eq!(ctrl.field(3), 2);
        assert_eq!(FixedCtrCtrl::place(3, FixedCtrCtrl::PMI), 0x8000);
        assert_eq!(ctrl.without(3), FixedCtrCtrl::new(0xb_0010));
        assert!(ctrl.privileges(3).user && !ctrl.privileges(3).kernel);
    }
}
