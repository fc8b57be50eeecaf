// SPDX-License-Identifier: GPL-2.0

//! A guest's PMU: what its registers hold, and what reads and writes of them do.
//!
//! One [`GuestPmu`] belongs to each vCPU. It holds the guest's values while hardware does not.
//! Between load and put ([`crate::switch`]), and as long as the guest is parked ([`crate::park`]),
//! the counters, the global control and the status live in hardware. What is here of them then is
//! what they were, and changes are made there, too ([`crate::in_place`]).
//!
//! The rules for writes are those of KVM's ABI on Linux 6.18: what the guest does follows the
//! manual, and user space (KVM_SET_MSRS) may also write what is read-only for the guest, so that a
//! saved PMU can be restored.

use crate::{
    caps::HostPmu,
    counter::{Counter, CounterSet},
    counters::{Counters, Counting},
    filter::EventFilter,
    intercepts::{Access, Passthrough},
    model::{GuestConfig, Mode, Model},
    msr::{EventSelector, Msr},
    register::{check, GeneralProtection, Initiator, Register},
    rest::Rest,
    retired::Retired,
    unit::{Selects, Unit},
    vendor::Vendor,
};

/// The PMU of one vCPU, by the rules of vendor `V`.
pub(crate) struct GuestPmu<V: Vendor> {
    /// The counters.
    pub(crate) counters: Counters,
    /// What there is beside them.
    pub(crate) units: V::Units,
    /// Whether all this is at rest.
    pub(crate) rest: Rest,
    /// What the guest's WRMSR counts on that has changed the PMU and is to be completed next.
    ///
    /// A write takes effect when WRMSR has retired. So one that switches a counter on is not counted
    /// by it, and one that switches it off is.
    pub(crate) wrmsr: Option<Counting>,
    /// What the entry to come is to count on, where an instruction that KVM has completed while the
    /// state was in hardware is one sum with it ([`Vendor::ENTRIES_COUNT`]). The global control is
    /// left out.
    pub(crate) left_to_entry: Option<Counting>,
}

/// No PMU.
impl<V: Vendor> Default for GuestPmu<V> {
    fn default() -> Self {
        Self {
            counters: Counters::default(),
            units: V::Units::default(),
            rest: Rest::default(),
            wrmsr: None,
            left_to_entry: None,
        }
    }
}

impl<V: Vendor> GuestPmu<V> {
    /// Gives the guest the PMU that user space configured, in its RESET state.
    pub(crate) fn refresh(&mut self, host: &HostPmu, config: &impl GuestConfig) {
        let mode = self.counters.mode;
        let mut model = V::model(host, config);
        self.units = if model.exists() {
            V::Units::new(host, config, &mut model)
        } else {
            V::Units::default()
        };
        self.counters = Counters::new(model, mode);
        self.rest = self.rest.anew();
    }

    /// What this PMU consists of.
    pub(crate) fn model(&self) -> &Model {
        &self.counters.model
    }

    /// Can anything count, in L1 or in L2, until the guest writes a register?
    #[inline(always)]
    pub(crate) fn can_count(&self) -> bool {
        self.counters.can_count() || self.units.can_count(&self.counters)
    }

    /// Could an overflow in hardware raise an interrupt, as the guest has programmed it now?
    ///
    /// The guest's LVTPC is left out: what it masks, hardware can mask only if it knows.
    pub(crate) fn can_interrupt(&self) -> bool {
        self.interrupting() != 0
    }

    /// Bits of the global status that could be set with an interrupt.
    #[inline(always)]
    pub(crate) fn interrupting(&self) -> u64 {
        self.counters.interrupting.bits() | self.units.interrupting(&self.counters)
    }

    /// What the guest may access without an exit.
    pub(crate) fn passthrough(&self) -> Passthrough {
        if self.rest.is() {
            Passthrough::default()
        } else {
            self.counters.passthrough()
        }
    }

