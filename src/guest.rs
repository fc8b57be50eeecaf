// SPDX-License-Identifier: GPL-2.0

//! A guest's PMU: what its registers hold, and what reads and writes of them do.
//!
//! One [`GuestPmu`] belongs to each vCPU. It holds the guest's values while the vCPU is not in the
//! guest; between load and put ([`crate::switch`]) the counters, the global control and the status
//! live in hardware, and nothing here may be used.
//!
//! The rules for writes are those of KVM's ABI on Linux 6.18: what the guest does follows the
//! manual, and user space (KVM_SET_MSRS) may also write what is read-only for the guest, so that a
//! saved PMU can be restored.

#![forbid(unsafe_code)]

use crate::{
    counter::{Counter, CounterSet, Kind, MAX_COUNTERS, MAX_GP},
    filter::{hardware_fixed_ctrl, hardware_selector, EventFilter},
    model::Model,
    msr::{global_ctrl, EventSelector, FixedCtrCtrl},
    nested::Mode,
    rdpmc::Operand,
    retired::Emulated,
    vendor::Vendor,
};

/// A register of a guest's PMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// What a general-purpose counter counts.
    Selector(Counter),
    /// A counter, and what a write of this address does.
    Counter(Counter, WriteWidth),
    /// IA32_PERF_METRICS.
    Metrics,
    /// IA32_FIXED_CTR_CTRL.
    FixedCtrCtrl,
    /// The global control register.
    GlobalCtrl,
    /// The global status register.
    GlobalStatus,
    /// The register that clears bits of the status.
    GlobalStatusReset,
    /// The register that sets bits of the status.
    GlobalStatusSet,
}

/// What writing a counter by one of its addresses does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteWidth {
    /// The guest writes 32 bits, which are sign-extended; user space writes the whole counter.
    SignExtended,
    /// The whole counter is written; a bit above its width is reserved.
    Full,
    /// The whole counter is written; bits above its width are dropped.
    Truncated,
}

/// Who accesses a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initiator {
    /// The guest, by RDMSR or WRMSR.
    Guest,
    /// User space, by KVM_GET_MSRS or KVM_SET_MSRS.
    Host,
}

/// The access faults: \#GP in the guest, an MSR not read or written in user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

/// The PMU of one vCPU.
#[derive(Debug, Default)]
pub struct GuestPmu {
    /// What it consists of.
    pub(crate) model: Model,
    /// Counter values by [`Counter::slot`], no wider than the guest's counters.
    pub(crate) counters: [u64; MAX_COUNTERS],
    /// IA32_PERF_METRICS.
    pub(crate) metrics: u64,
    /// Selectors as the guest wrote them.
    selectors: [EventSelector; MAX_GP],
    /// Selectors as hardware gets them.
    hw_selectors: [EventSelector; MAX_GP],
    /// General-purpose counters whose `hw_selectors` entry is not off, and which count in `mode`.
    programmed: CounterSet,
    /// Where the vCPU is.
    pub(crate) mode: Mode,
    /// IA32_FIXED_CTR_CTRL as the guest wrote it.
    fixed_ctrl: FixedCtrCtrl,
    /// IA32_FIXED_CTR_CTRL as hardware gets it.
    hw_fixed_ctrl: FixedCtrCtrl,
    /// The global control register.
    pub(crate) global_ctrl: u64,
    /// The global status register.
    pub(crate) global_status: u64,
    /// Counters whose overflow raises a PMI.
    pub(crate) interrupting: CounterSet,
    /// Counters that are one ahead of the guest while it runs, see [`crate::switch`].
    pub(crate) ahead: CounterSet,
    /// Counters that count what KVM emulates.
    pub(crate) emulated: Emulated,
    /// Counters with values that hardware has not got, by their bits in the global registers;
    /// IA32_PERF_METRICS is among them, by its own.
    pub(crate) changed: u64,
    /// Our last claim on hardware's counters, see [`crate::switch::Hw::claim_counters`].
    pub(crate) claim: u64,
    /// Is an overflow in hardware noticed by nobody but us?  See [`crate::switch`].
    pub(crate) pmi_masked: bool,
}

impl GuestPmu {
    /// Gives the guest another PMU, in its RESET state.
    pub fn refresh(&mut self, model: Model) {
        *self = Self {
            global_ctrl: model.global_ctrl_reset(),
            model,
            mode: self.mode,
            ..Self::default()
        };
    }

    /// What this PMU consists of.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The selector that hardware gets for general-purpose `counter`, off if it is filtered.
    #[inline(always)]
    pub fn hw_selector(&self, counter: Counter) -> EventSelector {
        self.hw_selectors[counter.slot() & (MAX_GP - 1)]
    }

