// SPDX-License-Identifier: GPL-2.0

//! The unit of the fixed counters' selectors, IA32_FIXED_CTR_CTRL: one register for all of them.
//!
//! The counters themselves are among the others. Of the register hardware gets what the event
//! filter leaves: a counter that is disabled or filtered gets 0.

use super::{metrics::SLOTS, msr::FixedCtrCtrl};
use crate::{
    caps::HostPmu,
    counter::{Counter, CounterSet, Kind},
    counters::Counters,
    filter::EventFilter,
    intercepts::Access,
    model::{GuestConfig, Model},
    msr::Msr,
    register::{check, GeneralProtection},
    retired::{Event, Retired},
    unit::{Loaded, Selects, SwitchUnit, Unit},
};
use core::iter;

/// The fixed counter of INST_RETIRED.ANY.
const INSTRUCTIONS: u8 = 0;

/// IA32_FIXED_CTR_CTRL of a guest.
#[derive(Debug, Default)]
pub(crate) struct FixedControl {
    /// The guest has the register.
    exists: bool,
    /// Bits that the guest can set.
    valid: u64,
    /// As the guest wrote it.
    written: FixedCtrCtrl,
    /// As hardware gets it.
    hardware: FixedCtrCtrl,
}

/// Hardware with the register.
pub(crate) trait FixedHw {
    /// Sets IA32_FIXED_CTR_CTRL.
    fn set_fixed_ctrl(&mut self, ctrl: FixedCtrCtrl);
}

impl FixedControl {
    /// Derives what hardware gets from what the guest wrote.
    fn program(&mut self, counters: &mut Counters, filter: &impl EventFilter) {
        self.hardware = hardware_ctrl(counters.model.counters, self.written, filter);
        for (counter, index) in fixed(counters.model.counters) {
            let field = self.hardware.field(index);
            let event = if field != 0 { event(index) } else { None };
            let privileges = self.hardware.privileges(index);
            let interrupts = field & FixedCtrCtrl::PMI != 0;
            counters.switched_on.set(counter, field != 0);
            counters.active.set(counter, field != 0);
            counters.interrupting.set(counter, interrupts);
            counters.emulated.update(counter, privileges, event);
        }
    }
}

impl Unit for FixedControl {
    fn new(_host: &HostPmu, _config: &impl GuestConfig, model: &mut Model) -> Self {
        Self {
            exists: model.has_global_registers(),
            valid: valid(model.counters),
            ..Self::default()
        }
    }

    fn has(&self, msr: Msr) -> bool {
        self.exists && msr == Msr::IA32_FIXED_CTR_CTRL
    }

    fn rdpmc(&self, _ecx: u32) -> Option<u64> {
        None
    }

    fn read(&self, _msr: Msr) -> u64 {
        self.written.bits()
    }

    fn write(
        &mut self,
        counters: &mut Counters,
        _msr: Msr,
        data: u64,
        filter: &impl EventFilter,
    ) -> Result<(), GeneralProtection> {
        check(data, self.valid)?;
        self.written = FixedCtrCtrl::new(data);
        self.program(counters, filter);
        Ok(())
    }

    /// Never free: the event filter has its say.
    fn intercepts(&self) -> impl Iterator<Item = (Msr, Access)> {
        iter::once((Msr::IA32_FIXED_CTR_CTRL, Access::NONE))
    }

    /// What is made of slots, in another unit, depends on whether they are counted.
    fn selects(&self, _msr: Msr, data: u64) -> Option<Selects> {
        let written = FixedCtrCtrl::new(data);
        let mut selects = Selects {
            counters: CounterSet::EMPTY,
            interrupts: false,
        };
        for (counter, index) in fixed(CounterSet::ALL) {
            let (old, new) = (self.written.field(index), written.field(index));
            selects.counters.set(counter, old != new);
            selects.interrupts |= old != new && new & FixedCtrCtrl::PMI != 0;
        }
        (!selects.counters.contains(SLOTS)).then_some(selects)
    }

    fn refilter(&mut self, counters: &mut Counters, filter: &impl EventFilter) {
        self.program(counters, filter);
    }