    /// Every register of the PMU, each with what the guest may do with it without an exit.
    pub(crate) fn intercepts(&self) -> impl Iterator<Item = (Msr, Access)> + '_ {
        let of_units = self.units.intercepts().map(|(msr, free)| {
            let free = if self.rest.is() { Access::NONE } else { free };
            (msr, free)
        });
        V::intercepts(self.passthrough()).chain(of_units)
    }

    /// The register at address `msr`, `None` if there is none.
    pub(crate) fn register(&self, msr: Msr) -> Option<Register> {
        let of_unit = || self.units.has(msr).then_some(Register::Unit(msr));
        V::register(self.model(), msr).or_else(of_unit)
    }

    /// Is `msr` the PMU's, whether or not accesses of it fault?
    pub(crate) fn is_valid(&self, msr: Msr) -> bool {
        self.register(msr).is_some() || V::claims(self.model(), msr)
    }

    /// Reads `register`, with the side effects that reading has: none.
    pub(crate) fn read(&self, register: Register) -> u64 {
        let counters = &self.counters;
        match register {
            Register::Selector(counter) => counters.selector(counter).bits(),
            Register::Counter(counter, _) => counters.value(counter),
            Register::GlobalCtrl => counters.global_ctrl,
            Register::GlobalStatus => counters.global_status,
            // They have no state; user space saves and restores them as 0.
            Register::GlobalStatusReset | Register::GlobalStatusSet => 0,
            Register::Unit(msr) => self.units.read(msr),
        }
    }

    /// Writes `data` to `register`, which wakes the PMU up if something can count by it.
    ///
    /// # Errors
    ///
    /// [`GeneralProtection`] if a reserved bit is set or the register is read-only; then nothing
    /// has changed.
    pub(crate) fn write(
        &mut self,
        register: Register,
        data: u64,
        by: Initiator,
        filter: &impl EventFilter,
    ) -> Result<(), GeneralProtection> {
        let by_guest = by == Initiator::Guest;
        let wrmsr = by_guest.then(|| self.counters.counting_instructions(|| false));
        match register {
            Register::Selector(counter) => {
                let bits = self.accept(data, self.model().selector_valid(counter))?;
                let selector = EventSelector::new(bits);
                self.counters.write_selector(counter, selector);
                self.filter_selector(counter, filter);
            }
            Register::Counter(counter, width) => {
                self.counters.write_counter(counter, width, data, by)?;
            }
            Register::GlobalCtrl => {
                self.counters.global_ctrl = self.accept(data, self.model().global_ctrl_valid)?;
            }
            Register::GlobalStatus => self.write_status(data, by)?,
            // What user space restores of the next two it has read there, 0: it must not lose the
            // status by it.
            Register::GlobalStatusReset => {
                let bits = self.accept(data, self.model().global_status_valid)?;
                if by == Initiator::Guest {
                    self.counters.global_status &= !bits;
                }
            }
            Register::GlobalStatusSet => {
                let bits = self.accept(data, self.model().global_status_valid)?;
                if by == Initiator::Guest {
                    self.counters.global_status |= bits;
                }
            }
            Register::Unit(msr) => self.units.write(&mut self.counters, msr, data, filter)?,
        }
        self.wrmsr = wrmsr;
        self.rest.written(self.can_count());
        Ok(())
    }

    /// What RDPMC reads with this ECX, `None` if it faults.
    pub(crate) fn rdpmc(&self, ecx: u32) -> Option<u64> {
        match V::rdpmc(self.model(), ecx) {
            Some(counter) => Some(self.counters.value(counter)),
            None => self.units.rdpmc(ecx),
        }
    }

    /// The value of `counter`.
    #[cfg(test)]
    pub(crate) fn counter(&self, counter: Counter) -> u64 {
        self.counters.value(counter)
    }

    /// Applies the VM's event filter anew to all that the guest has programmed.
    pub(crate) fn refilter(&mut self, filter: &impl EventFilter) {
        for counter in self.gp_counters().iter() {
            self.filter_selector(counter, filter);
        }
        self.units.refilter(&mut self.counters, filter);
        self.rest.written(self.can_count());
    }

    /// The vCPU went from L1 to L2 or back, or enabled or disabled what it takes to do so.
    pub(crate) fn change_mode(&mut self, mode: Mode) {
        if mode == self.counters.mode {
            return;
        }
        self.counters.mode = mode;
        for counter in self.gp_counters().iter() {
            self.update_active(counter);
        }
    }

    /// What a write of `data` to `register` would do to selectors, if that is all that it does.
    pub(crate) fn selects(&self, register: Register, data: u64) -> Option<Selects> {
        match register {
            Register::Selector(counter) => Some(Selects {
                counters: counter.bit(),
                interrupts: EventSelector::new(data).has(EventSelector::INT),
            }),
            Register::Unit(msr) => self.units.selects(msr, data),
            _ => None,
        }
    }

    /// Might a counter count an instruction that KVM completes as `what`?
    pub(crate) fn may_count(&self, what: Retired) -> bool {
        let of_wrmsr = self.wrmsr.is_some_and(|wrmsr| !wrmsr.counters.is_empty());
        of_wrmsr || !self.counters.emulated.counters(what).is_empty()
    }

    /// What the instruction counts on that KVM completes as `what`.
    ///
    /// `in_user_mode` tells whether the guest is at CPL 1, 2 or 3; it is asked only if a counter
    /// depends on it, as the answer takes a VMREAD.
    pub(crate) fn counting(
        &mut self,
        what: Retired,
        in_user_mode: impl FnOnce() -> bool,
    ) -> Counting {
        match self.wrmsr.take() {
            Some(counting) if what == Retired::INSTRUCTION => return counting,
            _ => {}
        }
        let counters = &self.counters;
        let counting = counters.emulated.counters(what) & counters.globally_enabled();
        Counting {
            counters: counters.emulated.at_level(counting, in_user_mode),
            interrupting: counters.interrupting,
        }
    }

    /// KVM completed an instruction: counts it as `what`. Returns whether the guest is owed a PMI.
    ///
    /// `in_user_mode` is that of [`Self::counting`].
    #[must_use]
    pub(crate) fn retire(&mut self, what: Retired, in_user_mode: impl FnOnce() -> bool) -> bool {
        let counting = self.counting(what, in_user_mode);
        let overflowed = self.counters.increment(counting.counters);
        !(overflowed & counting.interrupting).is_empty()
    }

    /// The general-purpose counters of this PMU.
    fn gp_counters(&self) -> CounterSet {
        self.model().counters & CounterSet::ALL_GP
    }

    /// What becomes of `data` in a register that has the bits of `valid`.
    fn accept(&self, data: u64, valid: u64) -> Result<u64, GeneralProtection> {
        if !self.model().ignores_reserved {
            check(data, valid)?;
        }
        Ok(data & valid)
    }

    /// The guest only reads the status; where it ignores reserved bits, these are all of them.
    fn write_status(&mut self, data: u64, by: Initiator) -> Result<(), GeneralProtection> {
        match by {
            Initiator::Guest if self.model().ignores_reserved => {}
            Initiator::Guest => return Err(GeneralProtection),
            Initiator::Host => {
                check(data, self.model().global_status_valid)?;
                self.counters.global_status = data;
            }
        }
        Ok(())
    }

    /// Derives what hardware gets for general-purpose `counter` from what the guest wrote.
    fn filter_selector(&mut self, counter: Counter, filter: &impl EventFilter) {
        self.counters.filter_selector(counter, filter);
        self.update_active(counter);
    }

    /// Has general-purpose `counter` count if it does so where the vCPU is.
    fn update_active(&mut self, counter: Counter) {
        let counters = &mut self.counters;
        let selector = if V::counts_in(counters.selector(counter), counters.mode) {
            counters.hw_selector(counter)
        } else {
            EventSelector::OFF
        };
        let enabled = selector.has(EventSelector::EN);
        let event = enabled.then_some(selector).and_then(V::event);
        counters.activate(counter, selector, event);
        self.units.event_changed(counter, event);
    }
}