    /// General-purpose counters that hardware gets a selector for; all others are off.
    #[inline(always)]
    pub fn programmed(&self) -> CounterSet {
        self.programmed
    }

    /// The IA32_FIXED_CTR_CTRL that hardware gets.
    #[inline(always)]
    pub fn hw_fixed_ctrl(&self) -> FixedCtrCtrl {
        self.hw_fixed_ctrl
    }

    /// Can no counter count, whatever the global control is?
    #[inline(always)]
    pub fn is_idle(&self) -> bool {
        self.programmed.is_empty() && self.hw_fixed_ctrl == FixedCtrCtrl::OFF
    }

    /// Does it matter what hardware has in the global registers while the guest runs?
    #[inline(always)]
    pub fn needs_global_registers(&self) -> bool {
        self.model.passthrough.global || !self.is_idle()
    }

    /// Counters that the global control enables; all of them where there is no such register.
    pub fn globally_enabled(&self) -> CounterSet {
        CounterSet::from_bits(self.enables())
    }

    /// The global control that hardware gets.
    #[inline(always)]
    pub fn hw_global_ctrl(&self) -> u64 {
        if self.needs_global_registers() {
            self.enables()
        } else {
            0
        }
    }

    /// The global control, or what is as good.
    #[inline(always)]
    fn enables(&self) -> u64 {
        if self.model.has_global_registers() {
            self.global_ctrl
        } else {
            self.model.counters.bits()
        }
    }

    /// Could this PMU count instructions, so that KVM must complete none behind our back?
    ///
    /// Where entering the guest counts, it must not enter twice either: then what counts that is as
    /// good.
    /// The global control is left out: where the guest writes it freely, nobody learns of it.
    pub fn counts_instructions<V: Vendor>(&self) -> bool {
        !self.emulated.instructions.is_empty()
            || (V::ENTRY_RETIRES && !self.emulated.entries.is_empty())
    }

    /// Could an overflow in hardware raise an interrupt, as the guest has programmed it now?
    ///
    /// Nothing in IA32_FIXED_CTR_CTRL keeps IA32_PERF_METRICS from interrupting. The guest's LVTPC is
    /// left out: what it masks, hardware can mask only if it knows.
    pub fn can_interrupt(&self) -> bool {
        !self.interrupting.is_empty() || self.model.metrics
    }

    /// Reads `register`, with the side effects that reading has: none.
    pub fn read(&self, register: Register) -> u64 {
        match register {
            Register::Selector(counter) => self.selectors[counter.slot() & (MAX_GP - 1)].bits(),
            Register::Counter(counter, _) => self.counter(counter),
            Register::Metrics => self.metrics,
            Register::FixedCtrCtrl => self.fixed_ctrl.bits(),
            Register::GlobalCtrl => self.global_ctrl,
            Register::GlobalStatus => self.global_status,
            // They have no state; user space saves and restores them as 0.
            Register::GlobalStatusReset | Register::GlobalStatusSet => 0,
        }
    }

    /// Writes `data` to `register`.
    ///
    /// # Errors
    ///
    /// [`GeneralProtection`] if a reserved bit is set or the register is read-only; then nothing
    /// has changed.
    pub fn write<V: Vendor>(
        &mut self,
        register: Register,
        data: u64,
        by: Initiator,
        filter: &impl EventFilter,
    ) -> Result<(), GeneralProtection> {
        match register {
            Register::Selector(counter) => {
                let valid = self.accept(data, self.model.selector_valid(counter))?;
                self.selectors[counter.slot() & (MAX_GP - 1)] = EventSelector::new(valid);
                self.program_gp::<V>(counter, filter);
            }
            Register::Counter(counter, width) => self.write_counter(counter, width, data, by)?,
            // Eight fractions of eight bits each: no bit is reserved.
            Register::Metrics => {
                self.metrics = data;
                self.changed |= global_ctrl::PERF_METRICS;
            }
            Register::FixedCtrCtrl => {
                check(data, self.model.fixed_ctrl_valid)?;
                self.fixed_ctrl = FixedCtrCtrl::new(data);
                self.program_fixed::<V>(filter);
            }
            Register::GlobalCtrl => {
                self.global_ctrl = self.accept(data, self.model.global_ctrl_valid)?;
            }
            Register::GlobalStatus => self.write_status(data, by)?,
            // What user space restores of the next two it has read there, 0: it must not lose the
            // status by it.
            Register::GlobalStatusReset => {
                let bits = self.accept(data, self.model.global_status_valid)?;
                if by == Initiator::Guest {
                    self.global_status &= !bits;
                }
            }
            Register::GlobalStatusSet => {
                let bits = self.accept(data, self.model.global_status_valid)?;
                if by == Initiator::Guest {
                    self.global_status |= bits;
                }
            }
        }
        Ok(())
    }

