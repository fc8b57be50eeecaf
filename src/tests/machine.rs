// SPDX-License-Identifier: GPL-2.0

//! A processor's PMU: architectural performance monitoring, counting instructions and branches.

use super::{
    cpu::{scramble, Claims, Cpu, Intercepts, Lapic},
    vmm::{self, Config, Deny},
};
use crate::{
    caps::{HostCounters, HostPmu},
    counter::{Counter, Kind},
    filter::EventFilter,
    guest::GuestPmu,
    in_place::{self, InPlaceHw, Written},
    intel::{fixed::FixedHw, metrics::MetricsHw, msr::FixedCtrCtrl, Intel},
    msr::{EventSelector, Msr},
    park,
    pmi::{Lvtpc, Overflow},
    register::Register,
    retired::Retired,
    switch::{Claim, Hw},
    vendor::Vendor,
};
use std::cell::Cell;

/// Counters of both kinds, indexed by their bits in the global registers.
const BITS: usize = 36;

/// The fixed counter of slots.
const SLOTS: usize = 3;

/// The bit of IA32_PERF_METRICS in the global registers.
const METRICS_BIT: u32 = 48;

/// Bits of the status that freeze the counters, or say that they were frozen: LBR_Frz and CTR_Frz.
const FREEZE: u64 = (1 << 58) | (1 << 59);
/// Bits that are not the counters': of Processor Trace, the uncore, the debug store, and CondChgd.
const FOREIGN: u64 = (1 << 55) | (1 << 61) | (1 << 62) | (1 << 63);

#[derive(Clone, Debug)]
pub(super) struct Machine {
    /// Counters that exist, by their bits in the global registers.
    exist: u64,
    gp: usize,
    fixed: usize,
    width: u32,
    full_width: bool,
    /// What does not count: what an event filter makes of a guest's counters.
    denied: Deny,
    counters: [u64; BITS],
    selectors: [u64; 8],
    fixed_ctrl: u64,
    /// There is an IA32_PERF_METRICS.
    has_metrics: bool,
    metrics: u64,
    /// The switch has written slots since it wrote IA32_PERF_METRICS, which holds fractions of
    /// them.
    metrics_void: bool,
    status: u64,
    global_ctrl: u64,
    /// The guest's mode.
    user: bool,
    lapic: Lapic,
    /// The VMCS field that VM-entry loads and VM-exit saves.
    vmcs_global_ctrl: u64,
    writes: u32,
    reads: Cell<u32>,
    /// The status that the host has left behind.
    left: u64,
    /// RDMSRs of the status, but for the ones of the guest.
    status_reads: Cell<u32>,
    intercepts: Intercepts,
    /// Who has had the counters.
    claims: Claims,
}

impl Machine {
    fn mask(&self) -> u64 {
        (1 << self.width) - 1
    }

    fn global_valid(&self) -> u64 {
        self.exist | (u64::from(self.has_metrics) << METRICS_BIT)
    }

    /// One slot goes by.
    ///
    /// What hardware makes of IA32_PERF_METRICS is known to nobody else. Here it is a number that
    /// changes with the slots, as good as any other for a hypervisor that has but to carry it
    /// around.
    fn slot(&mut self) {
        if self.fixed <= SLOTS || !self.fixed_enabled(SLOTS) {
            return;
        }
        let mut interrupting = self.count(32 + SLOTS, self.fixed_interrupts(SLOTS));
        if self.has_metrics && self.global_ctrl & (1 << METRICS_BIT) != 0 {
            assert!(!self.metrics_void, "IA32_PERF_METRICS written before slots");
            self.metrics = self.metrics.wrapping_add(1);
            if self.metrics == 0 {
                self.status |= 1 << METRICS_BIT;
                interrupting |= 1 << METRICS_BIT;
            }
        }
        self.lapic.interrupt(interrupting);
    }

