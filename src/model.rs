// SPDX-License-Identifier: GPL-2.0

//! The model of a guest's PMU: which counters it has, and which bits of its registers exist.
//!
//! A [`Model`] is computed once, when user space has set the guest's CPUID and
//! IA32_PERF_CAPABILITIES, and does not change while the guest runs. What the registers hold is
//! in [`crate::guest`].

use crate::{
    counter::{Counter, CounterSet, Kind, Width},
    intercepts::Passthrough,
};

/// One leaf of a guest's CPUID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuidLeaf {
    /// EAX.
    pub(crate) eax: u32,
    /// EBX.
    pub(crate) ebx: u32,
    /// ECX.
    pub(crate) ecx: u32,
    /// EDX.
    pub(crate) edx: u32,
}

/// Where a vCPU is.
///
/// L1 and L2, a guest and its guest, use one PMU, and its registers are the same for both. They are
/// told apart in two places:
///
/// - What L2 accesses without an exit is for L1 to say, too: KVM merges L1's intercepts with ours.
/// - A selector can name where it counts, in L1 or in L2
///   ([`Vendor::counts_in`](crate::vendor::Vendor::counts_in)). To hardware both are guests. So
///   what does not count where the vCPU is has to stay out of hardware.
///
/// Transitions between L1 and L2 are KVM's to emulate, with the counters saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mode {
    /// The guest has enabled SVM, by EFER.SVME.
    pub(crate) svme: bool,
    /// It is the guest's guest that runs, L2.
    pub(crate) l2: bool,
}

/// How user space configured a vCPU.
pub(crate) trait GuestConfig {
    /// Leaf `leaf`, subleaf 0 of the guest's CPUID; one that user space did not give it may be all 0.
    fn cpuid(&self, leaf: u32) -> Option<CpuidLeaf>;

    /// The guest's IA32_PERF_CAPABILITIES, 0 if it has no such register.
    fn perf_capabilities(&self) -> u64;
}

/// The width of a guest's counters, and of the hardware counters that they run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CounterWidth {
    /// Bits that the guest's counters have.
    mask: u64,
    /// Bits that only the hardware counters have.
    fill: u64,
}

impl CounterWidth {
    /// Counters that are `guest` bits wide for the guest, or as wide as hardware's if these are
    /// narrower.
    pub(crate) fn new(guest: Width, hardware: Width) -> Self {
        let guest = guest.min(hardware);
        Self {
            mask: guest.mask(),
            fill: hardware.mask() & !guest.mask(),
        }
    }

    /// All bits of the guest's counters.
    #[inline(always)]
    pub(crate) const fn mask(self) -> u64 {
        self.mask
    }

    /// The value that hardware must hold for the guest to have `value`, which is in [`Self::mask`].
    ///
    /// Where the guest's counter is the narrower one, the hardware bits above it are set, so that
    /// both overflow on the same event.
    #[inline(always)]
    pub(crate) const fn to_hardware(self, value: u64) -> u64 {
        value | self.fill
    }

    /// The value that the guest has when hardware holds `value`.
    #[inline(always)]
    pub(crate) const fn to_guest(self, value: u64) -> u64 {
        value & self.mask
    }

    /// Are both widths the same, so that the guest may access the hardware counter?
    #[inline(always)]
    pub(crate) const fn is_native(self) -> bool {
        self.fill == 0
    }
}

