// SPDX-License-Identifier: GPL-2.0

//! MSR addresses of performance monitoring, and the registers behind them with their fields.
//!
//! Names are the manual's: Intel SDM Vol. 4 for addresses, Vol. 3B chapter "Performance
//! Monitoring" for the layouts. What only AMD's processors have is in [`crate::amd`]. Nothing here
//! reads or writes an MSR.

#![forbid(unsafe_code)]

use core::ops::BitOr;

/// The address of a model-specific register, as RDMSR and WRMSR take it in ECX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Msr(u32);

impl Msr {
    /// General-purpose counter 0.  Writes are 32 bits, sign-extended to the counter's width.
    pub const IA32_PMC0: Self = Self(0x0c1);
    /// Event selector of general-purpose counter 0.
    pub const IA32_PERFEVTSEL0: Self = Self(0x186);
    /// Fixed-function counter 0.
    pub const IA32_FIXED_CTR0: Self = Self(0x309);
    /// Where the slots of fixed-function counter 3 went, as fractions.
    pub const IA32_PERF_METRICS: Self = Self(0x329);
    /// Enables of the fixed-function counters.
    pub const IA32_FIXED_CTR_CTRL: Self = Self(0x38d);
    /// Overflows and other conditions, read only.
    pub const IA32_PERF_GLOBAL_STATUS: Self = Self(0x38e);
    /// Enables of all counters.
    pub const IA32_PERF_GLOBAL_CTRL: Self = Self(0x38f);
    /// Clears bits of the status; version 4 renamed it from IA32_PERF_GLOBAL_OVF_CTRL.
    pub const IA32_PERF_GLOBAL_STATUS_RESET: Self = Self(0x390);
    /// Sets bits of the status, version 4 and later.
    pub const IA32_PERF_GLOBAL_STATUS_SET: Self = Self(0x391);
    /// Which counters are in use, version 4 and later.
    pub const IA32_PERF_GLOBAL_INUSE: Self = Self(0x392);
    /// General-purpose counter 0 again; writes take the counter's full width.
    pub const IA32_A_PMC0: Self = Self(0x4c1);

    /// The register at `address`.
    pub const fn new(address: u32) -> Self {
        Self(address)
    }

    /// The address.
    pub const fn address(self) -> u32 {
        self.0
    }

    /// The register `n` addresses further on.
    pub const fn nth(self, n: u32) -> Self {
        Self(self.0.wrapping_add(n))
    }

    /// How far this register is above `base`, if it is one of the `count` registers from there.
    pub const fn index_from(self, base: Self, count: usize) -> Option<usize> {
        let offset = self.0.wrapping_sub(base.0) as usize;
        if offset < count {
            Some(offset)
        } else {
            None
        }
    }
}

/// A value of IA32_PERFEVTSELx: what a general-purpose counter counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventSelector(u64);

impl EventSelector {
    /// Event select and unit mask: which event.
    pub const EVENT: u64 = 0xffff;
    /// USR: count at CPL 1, 2 and 3.
    pub const USR: u64 = 1 << 16;
    /// OS: count at CPL 0.
    pub const OS: u64 = 1 << 17;
    /// E: count rising edges of the condition instead of its duration.
    pub const EDGE: u64 = 1 << 18;
    /// PC, pin control: defined up to version 3, without effect where pins are gone.
    pub const PIN_CONTROL: u64 = 1 << 19;
    /// INT: raise a performance-monitoring interrupt on overflow.
    pub const INT: u64 = 1 << 20;
    /// ANY: count for all threads of the core, versions 3 and 4.
    pub const ANY_THREAD: u64 = 1 << 21;
    /// EN: count.
    pub const EN: u64 = 1 << 22;
    /// INV: invert the comparison with the counter mask.
    pub const INV: u64 = 1 << 23;
    /// CMASK: compare the number of events per cycle with this.
    pub const CMASK: u64 = 0xff << 24;
    /// IN_TX: count only inside of transactions.
    pub const IN_TX: u64 = 1 << 32;
    /// IN_TXCP: do not count what an aborted transaction did; counter 2 only.
    pub const IN_TXCP: u64 = 1 << 33;

    /// The selector that counts nothing.
    pub const OFF: Self = Self(0);

    /// A selector with these bits.
    pub const fn new(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Event select in bits 7:0 and unit mask in bits 15:8.
    pub const fn event(self) -> u16 {
        (self.0 & Self::EVENT) as u16
    }

    /// The counter mask.
    pub const fn counter_mask(self) -> u8 {
        (self.0 >> 24) as u8
    }

    /// Are all bits of `mask` set?
    pub const fn has(self, mask: u64) -> bool {
        self.0 & mask == mask
    }

    /// Does it count an event of the selected kind that happens alone, in a cycle of its own?
    ///
    /// An emulated instruction is one event in one cycle. With a counter mask, hardware counts cycles
    /// with at least that many events: one event satisfies a mask of 1 and none above it. Inverted, it
    /// counts cycles with fewer events; no guest cycle goes by while KVM emulates, so there is nothing
    /// to count. INV is ignored where the mask is 0. A lone event is also a rising edge, so E makes no
    /// difference.
    pub const fn counts_lone_event(self) -> bool {
        match self.counter_mask() {
            0 => true,
            1 => !self.has(Self::INV),
            _ => false,
        }
    }

    /// This selector without the bits outside of `mask`.
    pub const fn masked(self, mask: u64) -> Self {
        Self(self.0 & mask)
    }

    /// At which privilege levels it counts.
    pub const fn privileges(self) -> Privileges {
        Privileges {
            user: self.has(Self::USR),
            kernel: self.has(Self::OS),
        }
    }
}

impl BitOr<u64> for EventSelector {
    type Output = Self;