    fn fixed_enabled(&self, index: usize) -> bool {
        let enabled = (self.fixed_ctrl >> (4 * index)) & (if self.user { 2 } else { 1 }) != 0;
        enabled && self.denied.allows_fixed(index as u8)
    }

    fn fixed_interrupts(&self, index: usize) -> bool {
        (self.fixed_ctrl >> (4 * index)) & 8 != 0
    }

    /// Counts one event if the global control has it; its bit on an overflow that interrupts, or 0.
    fn count(&mut self, bit: usize, interrupts: bool) -> u64 {
        if self.global_ctrl & (1 << bit) == 0 {
            return 0;
        }
        self.counters[bit] = (self.counters[bit] + 1) & self.mask();
        if self.counters[bit] != 0 {
            return 0;
        }
        self.status |= 1 << bit;
        u64::from(interrupts) << bit
    }
}

impl Cpu for Machine {
    type V = Intel;
    type Units = <Intel as Vendor>::Units;
    type Config = Config;

    const FULL: Config = vmm::FULL;
    const ENTRIES_COUNT: bool = false;
    const EVERYTHING: &'static [(u32, u64)] = &[
        (0x186, 0x53_00c0),
        (0x187, 0x53_00c0),
        (0x18d, 0x53_00c0),
        (0x4c2, 0x1234_5678_9abc),
        (0x4c8, 0x5678_9abc_def0),
        (0x30a, 0x1111_2222_3333),
        (0x4c1, 0xffff_ffff_ffff),
        (0x38d, 0xbbbb),
        (0x38f, 0xf_0000_00ff),
    ];

    fn existing(guest: &GuestPmu<Intel>, register: Register, value: u64) -> u64 {
        match register {
            Register::Unit(Msr::IA32_FIXED_CTR_CTRL) => {
                let fixed = guest.model().counters.bits() >> 32;
                let field = |n: u32| ((fixed >> n) & 1) * (0xf << (4 * n));
                value & (0..4).map(field).sum::<u64>()
            }
            Register::GlobalCtrl => value & guest.model().global_ctrl_valid,
            _ => value,
        }
    }

    fn bare(config: &Config) -> Self {
        // The guest that CPUID tells of counters that there aren't has as many as the host before a
        // gap.
        let (gp_run, fixed_run) = (
            (config.host_counters as u32).trailing_ones(),
            (config.host_counters >> 32).trailing_ones(),
        );
        let gp = config.gp.min(gp_run) as usize;
        let fixed = config.fixed.min(fixed_run) as usize;
        Self {
            exist: ((1 << gp) - 1) | (((1 << fixed) - 1) << 32),
            gp,
            fixed,
            width: config.width,
            full_width: config.full_width,
            has_metrics: config.metrics && config.host_metrics && fixed > SLOTS,
            metrics: 0,
            metrics_void: false,
            denied: Deny::NOTHING,
            counters: [0; BITS],
            selectors: [0; 8],
            fixed_ctrl: 0,
            status: 0,
            global_ctrl: (1 << gp) - 1,
            user: false,
            lapic: Lapic::new(true),
            vmcs_global_ctrl: 0,
            writes: 0,
            reads: Cell::new(0),
            left: 0,
            status_reads: Cell::new(0),
            intercepts: Intercepts::default(),
            claims: Claims::default(),
        }
    }

    fn host(config: &Config) -> Self {
        Self {
            global_ctrl: 0,
            exist: config.host_counters,
            has_metrics: config.host_metrics,
            ..Self::bare(&Config {
                host_counters: config.host_counters,
                ..vmm::FULL
            })
        }
    }

    fn host_pmu(config: &Config) -> HostPmu {
        let host = if config.host_metrics {
            vmm::host()
        } else {
            vmm::host_without_metrics()
        };
        HostPmu {
            counters: HostCounters::from_bits(config.host_counters),
            ..host
        }
    }

    fn lapic(&mut self) -> &mut Lapic {
        &mut self.lapic
    }

    fn deny(&mut self, filter: Deny) {
        self.denied = filter;
    }

    fn rdmsr(&self, msr: u32) -> Option<u64> {
        let (gp, fixed) = (self.gp as u32, self.fixed as u32);
        match msr {
            0x329 if self.has_metrics => Some(self.metrics),
            0x38d => Some(self.fixed_ctrl),
            0x38e => Some(self.status),
            0x38f => Some(self.global_ctrl),
            0x390 => Some(0),
            _ if msr.wrapping_sub(0x186) < gp => Some(self.selectors[msr as usize - 0x186]),
            _ if msr.wrapping_sub(0x0c1) < gp => Some(self.counters[msr as usize - 0x0c1]),
            _ if self.full_width && msr.wrapping_sub(0x4c1) < gp => {
                Some(self.counters[msr as usize - 0x4c1])
            }
            _ if msr.wrapping_sub(0x309) < fixed => Some(self.counters[msr as usize - 0x309 + 32]),
            _ => None,
        }
    }

    fn wrmsr(&mut self, msr: u32, value: u64) -> Option<()> {
        let (gp, fixed) = (self.gp as u32, self.fixed as u32);
        let valid = |bits: u64| if value & !bits == 0 { Some(()) } else { None };
        let status_valid = self.global_valid() | (3 << 62);
        match msr {
            0x329 if self.has_metrics => self.metrics = value,
            0x38d => {
                valid((0..self.fixed).fold(0, |v, n| v | (0xb << (4 * n))))?;
                self.fixed_ctrl = value;
            }
            0x38f => {
                valid(self.global_valid())?;
                self.global_ctrl = value;
            }
            0x390 => {
                valid(status_valid)?;
                self.status &= !value;
            }
            _ if msr.wrapping_sub(0x186) < gp => {
                valid(0xffdf_ffff)?;
                self.selectors[msr as usize - 0x186] = value;
            }
            _ if msr.wrapping_sub(0x0c1) < gp => {
                self.counters[msr as usize - 0x0c1] = value as i32 as i64 as u64 & self.mask();
            }
            _ if self.full_width && msr.wrapping_sub(0x4c1) < gp => {
                valid(self.mask())?;
                self.counters[msr as usize - 0x4c1] = value;
            }
            _ if msr.wrapping_sub(0x309) < fixed => {
                valid(self.mask())?;
                self.counters[msr as usize - 0x309 + 32] = value;
            }
            _ => return None,
        }
        Some(())
    }

    /// Of a fixed counter user space may write bits that there aren't.
    fn set_guest_msr(&mut self, msr: u32, value: u64) -> Option<()> {
        let is_fixed = msr.wrapping_sub(0x309) < self.fixed as u32;
        self.wrmsr(msr, if is_fixed { value & self.mask() } else { value })
    }

    fn rdpmc(&self, ecx: u32) -> Option<u64> {
        let index = (ecx & 0xffff) as usize;
        match ecx >> 16 {
            0 if index < self.gp => Some(self.counters[index]),
            0x4000 if index < self.fixed => Some(self.counters[32 + index]),
            0x2000 if index == 0 && self.has_metrics => Some(self.metrics),
            _ => None,
        }
    }

    fn intercepts(&mut self) -> &mut Intercepts {
        &mut self.intercepts
    }

    fn is_status(msr: u32) -> bool {
        [0x38e, 0x390].contains(&msr)
    }

    fn set_user(&mut self, user: bool) {
        self.user = user;
    }

    fn vm_entry(&mut self) {
        self.global_ctrl = self.vmcs_global_ctrl;
    }

    fn vm_exit(&mut self) {
        self.vmcs_global_ctrl = core::mem::take(&mut self.global_ctrl);
    }

    /// In one slot.
    fn retire(&mut self, branch: bool) {
        self.slot();
        self.complete(branch);
    }

    fn complete(&mut self, branch: bool) {
        let mut interrupting = 0u64;
        for n in 0..self.gp {
            let selector = self.selectors[n];
            let event = selector & 0xffff;
            let happens = event == 0xc0 || (event == 0xc4 && branch);
            let mode = 1 << if self.user { 16 } else { 17 };
            let enabled = selector & (1 << 22) != 0 && selector & mode != 0;
            let enough = (selector >> 24) & 0xff <= 1;
            if happens && enabled && enough && self.denied.event != Some(event) {
                interrupting |= self.count(n, selector & (1 << 20) != 0);
            }
        }
        if self.fixed > 0 && self.fixed_enabled(0) {
            interrupting |= self.count(32, self.fixed_interrupts(0));
        }
        self.lapic.interrupt(interrupting);
    }

    fn write_in_place(
        &mut self,
        pmu: &mut GuestPmu<Intel>,
        register: Register,
        value: u64,
        filter: &Deny,
    ) -> Written {
        in_place::write(pmu, self, register, value, filter)
    }

    fn retire_in_place(&mut self, pmu: &mut GuestPmu<Intel>, user: bool) -> Option<bool> {
        Some(in_place::retire(pmu, self, Retired::INSTRUCTION, || user))
    }

    fn park(&mut self, pmu: &mut GuestPmu<Intel>) -> Option<Overflow> {
        park::stop(pmu, self)
    }

    fn resume(&mut self, pmu: &mut GuestPmu<Intel>, lvtpc: Lvtpc) -> bool {
        park::resume(pmu, self, lvtpc).owed
    }

    fn retire_parked(&mut self, pmu: &mut GuestPmu<Intel>, what: Retired, user: bool) -> bool {
        park::retire(pmu, self, what, || user)
    }

    fn forget_vmcs(&mut self) {
        self.vmcs_global_ctrl = 0;
    }

    fn evict(&mut self) -> Self {
        let evicted = self.clone();
        self.selectors = [0; 8];
        self.fixed_ctrl = 0;
        self.status &= FOREIGN;
        evicted
    }

    fn writes(&self) -> u32 {
        self.writes
    }

    fn reads(&self) -> u32 {
        self.reads.get()
    }

    fn used_by_host(&mut self, noise: u64) {
        let used = self.claims.used_by_host(noise);
        scramble(&mut self.counters, used, noise, 0xffff_ffff_ffff);
        // Not enabled.
        scramble(&mut self.selectors, used, noise, 0xffff);
        let foreign = if noise & 7 == 0 { FOREIGN } else { 0 };
        self.status = noise & (self.global_valid() | FREEZE | foreign);
        self.left = self.status;
        if used & (1 << (32 + SLOTS)) != 0 {
            self.metrics = noise;
        }
    }

    fn assert_ready_to_switch(&self, pmu: &GuestPmu<Intel>) {
        assert_eq!(self.global_ctrl, 0, "counters on before VM-entry");
        if hides_metrics(self, pmu) {
            assert_eq!(self.metrics, 0, "somebody else's PERF_METRICS");
        }
    }

    fn assert_host_finds_it_clean(&self) {
        assert_eq!(self.global_ctrl, 0);
        assert_eq!(self.fixed_ctrl, 0, "a guest's FIXED_CTR_CTRL");
        assert_eq!(self.status & !self.left, 0, "a guest's status");
        let foreign = self.left & FOREIGN;
        assert_eq!(self.status & FOREIGN, foreign, "a status of others");
        for selector in self.selectors {
            assert_eq!(selector & (1 << 22), 0, "an enabled selector");
        }
    }
}

