// SPDX-License-Identifier: GPL-2.0

//! Instructions that KVM completes in the guest's stead.
//!
//! An instruction that exits does not retire in hardware. When KVM emulates it, the guest's
//! counters of instructions and branches must go on as if it had retired. Which counters these are
//! is found when a selector is written, not when an instruction is emulated, which is far more
//! frequent.

use crate::{
    counter::{Counter, CounterSet, MAX_COUNTERS},
    msr::Privileges,
};

/// What an emulated instruction is to a counter: a set of the properties below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Retired(u8);

impl Retired {
    /// An instruction. All that KVM emulates are, but what is a branch without an instruction: an
    /// exception that takes a guest from L2 to L1.
    pub(crate) const INSTRUCTION: Self = Self(1 << 0);
    /// A branch of any kind, far ones and interrupts included.
    pub(crate) const BRANCH: Self = Self(1 << 1);
    /// A branch that was taken. Those that are not conditional always are.
    pub(crate) const TAKEN: Self = Self(1 << 2);
    /// A near branch that is taken if a condition holds: Jcc, LOOP and their like.
    pub(crate) const CONDITIONAL: Self = Self(1 << 3);
    /// A near CALL.
    pub(crate) const NEAR_CALL: Self = Self(1 << 4);
    /// A near RET.
    pub(crate) const NEAR_RETURN: Self = Self(1 << 5);
    /// A near JMP or CALL that finds its target in a register or in memory; not a return.
    pub(crate) const INDIRECT: Self = Self(1 << 6);
    /// A far control transfer.
    pub(crate) const FAR: Self = Self(1 << 7);

    /// Nothing.
    pub(crate) const NONE: Self = Self(0);

    /// The set of the properties whose bits are set.
    pub(crate) const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// Is it all that `other` is?
    pub(crate) const fn is(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Are there properties that both have?
    pub(crate) const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// All that this and `other` are.
    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// An event that counts retired instructions of some kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// What an instruction has to be.
    is: Retired,
    /// What it must not be.
    is_not: Retired,
}

impl Event {
    /// The event of what is all of `is`.
    pub(crate) const fn of(is: Retired) -> Self {
        Self {
            is,
            is_not: Retired::NONE,
        }
    }

    /// The same without what is anything of `is_not`.
    pub(crate) const fn but_not(self, is_not: Retired) -> Self {
        Self { is_not, ..self }
    }

    /// Is it one of these if an instruction retires as `what`?
    pub(crate) const fn includes(self, what: Retired) -> bool {
        what.is(self.is) && !what.meets(self.is_not)
    }
}

/// What a guest's counters count of emulated instructions.
///
/// Counters that are disabled locally, filtered, or count elsewhere than where the vCPU is, count
/// nothing of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Emulated {
    /// The event of each counter, by [`Counter::slot`].
    events: [Option<Event>; MAX_COUNTERS],
    /// Counters that have one.
    counting: CounterSet,
    /// Of these the ones that count whatever is an instruction.
    instructions: CounterSet,
    /// Counters that count, whatever it is, at CPL 1, 2 and 3.
    user: CounterSet,
    /// Counters that count at CPL 0.
    kernel: CounterSet,
}

impl Emulated {
    /// Has `counter` count `event`, at these `privileges`.
    pub(crate) fn update(
        &mut self,
        counter: Counter,
        privileges: Privileges,
        event: Option<Event>,
    ) {
        let includes = |what| event.is_some_and(|event| event.includes(what));
        self.events[counter.slot()] = event;
        self.counting.set(counter, event.is_some());
        self.instructions
            .set(counter, includes(Retired::INSTRUCTION));
        self.user.set(counter, privileges.user);
        self.kernel.set(counter, privileges.kernel);
    }

    /// Counters that count whatever is an instruction.
    pub(crate) fn instructions(&self) -> CounterSet {
        self.instructions
    }

    /// Counters that count what retired as `what`.
    #[inline(always)]
    pub(crate) fn counters(&self, what: Retired) -> CounterSet {
        if what == Retired::INSTRUCTION {
            self.instructions
        } else {
            self.counters_of(what)
        }
    }

    /// The same of what is more than an instruction.
    fn counters_of(&self, what: Retired) -> CounterSet {
        let mut counters = CounterSet::EMPTY;
        for counter in self.counting.iter() {
            let event = self.events[counter.slot()];
            counters.set(counter, event.is_some_and(|event| event.includes(what)));
        }
        counters
    }

    /// Those of `counters` that count at the guest's privilege level. `in_user_mode` tells whether
    /// it is at CPL 1, 2 or 3, and is asked only if a counter depends on it: the answer takes a
    /// VMREAD.
    pub(crate) fn at_level(
        &self,
        counters: CounterSet,
        in_user_mode: impl FnOnce() -> bool,
    ) -> CounterSet {
        let (user, kernel) = (counters & self.user, counters & self.kernel);
        if user == kernel || in_user_mode() {
            user
        } else {
            kernel
        }
    }
}

/// Kinds of instructions, for tests: what a hypervisor that emulates them would report.
#[cfg(test)]
pub(crate) mod kinds {
    use super::Retired;

    const BRANCH: Retired = Retired::INSTRUCTION.and(Retired::BRANCH);
    const TAKEN: Retired = BRANCH.and(Retired::TAKEN);

    /// Each with a name.
    pub(crate) const ALL: [(&str, Retired); 9] = [
        ("NOP", Retired::INSTRUCTION),
        ("Jcc, not taken", BRANCH.and(Retired::CONDITIONAL)),
        ("Jcc, taken", TAKEN.and(Retired::CONDITIONAL)),
        ("JMP", TAKEN),
        ("JMP, indirect", TAKEN.and(Retired::INDIRECT)),
        ("CALL", TAKEN.and(Retired::NEAR_CALL)),
        (
            "CALL, indirect",
            TAKEN.and(Retired::NEAR_CALL).and(Retired::INDIRECT),
        ),
        ("RET", TAKEN.and(Retired::NEAR_RETURN)),
        ("IRET", TAKEN.and(Retired::FAR)),
    ];

    /// Those that `counts` says yes to.
    pub(crate) fn counted(counts: impl Fn(Retired) -> bool) -> Vec<&'static str> {
        let kinds = ALL.iter().filter(|(_, what)| counts(*what));
        kinds.map(|(name, _)| *name).collect()
    }
}
