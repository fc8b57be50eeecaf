// SPDX-License-Identifier: GPL-2.0

//! Instructions that KVM completes in the guest's stead.
//!
//! An instruction that exits does not retire in hardware. When KVM emulates it, the guest's counters
//! of instructions and branches must go on as if it had retired.

#![forbid(unsafe_code)]

use crate::{
    counter::{Counter, CounterSet, Kind},
    guest::GuestPmu,
    msr::{EventSelector, Privileges},
    pmi::Pmi,
    vendor::Vendor,
};

/// What an emulated instruction counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retired {
    /// An instruction. KVM reports every emulated instruction as this.
    Instruction,
    /// A branch. KVM reports it beside the instruction.
    Branch,
}

/// Counters that count emulated instructions.
///
/// They are found when a selector is written, not when an instruction is emulated, which is far more
/// frequent. Counters that are disabled locally or filtered are not among them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Emulated {
    /// Counters of instructions retired.
    pub instructions: CounterSet,
    /// Counters of branch instructions retired.
    pub branches: CounterSet,
}

impl Emulated {
    /// General-purpose `counter` got the hardware selector `selector`.
    pub fn update_gp<V: Vendor>(&mut self, counter: Counter, selector: EventSelector) {
        let counts = |what| selector.has(EventSelector::EN) && V::selects(selector, what);
        self.instructions.set(counter, counts(Retired::Instruction));
        self.branches.set(counter, counts(Retired::Branch));
    }

    /// Fixed `counter` was enabled or disabled.
    pub fn update_fixed<V: Vendor>(&mut self, counter: Counter, enabled: bool) {
        let Kind::Fixed(index) = counter.kind() else {
            return;
        };
        let counts = |what| enabled && V::fixed_counts(index, what);
        self.instructions.set(counter, counts(Retired::Instruction));
        self.branches.set(counter, counts(Retired::Branch));
    }

    /// Counters of `what`.
    fn of(&self, what: Retired) -> CounterSet {
        match what {
            Retired::Instruction => self.instructions,
            Retired::Branch => self.branches,
        }
    }
}

impl GuestPmu {
    /// KVM completed an instruction: counts it as `what`.
    ///
    /// `in_user_mode` tells whether the guest is at CPL 1, 2 or 3; it is asked only if a counter
    /// depends on it, as the answer takes a VMREAD.
    pub fn retire(&mut self, what: Retired, in_user_mode: impl Fn() -> bool) -> Pmi {
        let counters = self.emulated.of(what) & self.globally_enabled();
        let mut owed = false;
        for counter in counters.iter() {
            if matches_mode(self.privileges(counter), &in_user_mode) {
                owed |= self.increment(counter);
            }
        }
        Pmi::owed_if(owed)
    }

    /// Counters that an instruction which is a branch, too, would count in at the guest's privilege
    /// level: hardware's do so as the guest is entered, where that counts.
    pub(crate) fn counting_entry(&self, in_user_mode: impl Fn() -> bool) -> CounterSet {
        let either = self.emulated.instructions | self.emulated.branches;
        let mut counting = either & self.globally_enabled();
        for counter in counting.iter() {
            let counts = matches_mode(self.privileges(counter), &in_user_mode);
            counting.set(counter, counts);
        }
        counting
    }

    /// At which privilege levels hardware would count with `counter`.
    fn privileges(&self, counter: Counter) -> Privileges {
        match counter.kind() {
            Kind::Gp(_) => self.hw_selector(counter).privileges(),
            Kind::Fixed(index) => self.hw_fixed_ctrl().privileges(index),
        }
    }

    /// Adds one to `counter`; true if that overflowed it and it interrupts.
    fn increment(&mut self, counter: Counter) -> bool {
        let mask = self.model.width(counter).mask();
        let value = self.counter(counter).wrapping_add(1) & mask;
        self.set_counter(counter, value);
        if value != 0 {
            return false;
        }
        if self.model.has_global_registers() {
            self.global_status |= counter.bit().bits();
        }
        self.interrupting.contains(counter)
    }
}

/// Does a counter with these `privileges` count in the guest's mode?
fn matches_mode(privileges: Privileges, in_user_mode: impl Fn() -> bool) -> bool {
    if privileges.user == privileges.kernel {
        return privileges.user;
    }
    privileges.user == in_user_mode()
}
