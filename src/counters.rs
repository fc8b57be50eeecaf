// SPDX-License-Identifier: GPL-2.0

//! The counters of a guest, and the global registers over them: the part of its PMU that every
//! vendor has. What changes hands with them is in [`crate::unit`].
//!
//! Between load and put ([`crate::switch`]), and as long as the guest is parked ([`crate::park`]),
//! the counters, the global control and the status live in hardware, and what is here of them is
//! out of date.

use crate::{
    counter::{Counter, CounterSet, MAX_COUNTERS, MAX_GP},
    filter::{hardware_selector, EventFilter},
    intercepts::Passthrough,
    model::{Mode, Model},
    msr::EventSelector,
    register::{check, GeneralProtection, Initiator, WriteWidth},
    retired::{Emulated, Event},
};

/// What an instruction at CPL 0 counts on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counting {
    /// The counters that count it.
    pub(crate) counters: CounterSet,
    /// Those whose overflow raises a PMI.
    pub(crate) interrupting: CounterSet,
}

/// The counters of one vCPU.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// What the guest's PMU consists of.
    pub(crate) model: Model,
    /// Values by [`Counter::slot`], no wider than the guest's counters.
    pub(crate) values: [u64; MAX_COUNTERS],
    /// Selectors as the guest wrote them.
    selectors: [EventSelector; MAX_GP],
    /// Selectors as hardware gets them.
    hw_selectors: [EventSelector; MAX_GP],
    /// Counters that are switched on, each by itself, by what the guest wrote and the filter left:
    /// those that are active, and those that are where the vCPU is not.
    pub(crate) switched_on: CounterSet,
    /// Counters that hardware enables, as far as that is said of each by itself: these and no
    /// others may count.
    pub(crate) active: CounterSet,
    /// Counters that were active at load and are not any more ([`crate::in_place`]).
    pub(crate) stopped: CounterSet,
    /// Where the vCPU is.
    pub(crate) mode: Mode,
    /// The global control register; every counter, and for good, where there is none.
    pub(crate) global_ctrl: u64,
    /// The global status register.
    pub(crate) global_status: u64,
    /// Counters whose overflow raises a PMI.
    pub(crate) interrupting: CounterSet,
    /// What the counters count of what KVM emulates.
    pub(crate) emulated: Emulated,
    /// Counters with values that hardware has not got.
    pub(crate) changed: CounterSet,
    /// The number of our last claim on hardware's counters, see [`crate::switch::Hw::claim_counters`].
    pub(crate) claim: u64,
    /// The guest's LVTPC was masked at load: overflows raise no PMI.
    pub(crate) lvtpc_masked: bool,
    /// Hardware's status has no bits of the lent PMU's but what `load` sets, and `put` clears,
    /// unless somebody else claims the counters.
    pub(crate) status_known: bool,
    /// Bits of hardware's status that were somebody else's when it was read last.
    pub(crate) foreign_status: u64,
    /// Bits of hardware's status that are somebody else's and may be set while the guest runs.
    pub(crate) host_status: u64,
    /// The host has no use for the PMU that the vCPU was given last, and the guest's counters are
    /// as wide as hardware's.
    pub(crate) may_park: bool,
    /// The guest's accesses of the status exit although its model has them free, for hardware's
    /// status is not the guest's.
    pub(crate) status_hidden: bool,
}

impl Counters {
    /// The counters of `model` in their RESET state, of a vCPU that is in `mode`.
    pub(crate) fn new(model: Model, mode: Mode) -> Self {
        Self {
            global_ctrl: model.global_ctrl_reset(),
            model,
            mode,
            ..Self::default()
        }
    }

    /// Can no counter count, whatever the global control is?
    #[inline(always)]
    pub(crate) fn is_idle(&self) -> bool {
        self.active.is_empty()
    }

    /// Can a counter count, in L1 or in L2, until the guest writes a register?
    #[inline(always)]
    pub(crate) fn can_count(&self) -> bool {
        self.switched_on.bits() & self.global_ctrl != 0
    }

    /// The selector that the guest wrote for general-purpose `counter`.
    #[inline(always)]
    pub(crate) fn selector(&self, counter: Counter) -> EventSelector {
        self.selectors[counter.slot() & (MAX_GP - 1)]
    }

    /// The selector that hardware gets for general-purpose `counter`, off if it is filtered.
    #[inline(always)]
    pub(crate) fn hw_selector(&self, counter: Counter) -> EventSelector {
        self.hw_selectors[counter.slot() & (MAX_GP - 1)]
    }

    /// Does it matter what hardware has in the global registers while the guest runs?
    #[inline(always)]
    pub(crate) fn needs_global_registers(&self) -> bool {
        self.model.passthrough.global_ctrl || !self.is_idle()
    }

    /// Counters that the global control enables.
    pub(crate) fn globally_enabled(&self) -> CounterSet {
        CounterSet::from_bits(self.global_ctrl)
    }

