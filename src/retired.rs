// SPDX-License-Identifier: GPL-2.0

//! Instructions that KVM completes in the guest's stead.
//!
//! An instruction that exits does not retire in hardware. When KVM emulates it, the guest's counters
//! of instructions and branches must go on as if it had retired.

#![forbid(unsafe_code)]

use crate::{
    counter::{Counter, CounterSet, Kind},
    guest::GuestPmu,
    msr::{EventSelector, FixedCtrCtrl, Privileges},
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
    /// Counters that count the guest's entry, where that counts: these and more.
    pub entries: CounterSet,
    /// Counters that count, whatever it is, at CPL 1, 2 and 3.
    user: CounterSet,
    /// Counters that count at CPL 0.
    kernel: CounterSet,
}

impl Emulated {
    /// General-purpose `counter` got the hardware selector `selector`.
    pub fn update_gp<V: Vendor>(&mut self, counter: Counter, selector: EventSelector) {
        let enabled = selector.has(EventSelector::EN);
        let counts = |what| enabled && V::selects(selector, what);
        self.update(counter, selector.privileges(), counts);
        if V::ENTRY_RETIRES {
            let counts_entry = enabled && V::counts_entry(selector);
            self.entries.set(counter, counts_entry);
        }
    }

    /// Fixed `counter` got its field of `ctrl`.
    pub fn update_fixed<V: Vendor>(&mut self, counter: Counter, ctrl: FixedCtrCtrl) {
        let Kind::Fixed(index) = counter.kind() else {
            return;
        };
        let enabled = ctrl.field(index) != 0;
        let counts = |what| enabled && V::fixed_counts(index, what);
        self.update(counter, ctrl.privileges(index), counts);
    }

    fn update(
        &mut self,
        counter: Counter,
        privileges: Privileges,
        counts: impl Fn(Retired) -> bool,
    ) {
        self.instructions.set(counter, counts(Retired::Instruction));
        self.branches.set(counter, counts(Retired::Branch));
        self.user.set(counter, privileges.user);
        self.kernel.set(counter, privileges.kernel);
    }

    /// Counters of `what`.
    fn of(&self, what: Retired) -> CounterSet {
        match what {
            Retired::Instruction => self.instructions,
            Retired::Branch => self.branches,
        }
    }

    /// Those of `counters` that count in the guest's mode.
    fn in_mode(&self, counters: CounterSet, in_user_mode: impl FnOnce() -> bool) -> CounterSet {
        let (user, kernel) = (counters & self.user, counters & self.kernel);
        if user == kernel || in_user_mode() {
            user
        } else {
            kernel
        }
    }
}

impl GuestPmu {
    /// KVM completed an instruction: counts it as `what`.
    ///
    /// `in_user_mode` tells whether the guest is at CPL 1, 2 or 3; it is asked only if a counter
    /// depends on it, as the answer takes a VMREAD.
    pub fn retire(&mut self, what: Retired, in_user_mode: impl FnOnce() -> bool) -> Pmi {
        let counters = self.emulated.of(what) & self.globally_enabled();
        if counters.is_empty() {
            return Pmi::None;
        }
        let overflowed = self.increment(self.emulated.in_mode(counters, in_user_mode));
        Pmi::owed_if(!(overflowed & self.interrupting).is_empty())
    }

    /// Adds one to each of `counters`. Returns those that it made overflow.
    fn increment(&mut self, counters: CounterSet) -> CounterSet {
        let (values, model) = (&mut self.counters, &self.model);
        let mut overflowed = CounterSet::EMPTY;
        counters.unrolled(CounterSet::ALL, |counter| {
            let value = &mut values[counter.slot()];
            *value = value.wrapping_add(1) & model.width(counter).mask();
            if *value == 0 {
                overflowed |= counter.bit();
            }
        });
        self.changed |= counters.bits();
        if model.has_global_registers() {
            self.global_status |= overflowed.bits();
        }
        overflowed
    }

    /// Counters that count the guest's entry, at the guest's privilege level.
    pub(crate) fn counting_entry(&self, in_user_mode: impl FnOnce() -> bool) -> CounterSet {
        let counting = self.emulated.entries & self.globally_enabled();
        self.emulated.in_mode(counting, in_user_mode)
    }
}