/// What a guest's PMU consists of.
///
/// The default is no PMU: no counters, no valid bit in any register, everything intercepted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Model {
    /// Version of architectural performance monitoring, 0 for no PMU.
    pub(crate) version: u32,
    /// The counters that exist.
    pub(crate) counters: CounterSet,
    /// How many these are.
    pub(crate) number_of_counters: u32,
    /// Width of general-purpose counters.
    pub(crate) gp_width: CounterWidth,
    /// Width of fixed counters.
    pub(crate) fixed_width: CounterWidth,
    /// The counters have further addresses, which take writes of the full width, if the vendor has
    /// such.
    pub(crate) full_width_writes: bool,
    /// Writes of bits that do not exist, and of registers that are read-only, do nothing; else they
    /// fault.
    pub(crate) ignores_reserved: bool,
    /// Bits of an event selector that the guest can set.
    pub(crate) selector_valid: u64,
    /// Further bits that only the selector of counter 2 has.
    pub(crate) selector2_valid: u64,
    /// Bits of an event selector that reach hardware.
    pub(crate) selector_hardware: u64,
    /// Bits that an event selector always has when it reaches hardware.
    pub(crate) selector_forced: u64,
    /// Bits of the global control register that the guest can set.
    pub(crate) global_ctrl_valid: u64,
    /// Bits of the global status register that exist.
    pub(crate) global_status_valid: u64,
    /// Bits of hardware's status that are the PMU's which perf lends, whether or not the guest has
    /// them. The others are somebody else's: they are neither cleared nor set.
    pub(crate) status_lent: u64,
    /// What the guest may access without an exit.
    pub(crate) passthrough: Passthrough,
}

impl Model {
    /// Has the guest a PMU?
    pub(crate) const fn exists(&self) -> bool {
        self.version > 0
    }

    /// Has it the global registers, and fixed counters?
    ///
    /// The manual has IA32_PERF_GLOBAL_CTRL from version 1 on, KVM from version 2 on.
    pub(crate) const fn has_global_registers(&self) -> bool {
        self.version > 1
    }

    /// General-purpose counter `index`, if this PMU has it.
    pub(crate) fn gp(&self, index: usize) -> Option<Counter> {
        Counter::gp(index).filter(|c| self.counters.contains(*c))
    }

    /// Fixed counter `index`, if this PMU has it.
    pub(crate) fn fixed(&self, index: usize) -> Option<Counter> {
        Counter::fixed(index).filter(|c| self.counters.contains(*c))
    }

    /// The width of `counter`.
    #[inline(always)]
    pub(crate) const fn width(&self, counter: Counter) -> CounterWidth {
        match counter.kind() {
            Kind::Gp(_) => self.gp_width,
            Kind::Fixed(_) => self.fixed_width,
        }
    }

    /// Are all counters as wide as the hardware counters that they run on?
    #[inline(always)]
    pub(crate) fn is_native(&self) -> bool {
        self.gp_width.is_native() && self.fixed_width.is_native()
    }

    /// Bits that the selector of `counter` can have.
    pub(crate) fn selector_valid(&self, counter: Counter) -> u64 {
        match counter.kind() {
            Kind::Gp(2) => self.selector_valid | self.selector2_valid,
            _ => self.selector_valid,
        }
    }

    /// The value of the global control register after RESET: general-purpose counters enabled, so
    /// that software for version 1 need not know of the register; fixed counters disabled. Where
    /// there is no such register no counter is.
    pub(crate) const fn global_ctrl_reset(&self) -> u64 {
        if self.has_global_registers() {
            self.counters.bits() & u32::MAX as u64
        } else {
            self.counters.bits()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_counter_overflows_where_the_guest_expects_it() {
        let width = CounterWidth::new(Width::new(32), Width::new(48));
        let hardware = width.to_hardware(0xffff_fffe);
        assert_eq!(hardware, 0xffff_ffff_fffe);
        assert_eq!((hardware + 2) & ((1 << 48) - 1), 0);
        assert_eq!(width.to_guest(hardware + 1), 0xffff_ffff);
    }

    #[test]
    fn a_native_counter_is_the_hardware_counter() {
        let width = CounterWidth::new(Width::new(63), Width::new(48));
        assert!(width.is_native());
        for value in [0, 1, 0xdead, 0xffff_ffff_ffff] {
            assert_eq!(width.to_hardware(value), value);
            assert_eq!(width.to_guest(value), value);
        }
    }
}