    /// The global control that hardware gets.
    #[inline(always)]
    pub(crate) fn hw_global_ctrl(&self) -> u64 {
        if self.needs_global_registers() {
            self.global_ctrl
        } else {
            0
        }
    }

    /// Could the guest read another status in hardware than its own, which is loaded?
    #[inline(always)]
    pub(crate) fn status_differs(&self) -> bool {
        let not_loaded = self.global_status & !self.model.status_lent;
        (self.foreign_status | self.host_status | not_loaded) != 0
    }

    /// Has memory hold the status as hardware has it, of the lent PMU's bits `found`; what hardware
    /// has not got stays as it was.
    #[inline(always)]
    pub(crate) fn save_status(&mut self, found: u64) {
        let not_loaded = self.global_status & !self.model.status_lent;
        self.global_status = (found & self.model.global_status_valid) | not_loaded;
    }

    /// What the guest may access without an exit.
    pub(crate) fn passthrough(&self) -> Passthrough {
        let free = self.model.passthrough;
        Passthrough {
            global_status: free.global_status && !self.status_hidden,
            ..free
        }
    }

    /// What an instruction counts on that executes now; `in_user_mode` is that of
    /// [`Emulated::at_level`].
    #[inline(always)]
    pub(crate) fn counting_instructions(&self, in_user_mode: impl FnOnce() -> bool) -> Counting {
        let counters = self.emulated.instructions() & self.globally_enabled();
        Counting {
            counters: self.emulated.at_level(counters, in_user_mode),
            interrupting: self.interrupting,
        }
    }

    /// Has one that is switched on another value than in `values`, which are those of an earlier
    /// time?
    pub(crate) fn have_counted_since(&self, values: &[u64; MAX_COUNTERS]) -> bool {
        let mut switched_on = self.switched_on.iter();
        switched_on.any(|counter| self.value(counter) != values[counter.slot()])
    }

    /// The value of `counter`.
    pub(crate) fn value(&self, counter: Counter) -> u64 {
        self.values[counter.slot()]
    }

    /// Changes the value of `counter`, which hardware gets at the next load.
    pub(crate) fn set_value(&mut self, counter: Counter, value: u64) {
        self.values[counter.slot()] = value;
        self.changed |= counter.bit();
    }

    /// Adds one to each of `counters`. Returns those that it made overflow.
    pub(crate) fn increment(&mut self, counters: CounterSet) -> CounterSet {
        let (values, model) = (&mut self.values, &self.model);
        let mut overflowed = CounterSet::EMPTY;
        counters.unrolled(CounterSet::ALL, |counter| {
            let value = &mut values[counter.slot()];
            *value = value.wrapping_add(1) & model.width(counter).mask();
            if *value == 0 {
                overflowed |= counter.bit();
            }
        });
        self.changed |= counters;
        if model.has_global_registers() {
            self.global_status |= overflowed.bits();
        }
        overflowed
    }

    /// Writes `data` to `counter`, as `width` has it.
    pub(crate) fn write_counter(
        &mut self,
        counter: Counter,
        width: WriteWidth,
        data: u64,
        by: Initiator,
    ) -> Result<(), GeneralProtection> {
        let mask = self.model.width(counter).mask();
        let by_guest = by == Initiator::Guest;
        let value = match width {
            WriteWidth::SignExtended if by_guest => i64::from(data as i32) as u64,
            WriteWidth::SignExtended | WriteWidth::Truncated => data,
            WriteWidth::FullByGuest if !by_guest => data,
            WriteWidth::Full | WriteWidth::FullByGuest => {
                check(data, mask)?;
                data
            }
        };
        self.set_value(counter, value & mask);
        Ok(())
    }

    /// The guest wrote `selector` for general-purpose `counter`.
    pub(crate) fn write_selector(&mut self, counter: Counter, selector: EventSelector) {
        self.selectors[counter.slot() & (MAX_GP - 1)] = selector;
    }

    /// Derives what hardware gets for general-purpose `counter` from what the guest wrote.
    pub(crate) fn filter_selector(&mut self, counter: Counter, filter: &impl EventFilter) {
        let hardware = hardware_selector(&self.model, self.selector(counter), filter);
        self.hw_selectors[counter.slot() & (MAX_GP - 1)] = hardware;
        self.switched_on
            .set(counter, hardware != EventSelector::OFF);
        self.interrupting
            .set(counter, hardware.has(EventSelector::INT));
    }

    /// Has general-purpose `counter` count by `selector`, which is `event` of what is emulated.
    pub(crate) fn activate(
        &mut self,
        counter: Counter,
        selector: EventSelector,
        event: Option<Event>,
    ) {
        self.active.set(counter, selector != EventSelector::OFF);
        self.emulated.update(counter, selector.privileges(), event);
    }
}