impl Machine {
    /// The host, or whoever has the registers at hand, writes the status and uses nothing else.
    pub(super) fn leave_status(&mut self, status: u64) {
        self.status = status;
        self.left = status;
        self.claims = Claims::default();
    }

    /// The host may get these bits of the status at any time.
    pub(super) fn expect_status(&mut self, bits: u64) {
        self.claims.host_status = bits;
    }

    /// Something that is not the guest's sets these bits of the status while the guest runs.
    pub(super) fn raise_in_guest(&mut self, bits: u64) {
        self.status |= bits;
        self.left |= bits;
    }

    pub(super) fn status_reads(&self) -> u32 {
        self.status_reads.get()
    }
}

/// Has `machine` an IA32_PERF_METRICS that the guest reads by RDPMC although it has not got it?
pub(super) fn hides_metrics(machine: &Machine, pmu: &GuestPmu<Intel>) -> bool {
    let known = pmu.register(Msr::IA32_PERF_METRICS).is_some();
    machine.has_metrics && !known && pmu.passthrough().rdpmc
}

impl Machine {
    /// The counter's bit in the global registers, if it exists; an access would fault otherwise.
    fn bit(&self, counter: Counter) -> usize {
        let bit = match counter.kind() {
            Kind::Gp(n) => n as usize,
            Kind::Fixed(n) => 32 + n as usize,
        };
        assert_ne!(self.exist & (1 << bit), 0, "#GP: there is no {counter:?}");
        bit
    }
}