    /// What RDPMC reads.
    pub fn rdpmc(&self, operand: Operand) -> u64 {
        match operand {
            Operand::Counter(counter) => self.counter(counter),
            Operand::Metrics => self.metrics,
        }
    }

    /// The value of `counter`.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters[counter.slot()]
    }

    /// Changes the value of `counter`, which hardware gets at the next load.
    pub(crate) fn set_counter(&mut self, counter: Counter, value: u64) {
        self.counters[counter.slot()] = value;
        self.changed |= counter.bit().bits();
    }

    /// Applies the VM's event filter anew to all that the guest has programmed.
    pub fn refilter<V: Vendor>(&mut self, filter: &impl EventFilter) {
        for counter in self.model.counters.iter() {
            if let Kind::Gp(_) = counter.kind() {
                self.program_gp::<V>(counter, filter);
            }
        }
        self.program_fixed::<V>(filter);
    }

    /// What becomes of `data` in a register that has the bits of `valid`.
    fn accept(&self, data: u64, valid: u64) -> Result<u64, GeneralProtection> {
        if !self.model.ignores_reserved {
            check(data, valid)?;
        }
        Ok(data & valid)
    }

    /// The vCPU went from L1 to L2 or back, or enabled or disabled what it takes to do so.
    pub fn change_mode<V: Vendor>(&mut self, mode: Mode) {
        if mode == self.mode {
            return;
        }
        self.mode = mode;
        for counter in self.model.counters.iter() {
            if let Kind::Gp(_) = counter.kind() {
                self.place_gp::<V>(counter);
            }
        }
    }

    fn write_counter(
        &mut self,
        counter: Counter,
        width: WriteWidth,
        data: u64,
        by: Initiator,
    ) -> Result<(), GeneralProtection> {
        let mask = self.model.width(counter).mask();
        let value = match width {
            WriteWidth::Full => {
                check(data, mask)?;
                data
            }
            WriteWidth::SignExtended if by == Initiator::Guest => i64::from(data as i32) as u64,
            WriteWidth::SignExtended | WriteWidth::Truncated => data,
        };
        self.set_counter(counter, value & mask);
        Ok(())
    }

    /// The guest only reads the status; where it ignores reserved bits, these are all of them.
    fn write_status(&mut self, data: u64, by: Initiator) -> Result<(), GeneralProtection> {
        match by {
            Initiator::Guest if self.model.ignores_reserved => {}
            Initiator::Guest => return Err(GeneralProtection),
            Initiator::Host => {
                check(data, self.model.global_status_valid)?;
                self.global_status = data;
            }
        }
        Ok(())
    }

    /// Derives what hardware gets for general-purpose `counter` from what the guest wrote.
    fn program_gp<V: Vendor>(&mut self, counter: Counter, filter: &impl EventFilter) {
        let slot = counter.slot() & (MAX_GP - 1);
        let hardware = hardware_selector(&self.model, self.selectors[slot], filter);

        self.hw_selectors[slot] = hardware;
        self.interrupting
            .set(counter, hardware.has(EventSelector::INT));
        self.place_gp::<V>(counter);
    }

    /// Has general-purpose `counter` count if it does so where the vCPU is.
    fn place_gp<V: Vendor>(&mut self, counter: Counter) {
        let slot = counter.slot() & (MAX_GP - 1);
        let selector = if V::counts_in(self.selectors[slot], self.mode) {
            self.hw_selectors[slot]
        } else {
            EventSelector::OFF
        };
        self.programmed.set(counter, selector != EventSelector::OFF);
        self.emulated.update_gp::<V>(counter, selector);
    }

    /// Derives what hardware gets for the fixed counters from what the guest wrote.
    fn program_fixed<V: Vendor>(&mut self, filter: &impl EventFilter) {
        let counters = self.model.counters;
        let hardware = hardware_fixed_ctrl(counters, self.fixed_ctrl, filter);

        self.hw_fixed_ctrl = hardware;
        for counter in counters.iter() {
            if let Kind::Fixed(index) = counter.kind() {
                let field = hardware.field(index);
                self.interrupting
                    .set(counter, field & FixedCtrCtrl::PMI != 0);
                self.emulated.update_fixed::<V>(counter, hardware);
            }
        }
    }
}

/// Faults if `data` has a bit outside of `valid`.
fn check(data: u64, valid: u64) -> Result<(), GeneralProtection> {
    if data & !valid == 0 {
        Ok(())
    } else {
        Err(GeneralProtection)
    }
}
