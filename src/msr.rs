// SPDX-License-Identifier: GPL-2.0

//! Addresses of MSRs, and event selectors as far as all vendors have them alike.
//!
//! The registers and what only one vendor's selectors have is in the vendor's folder. Nothing here
//! reads or writes an MSR.

use core::ops::BitOr;

/// The address of a model-specific register, as RDMSR and WRMSR take it in ECX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Msr(u32);

impl Msr {
    /// The register at `address`.
    pub(crate) const fn new(address: u32) -> Self {
        Self(address)
    }

    /// The address.
    pub(crate) const fn address(self) -> u32 {
        self.0
    }

    /// The register `n` addresses further on.
    pub(crate) const fn nth(self, n: u32) -> Self {
        Self(self.0.wrapping_add(n))
    }

    /// How far this register is above `base`, if it is one of the `count` registers from there.
    pub(crate) const fn index_from(self, base: Self, count: usize) -> Option<usize> {
        let offset = self.0.wrapping_sub(base.0) as usize;
        if offset < count {
            Some(offset)
        } else {
            None
        }
    }
}

/// A value of an event selector: what a general-purpose counter counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EventSelector(u64);

impl EventSelector {
    /// Event select and unit mask: which event.
    pub(crate) const EVENT: u64 = 0xffff;
    /// USR: count at CPL 1, 2 and 3.
    pub(crate) const USR: u64 = 1 << 16;
    /// OS: count at CPL 0.
    pub(crate) const OS: u64 = 1 << 17;
    /// E: count rising edges of the condition instead of its duration.
    pub(crate) const EDGE: u64 = 1 << 18;
    /// INT: raise a performance-monitoring interrupt on overflow.
    pub(crate) const INT: u64 = 1 << 20;
    /// EN: count.
    pub(crate) const EN: u64 = 1 << 22;
    /// INV: invert the comparison with the counter mask.
    pub(crate) const INV: u64 = 1 << 23;
    /// CMASK: compare the number of events per cycle with this.
    pub(crate) const CMASK: u64 = 0xff << 24;
    /// The selector that counts nothing.
    pub(crate) const OFF: Self = Self(0);

    /// A selector with these bits.
    pub(crate) const fn new(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits.
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// Event select in bits 7:0 and unit mask in bits 15:8.
    pub(crate) const fn event(self) -> u16 {
        (self.0 & Self::EVENT) as u16
    }

    /// The counter mask.
    pub(crate) const fn counter_mask(self) -> u8 {
        (self.0 >> 24) as u8
    }

    /// Are all bits of `mask` set?
    pub(crate) const fn has(self, mask: u64) -> bool {
        self.0 & mask == mask
    }

    /// Does it count an event of the selected kind that happens alone, in a cycle of its own?
    ///
    /// An emulated instruction is one event in one cycle. With a counter mask, hardware counts
    /// cycles with at least that many events: one event satisfies a mask of 1 and none above it.
    /// Inverted, it counts cycles with fewer events; no guest cycle goes by while KVM emulates, so
    /// there is nothing to count. INV is ignored where the mask is 0. A lone event is also a rising
    /// edge, so E makes no difference.
    pub(crate) const fn counts_lone_event(self) -> bool {
        match self.counter_mask() {
            0 => true,
            1 => !self.has(Self::INV),
            _ => false,
        }
    }

    /// This selector without the bits outside of `mask`.
    pub(crate) const fn masked(self, mask: u64) -> Self {
        Self(self.0 & mask)
    }

    /// At which privilege levels it counts.
    pub(crate) const fn privileges(self) -> Privileges {
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

/// At which privilege levels a counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Privileges {
    /// CPL 1, 2 and 3.
    pub(crate) user: bool,
    /// CPL 0.
    pub(crate) kernel: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_from_base() {
        let base = Msr::new(0xc1);
        assert_eq!(Msr::new(0xc1).index_from(base, 8), Some(0));
        assert_eq!(Msr::new(0xc8).index_from(base, 8), Some(7));
        assert_eq!(Msr::new(0xc9).index_from(base, 8), None);
        assert_eq!(Msr::new(0xc0).index_from(base, 8), None);
        assert_eq!(Msr::new(0xc1).index_from(base, 0), None);
    }

    #[test]
    fn selector_fields() {
        let selector = EventSelector::new(0x0243_01c4);
        assert_eq!(selector.event(), 0x01c4);
        assert_eq!(selector.counter_mask(), 2);
        assert!(selector.has(EventSelector::EN | EventSelector::USR | EventSelector::OS));
        assert!(!selector.has(EventSelector::INT));
    }
}