impl Hw for Machine {
    fn claim_counters(&mut self, number: u64) -> Claim {
        self.claims.renew(number)
    }

    fn counter(&self, counter: Counter) -> u64 {
        self.reads.set(self.reads.get() + 1);
        self.counters[self.bit(counter)]
    }

    fn set_counter(&mut self, counter: Counter, value: u64) {
        assert_eq!(value & !self.mask(), 0, "reserved bits of a counter");
        self.writes += 1;
        let bit = self.bit(counter);
        self.counters[bit] = value;
        self.metrics_void |= counter.kind() == Kind::Fixed(SLOTS as u8);
    }

    fn set_selector(&mut self, counter: Counter, selector: EventSelector) {
        assert_eq!(self.global_ctrl, 0, "a switch while counters are on");
        self.writes += 1;
        let bit = self.bit(counter);
        self.selectors[bit] = selector.bits();
    }

    fn status(&self) -> u64 {
        self.status_reads.set(self.status_reads.get() + 1);
        self.status
    }

    fn clear_status(&mut self, bits: u64) {
        assert_eq!(bits & FOREIGN, 0, "somebody else's status");
        self.writes += 1;
        self.status &= !bits;
    }

    fn set_status(&mut self, bits: u64) {
        assert_eq!(bits & !self.global_valid(), 0, "not the guest's to set");
        self.writes += 1;
        self.status |= bits;
    }

