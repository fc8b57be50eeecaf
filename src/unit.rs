// SPDX-License-Identifier: GPL-2.0

//! What changes hands between host and guest beside the counters, one unit each.
//!
//! A unit is one place with its registers, its state, its load and put, and the question whether it
//! can interrupt. Each vendor has a list of them, [`Vendor::Units`](crate::vendor::Vendor::Units):
//! a pair of units is a unit, and so is `()`, for none. There are no defaults: a unit says of
//! everything what it does, if only that it does nothing.

use crate::{
    caps::HostPmu,
    counter::{Counter, CounterSet},
    counters::Counters,
    filter::EventFilter,
    intercepts::Access,
    model::{GuestConfig, Model},
    msr::Msr,
    register::GeneralProtection,
    retired::Event,
};
use core::iter;

/// A unit of a guest's PMU; the default is that of a guest which has no PMU.
pub(crate) trait Unit: Default {
    /// The unit of a guest with `config` on `host`, in its RESET state. Adds what it has of the
    /// global registers to `model`.
    fn new(host: &HostPmu, config: &impl GuestConfig, model: &mut Model) -> Self;

    /// Has the guest a register of the unit at `msr`?
    fn has(&self, msr: Msr) -> bool;

    /// What RDPMC reads of the unit with this ECX, `None` if nothing.
    fn rdpmc(&self, ecx: u32) -> Option<u64>;

    /// Reads the register at `msr`, which the guest has.
    fn read(&self, msr: Msr) -> u64;

    /// Writes `data` to the register at `msr`, which the guest has.
    ///
    /// # Errors
    ///
    /// [`GeneralProtection`] if a reserved bit is set; then nothing has changed.
    fn write(
        &mut self,
        counters: &mut Counters,
        msr: Msr,
        data: u64,
        filter: &impl EventFilter,
    ) -> Result<(), GeneralProtection>;

    /// The unit's registers, also those that this guest does not have, each with what the guest may
    /// do with it without an exit.
    fn intercepts(&self) -> impl Iterator<Item = (Msr, Access)>;

    /// What a write of `data` to the register at `msr` would do to selectors, if that is all that
    /// it does.
    fn selects(&self, msr: Msr, data: u64) -> Option<Selects>;

    /// Applies the VM's event filter anew to what the guest has programmed.
    fn refilter(&mut self, counters: &mut Counters, filter: &impl EventFilter);

    /// General-purpose `counter` counts now what `event` says, if anything, of retired
    /// instructions.
    fn event_changed(&mut self, counter: Counter, event: Option<Event>);

    /// Bits of the global status that the unit could set with an interrupt, as the guest has
    /// programmed it.
    fn interrupting(&self, counters: &Counters) -> u64;

    /// Can the unit count by itself, until the guest writes a register? Then the PMU can't rest.
    fn can_count(&self, counters: &Counters) -> bool;

    /// The guest was entered since its state was loaded, or since KVM has completed an instruction.
    fn entered(&mut self);

    /// Can the guest be entered again with the unit as the last VM-exit has left it in hardware?
    fn can_stay(&self, counters: &Counters) -> bool;
}

/// A unit's part in the world switch ([`crate::switch`]), on hardware that has it.
pub(crate) trait SwitchUnit<H>: Unit {
    /// The counters are about to be loaded. May change their values.
    fn before_load(&mut self, counters: &mut Counters, hw: &mut H);

    /// The counters are in hardware, by way of `loaded`; puts the unit there.
    fn load(&mut self, counters: &Counters, hw: &mut H, loaded: Loaded);

    /// The guest is entered again with its state as the last VM-exit has left it in hardware. The
    /// entry is to count on what was `left` to it, and nothing else: returns where it does not.
    fn before_resume(&mut self, counters: &Counters, hw: &mut H, left: CounterSet) -> CounterSet;

    /// Selectors that the unit has were written while it is in hardware, which has to follow.
    fn reload(&mut self, hw: &mut H);

    /// The counters are saved; saves the unit, and leaves it in hardware as the host wants it.
    fn put(&mut self, counters: &mut Counters, hw: &mut H);
}

/// What a write of a register does to selectors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Selects {
    /// Counters whose selectors are written.
    pub(crate) counters: CounterSet,
    /// One of them may interrupt by what is written.
    pub(crate) interrupts: bool,
}

/// How the counters came to be in hardware.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loaded {
    /// Those that somebody else may have used, and what counts with them, since they were put.
    pub(crate) used: CounterSet,
    /// Those that had to be written.
    pub(crate) written: CounterSet,
}

impl Unit for () {
    fn new(_host: &HostPmu, _config: &impl GuestConfig, _model: &mut Model) -> Self {}

    fn has(&self, _msr: Msr) -> bool {
        false
    }

    fn rdpmc(&self, _ecx: u32) -> Option<u64> {
        None
    }