    fn bitor(self, bits: u64) -> Self {
        Self(self.0 | bits)
    }
}

/// A value of IA32_FIXED_CTR_CTRL: four bits for each fixed counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FixedCtrCtrl(u64);

impl FixedCtrCtrl {
    /// Field bit: count at CPL 0.
    pub const OS: u64 = 1 << 0;
    /// Field bit: count at CPL 1, 2 and 3.
    pub const USR: u64 = 1 << 1;
    /// Field bit: count for all threads of the core, versions 3 and 4.
    pub const ANY_THREAD: u64 = 1 << 2;
    /// Field bit: raise a performance-monitoring interrupt on overflow.
    pub const PMI: u64 = 1 << 3;

    /// Bits of a field.
    const STRIDE: u32 = 4;
    /// All bits of field 0.
    const FIELD: u64 = 0xf;

    /// No fixed counter counts.
    pub const OFF: Self = Self(0);

    /// The register with these bits.
    pub const fn new(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// `bits` of a field, moved to the field of fixed counter `index`.
    pub const fn place(index: u8, bits: u64) -> u64 {
        (bits & Self::FIELD) << (index as u32 * Self::STRIDE)
    }

    /// The field of fixed counter `index`, in bits 3:0.
    pub const fn field(self, index: u8) -> u64 {
        (self.0 >> (index as u32 * Self::STRIDE)) & Self::FIELD
    }

    /// The register with the field of fixed counter `index` cleared.
    pub const fn without(self, index: u8) -> Self {
        Self(self.0 & !Self::place(index, Self::FIELD))
    }

    /// At which privilege levels fixed counter `index` counts.
    pub const fn privileges(self, index: u8) -> Privileges {
        let field = self.field(index);
        Privileges {
            user: field & Self::USR != 0,
            kernel: field & Self::OS != 0,
        }
    }
}

/// At which privilege levels a counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Privileges {
    /// CPL 1, 2 and 3.
    pub user: bool,
    /// CPL 0.
    pub kernel: bool,
}

/// Fields of IA32_PERF_GLOBAL_CTRL beside the counters' enables.
pub mod global_ctrl {
    /// EN_PERF_METRICS: IA32_PERF_METRICS follows fixed counter 3.
    pub const PERF_METRICS: u64 = 1 << 48;
}

/// Fields of IA32_PERF_GLOBAL_STATUS beside the counters' overflow bits.
pub mod global_status {
    /// OVF_PERF_METRICS: something that IA32_PERF_METRICS is made of overflowed, and raised a PMI.
    pub const OVF_PERF_METRICS: u64 = 1 << 48;
    /// OvfDSBuffer: the debug store's buffer reached its threshold.
    pub const OVF_DS_BUFFER: u64 = 1 << 62;
    /// CondChgd: the state of performance monitoring changed. The only bit that
    /// IA32_PERF_GLOBAL_STATUS_SET lacks: no software sets it.
    pub const COND_CHGD: u64 = 1 << 63;
}

/// Fields of IA32_PERF_CAPABILITIES.
pub mod perf_capabilities {
    /// FW_WRITE: IA32_A_PMCx exist.
    pub const FW_WRITE: u64 = 1 << 13;
    /// PERF_METRICS_AVAILABLE: IA32_PERF_METRICS exists, and RDPMC reads it.
    pub const PERF_METRICS: u64 = 1 << 15;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_from_base() {
        assert_eq!(Msr::new(0xc1).index_from(Msr::IA32_PMC0, 8), Some(0));
        assert_eq!(Msr::new(0xc8).index_from(Msr::IA32_PMC0, 8), Some(7));
        assert_eq!(Msr::new(0xc9).index_from(Msr::IA32_PMC0, 8), None);
        assert_eq!(Msr::new(0xc0).index_from(Msr::IA32_PMC0, 8), None);
        assert_eq!(Msr::new(0xc1).index_from(Msr::IA32_PMC0, 0), None);
    }

    #[test]
    fn selector_fields() {
        let selector = EventSelector::new(0x1_0243_01c4);
        assert_eq!(selector.event(), 0x01c4);
        assert_eq!(selector.counter_mask(), 2);
        assert!(selector.has(EventSelector::EN | EventSelector::USR | EventSelector::OS));
        assert!(selector.has(EventSelector::IN_TX) && !selector.has(EventSelector::INT));
    }

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
