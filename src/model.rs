// SPDX-License-Identifier: GPL-2.0

//! The model of a guest's PMU: which counters it has, and which bits of its registers exist.
//!
//! A [`Model`] is computed once, when user space has set the guest's CPUID and
//! IA32_PERF_CAPABILITIES, and does not change while the guest runs. What the registers hold is
//! in [`crate::guest`].

#![forbid(unsafe_code)]

use crate::{
    counter::{Counter, CounterSet, Kind, Width},
    intercepts::Passthrough,
};

/// One leaf of a guest's CPUID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidLeaf {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// How user space configured a vCPU.
pub trait GuestConfig {
    /// Leaf `leaf`, subleaf `index` of the guest's CPUID, if user space gave it one.
    fn cpuid(&self, leaf: u32, index: u32) -> Option<CpuidLeaf>;

    /// The guest's IA32_PERF_CAPABILITIES, 0 if it has no such register.
    fn perf_capabilities(&self) -> u64;
}

/// The width of a guest's counters, and of the hardware counters that they run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CounterWidth {
    /// Bits that the guest's counters have.
    mask: u64,
    /// Bits that only the hardware counters have.
    fill: u64,
}

impl CounterWidth {
    /// Counters that are `guest` bits wide for the guest, or as wide as hardware's if these are
    /// narrower.
    pub fn new(guest: Width, hardware: Width) -> Self {
        let guest = guest.min(hardware);
        Self {
            mask: guest.mask(),
            fill: hardware.mask() & !guest.mask(),
        }
    }

    /// All bits of the guest's counters.
    #[inline(always)]
    pub const fn mask(self) -> u64 {
        self.mask
    }

    /// The value that hardware must hold for the guest to have `value`, which is in [`Self::mask`].
    ///
    /// Where the guest's counter is the narrower one, the hardware bits above it are set, so that
    /// both overflow on the same event.
    #[inline(always)]
    pub const fn to_hardware(self, value: u64) -> u64 {
        value | self.fill
    }

    /// The value that the guest has when hardware holds `value`.
    #[inline(always)]
    pub const fn from_hardware(self, value: u64) -> u64 {
        value & self.mask
    }

    /// Are both widths the same, so that the guest may access the hardware counter?
    #[inline(always)]
    pub const fn is_native(self) -> bool {
        self.fill == 0
    }
}

/// What a guest's PMU consists of.
///
/// The default is no PMU: no counters, no valid bit in any register, everything intercepted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Model {
    /// Version of architectural performance monitoring, 0 for no PMU.
    pub version: u32,
    /// The counters that exist.
    pub counters: CounterSet,
    /// How many these are.
    pub number_of_counters: u32,
    /// Width of general-purpose counters.
    pub gp_width: CounterWidth,
    /// Width of fixed counters.
    pub fixed_width: CounterWidth,
    /// There are further addresses for the counters, whose writes have the full width: IA32_A_PMCx
    /// (PERF_CAPABILITIES.FW_WRITE), and AMD's PERF_CTRx and PERF_CTLx (PerfCtrExtCore).
    pub full_width_writes: bool,
    /// IA32_PERF_METRICS exists.
    pub metrics: bool,
    /// Writes of bits that do not exist, and of registers that are read-only, do nothing; else they
    /// fault.
    pub ignores_reserved: bool,
    /// Bits of an event selector that the guest can set.
    pub selector_valid: u64,
    /// Further bits that only the selector of counter 2 has.
    pub selector2_valid: u64,
    /// Bits of an event selector that reach hardware.
    pub selector_hardware: u64,
    /// Bits that an event selector always has when it reaches hardware.
    pub selector_forced: u64,
    /// Bits of IA32_FIXED_CTR_CTRL that the guest can set.
    pub fixed_ctrl_valid: u64,
    /// Bits of the global control register that the guest can set.
    pub global_ctrl_valid: u64,
    /// Bits of the global status register that exist.
    pub global_status_valid: u64,
    /// What the guest may access without an exit.
    pub passthrough: Passthrough,
}

impl Model {
    /// Has the guest a PMU?
    pub const fn exists(&self) -> bool {
        self.version > 0
    }

    /// Has it the global registers, and fixed counters?
    ///
    /// The manual has IA32_PERF_GLOBAL_CTRL from version 1 on, KVM from version 2 on.
    pub const fn has_global_registers(&self) -> bool {
        self.version > 1
    }

    /// General-purpose counter `index`, if this PMU has it.
    pub fn gp(&self, index: usize) -> Option<Counter> {
        Counter::gp(index).filter(|c| self.counters.contains(*c))
    }

    /// Fixed counter `index`, if this PMU has it.
    pub fn fixed(&self, index: usize) -> Option<Counter> {
        Counter::fixed(index).filter(|c| self.counters.contains(*c))
    }

    /// The width of `counter`.
    #[inline(always)]
    pub const fn width(&self, counter: Counter) -> CounterWidth {
        match counter.kind() {
            Kind::Gp(_) => self.gp_width,
            Kind::Fixed(_) => self.fixed_width,
        }
    }

    /// Are all counters as wide as the hardware counters that they run on?
    #[inline(always)]
    pub fn is_native(&self) -> bool {
        self.gp_width.is_native() && self.fixed_width.is_native()
    }

    /// Bits that the selector of `counter` can have.
    pub fn selector_valid(&self, counter: Counter) -> u64 {
        match counter.kind() {
            Kind::Gp(2) => self.selector_valid | self.selector2_valid,
            _ => self.selector_valid,
        }
    }

    /// The value of the global control register after RESET: general-purpose counters enabled, so
    /// that software for version 1 need not know of the register; fixed counters disabled.
    pub const fn global_ctrl_reset(&self) -> u64 {
        if self.has_global_registers() {
            self.counters.bits() & u32::MAX as u64
        } else {
            0
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
        assert_eq!(width.from_hardware(hardware + 1), 0xffff_ffff);
    }

    #[test]
    fn a_native_counter_is_the_hardware_counter() {
        let width = CounterWidth::new(Width::new(63), Width::new(48));
        assert!(width.is_native());
        for value in [0, 1, 0xdead, 0xffff_ffff_ffff] {
            assert_eq!(width.to_hardware(value), value);
            assert_eq!(width.from_hardware(value), value);
        }
    }
}