    fn event_changed(&mut self, _counter: Counter, _event: Option<Event>) {}

    /// The counters' own bits are theirs.
    fn interrupting(&self, _counters: &Counters) -> u64 {
        0
    }

    /// The counters do.
    fn can_count(&self, _counters: &Counters) -> bool {
        false
    }

    fn entered(&mut self) {}

    fn can_stay(&self, _counters: &Counters) -> bool {
        true
    }
}

impl<H: FixedHw> SwitchUnit<H> for FixedControl {
    fn before_load(&mut self, _counters: &mut Counters, _hw: &mut H) {}

    #[inline(always)]
    fn load(&mut self, _counters: &Counters, hw: &mut H, _loaded: Loaded) {
        if self.hardware != FixedCtrCtrl::OFF {
            hw.set_fixed_ctrl(self.hardware);
        }
    }

    fn before_resume(&mut self, _counters: &Counters, _hw: &mut H, left: CounterSet) -> CounterSet {
        left
    }

    fn reload(&mut self, hw: &mut H) {
        hw.set_fixed_ctrl(self.hardware);
    }

    #[inline(always)]
    fn put(&mut self, _counters: &mut Counters, hw: &mut H) {
        if self.hardware != FixedCtrCtrl::OFF {
            hw.set_fixed_ctrl(FixedCtrCtrl::OFF);
        }
    }
}

/// The fixed ones of `counters`, and their indices.
fn fixed(counters: CounterSet) -> impl Iterator<Item = (Counter, u8)> {
    counters.iter().filter_map(|counter| match counter.kind() {
        Kind::Gp(_) => None,
        Kind::Fixed(index) => Some((counter, index)),
    })
}

/// Valid bits of IA32_FIXED_CTR_CTRL: all of a counter's field but AnyThread, a version 3 bit.
fn valid(counters: CounterSet) -> u64 {
    let field = FixedCtrCtrl::OS | FixedCtrCtrl::USR | FixedCtrCtrl::PMI;
    fixed(counters).fold(0, |valid, (_, index)| {
        valid | FixedCtrCtrl::place(index, field)
    })
}

/// What fixed counter `index` counts of retired instructions.
fn event(index: u8) -> Option<Event> {
    (index == INSTRUCTIONS).then_some(Event::of(Retired::INSTRUCTION))
}

/// The IA32_FIXED_CTR_CTRL that hardware gets when the guest wrote `ctrl`.
fn hardware_ctrl(
    counters: CounterSet,
    ctrl: FixedCtrCtrl,
    filter: &impl EventFilter,
) -> FixedCtrCtrl {
    let mut hardware = ctrl;
    for (_, index) in fixed(counters) {
        let privileges = ctrl.privileges(index);
        let enabled = privileges.user || privileges.kernel;
        if !enabled || !filter.allows_fixed(index) {
            hardware = hardware.without(index);
        }
    }
    hardware
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{filter::AllowAll, msr::EventSelector};

    struct Deny(u8);

    impl EventFilter for Deny {
        fn allows(&self, _selector: EventSelector) -> bool {
            true
        }

        fn allows_fixed(&self, index: u8) -> bool {
            index != self.0
        }
    }

    #[test]
    fn fixed_counters_are_filtered_one_by_one() {
        let counters = CounterSet::first(8, 4);
        let ctrl = FixedCtrCtrl::new(0x3bbb);
        assert_eq!(
            hardware_ctrl(counters, ctrl, &Deny(1)),
            FixedCtrCtrl::new(0x3b0b)
        );
        assert_eq!(hardware_ctrl(counters, ctrl, &AllowAll), ctrl);
    }

    #[test]
    fn a_field_with_only_its_interrupt_bit_counts_nothing() {
        let ctrl = FixedCtrCtrl::new(FixedCtrCtrl::PMI);
        let hardware = hardware_ctrl(CounterSet::first(1, 1), ctrl, &AllowAll);
        assert_eq!(hardware, FixedCtrCtrl::OFF);
    }
}