    fn take_global_ctrl(&mut self) -> u64 {
        self.vmcs_global_ctrl
    }

    fn drop_global_ctrl(&mut self, given: u64) {
        assert_eq!(given, self.vmcs_global_ctrl);
    }

    fn give_global_ctrl(&mut self, ctrl: u64) {
        self.vmcs_global_ctrl = ctrl;
    }

    fn intercept_status(&mut self) {
        self.intercepts.status = true;
    }

    fn renew_intercepts(&mut self) {
        self.intercepts.renewed = true;
    }
}

impl InPlaceHw for Machine {
    fn exit_global_ctrl(&self) -> u64 {
        self.vmcs_global_ctrl
    }

    fn keep_global_ctrl(&mut self, ctrl: u64) {
        self.give_global_ctrl(ctrl);
    }
}

impl FixedHw for Machine {
    fn set_fixed_ctrl(&mut self, ctrl: FixedCtrCtrl) {
        assert_eq!(self.global_ctrl, 0, "a switch while counters are on");
        self.writes += 1;
        self.fixed_ctrl = ctrl.bits();
    }
}

impl MetricsHw for Machine {
    fn metrics(&self) -> u64 {
        assert!(self.has_metrics, "#GP");
        self.reads.set(self.reads.get() + 1);
        self.metrics
    }

    fn set_metrics(&mut self, value: u64) {
        assert!(self.has_metrics, "#GP");
        self.writes += 1;
        self.metrics = value;
        self.metrics_void = false;
    }
}