    fn read(&self, _msr: Msr) -> u64 {
        0
    }

    fn write(
        &mut self,
        _counters: &mut Counters,
        _msr: Msr,
        _data: u64,
        _filter: &impl EventFilter,
    ) -> Result<(), GeneralProtection> {
        Err(GeneralProtection)
    }

    fn intercepts(&self) -> impl Iterator<Item = (Msr, Access)> {
        iter::empty()
    }

    fn selects(&self, _msr: Msr, _data: u64) -> Option<Selects> {
        None
    }

    fn refilter(&mut self, _counters: &mut Counters, _filter: &impl EventFilter) {}

    fn event_changed(&mut self, _counter: Counter, _event: Option<Event>) {}

    fn interrupting(&self, _counters: &Counters) -> u64 {
        0
    }

    fn can_count(&self, _counters: &Counters) -> bool {
        false
    }

    fn entered(&mut self) {}

    fn can_stay(&self, _counters: &Counters) -> bool {
        true
    }
}

impl<H> SwitchUnit<H> for () {
    fn before_load(&mut self, _counters: &mut Counters, _hw: &mut H) {}

    fn load(&mut self, _counters: &Counters, _hw: &mut H, _loaded: Loaded) {}

    fn before_resume(&mut self, _counters: &Counters, _hw: &mut H, left: CounterSet) -> CounterSet {
        left
    }

    fn reload(&mut self, _hw: &mut H) {}

    fn put(&mut self, _counters: &mut Counters, _hw: &mut H) {}
}

/// In this order.
impl<A: Unit, B: Unit> Unit for (A, B) {
    fn new(host: &HostPmu, config: &impl GuestConfig, model: &mut Model) -> Self {
        let first = A::new(host, config, model);
        (first, B::new(host, config, model))
    }

    fn has(&self, msr: Msr) -> bool {
        self.0.has(msr) || self.1.has(msr)
    }

    fn rdpmc(&self, ecx: u32) -> Option<u64> {
        self.0.rdpmc(ecx).or_else(|| self.1.rdpmc(ecx))
    }

    fn read(&self, msr: Msr) -> u64 {
        if self.0.has(msr) {
            self.0.read(msr)
        } else {
            self.1.read(msr)
        }
    }

    fn write(
        &mut self,
        counters: &mut Counters,
        msr: Msr,
        data: u64,
        filter: &impl EventFilter,
    ) -> Result<(), GeneralProtection> {
        if self.0.has(msr) {
            self.0.write(counters, msr, data, filter)
        } else {
            self.1.write(counters, msr, data, filter)
        }
    }

    fn intercepts(&self) -> impl Iterator<Item = (Msr, Access)> {
        self.0.intercepts().chain(self.1.intercepts())
    }

    fn selects(&self, msr: Msr, data: u64) -> Option<Selects> {
        if self.0.has(msr) {
            self.0.selects(msr, data)
        } else {
            self.1.selects(msr, data)
        }
    }

    fn refilter(&mut self, counters: &mut Counters, filter: &impl EventFilter) {
        self.0.refilter(counters, filter);
        self.1.refilter(counters, filter);
    }

    fn event_changed(&mut self, counter: Counter, event: Option<Event>) {
        self.0.event_changed(counter, event);
        self.1.event_changed(counter, event);
    }

    fn interrupting(&self, counters: &Counters) -> u64 {
        self.0.interrupting(counters) | self.1.interrupting(counters)
    }

    fn can_count(&self, counters: &Counters) -> bool {
        self.0.can_count(counters) || self.1.can_count(counters)
    }

    fn entered(&mut self) {
        self.0.entered();
        self.1.entered();
    }

    fn can_stay(&self, counters: &Counters) -> bool {
        self.0.can_stay(counters) && self.1.can_stay(counters)
    }
}

impl<H, A: SwitchUnit<H>, B: SwitchUnit<H>> SwitchUnit<H> for (A, B) {
    #[inline(always)]
    fn before_load(&mut self, counters: &mut Counters, hw: &mut H) {
        self.0.before_load(counters, hw);
        self.1.before_load(counters, hw);
    }

    #[inline(always)]
    fn load(&mut self, counters: &Counters, hw: &mut H, loaded: Loaded) {
        self.0.load(counters, hw, loaded);
        self.1.load(counters, hw, loaded);
    }

    #[inline(always)]
    fn before_resume(&mut self, counters: &Counters, hw: &mut H, left: CounterSet) -> CounterSet {
        let left = self.0.before_resume(counters, hw, left);
        self.1.before_resume(counters, hw, left)
    }

    #[inline(always)]
    fn reload(&mut self, hw: &mut H) {
        self.0.reload(hw);
        self.1.reload(hw);
    }

    #[inline(always)]
    fn put(&mut self, counters: &mut Counters, hw: &mut H) {
        self.0.put(counters, hw);
        self.1.put(counters, hw);
    }
}
