// SPDX-License-Identifier: GPL-2.0

//! A processor's PMU: architectural performance monitoring, counting instructions and branches.

use super::{
    cpu::{scramble, Claim, Cpu, Lapic},
    vmm::{self, Config},
};
use crate::{
    caps::HostPmu,
    counter::{Counter, Kind},
    intel::Intel,
    msr::{EventSelector, FixedCtrCtrl},
    switch::Hw,
};
use std::cell::Cell;

/// Counters of both kinds, indexed by their bits in the global registers.
const BITS: usize = 36;

/// The fixed counter of slots.
const SLOTS: usize = 3;

/// The bit of IA32_PERF_METRICS in the global registers.
const METRICS_BIT: u32 = 48;

#[derive(Clone, Debug)]
pub(super) struct Machine {
    gp: usize,
    fixed: usize,
    width: u32,
    full_width: bool,
    /// An event that does not count: what an event filter makes of a guest's counter.
    denied_event: Option<u64>,
    counters: [u64; BITS],
    selectors: [u64; 8],
    fixed_ctrl: u64,
    /// There is an IA32_PERF_METRICS.
    has_metrics: bool,
    metrics: u64,
    /// The switch has written slots since it wrote IA32_PERF_METRICS, which holds fractions of them.
    metrics_void: bool,
    status: u64,
    global_ctrl: u64,
    /// The guest's mode.
    user: bool,
    lapic: Lapic,
    /// The status as of the last VM-entry.
    entry_status: u64,
    /// The VMCS field that VM-entry loads and VM-exit saves.
    vmcs_global_ctrl: u64,
    writes: u32,
    reads: Cell<u32>,
    /// The status that the host has left behind.
    left: u64,
    /// The last claim on the counters.
    claim: Claim,
}

impl Machine {
    fn mask(&self) -> u64 {
        (1 << self.width) - 1
    }

    fn global_valid(&self) -> u64 {
        let metrics = u64::from(self.has_metrics) << METRICS_BIT;
        ((1 << self.gp) - 1) | (((1 << self.fixed) - 1) << 32) | metrics
    }

    /// One slot goes by.
    ///
    /// What hardware makes of IA32_PERF_METRICS is known to nobody else. Here it is a number that
    /// changes with the slots, as good as any other for a hypervisor that has but to carry it around.
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
        self.lapic.interrupt(interrupting, self.entry_status);
    }

    fn fixed_enabled(&self, index: usize) -> bool {
        (self.fixed_ctrl >> (4 * index)) & (if self.user { 2 } else { 1 }) != 0
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
    type Config = Config;

    const FULL: Config = vmm::FULL;
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

    fn bare(config: &Config) -> Self {
        let gp = config.gp as usize;
        Self {
            gp,
            fixed: config.fixed as usize,
            width: config.width,
            full_width: config.full_width,
            has_metrics: config.metrics && config.host_metrics && config.fixed > SLOTS as u32,
            metrics: 0,
            metrics_void: false,
            denied_event: None,
            counters: [0; BITS],
            selectors: [0; 8],
            fixed_ctrl: 0,
            status: 0,
            global_ctrl: (1 << gp) - 1,
            user: false,
            lapic: Lapic::new(true),
            entry_status: 0,
            vmcs_global_ctrl: 0,
            writes: 0,
            reads: Cell::new(0),
            left: 0,
            claim: Claim::default(),
        }
    }

    fn host(config: &Config) -> Self {
        Self {
            global_ctrl: 0,
            has_metrics: config.host_metrics,
            ..Self::bare(&vmm::FULL)
        }
    }

    fn host_pmu(config: &Config) -> HostPmu {
        if config.host_metrics {
            vmm::host()
        } else {
            vmm::host_without_metrics()
        }
    }

    fn lapic(&mut self) -> &mut Lapic {
        &mut self.lapic
    }

    fn deny(&mut self, event: Option<u64>) {
        self.denied_event = event;
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
                self.counters[msr as usize - 0x309 + 32] = value & self.mask();
            }
            _ => return None,
        }
        Some(())
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

    fn set_user(&mut self, user: bool) {
        self.user = user;
    }

    fn vm_entry(&mut self) {
        self.global_ctrl = self.vmcs_global_ctrl;
        self.entry_status = self.status;
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
            if happens && enabled && enough && self.denied_event != Some(event) {
                interrupting |= self.count(n, selector & (1 << 20) != 0);
            }
        }
        if self.fixed > 0 && self.fixed_enabled(0) {
            interrupting |= self.count(32, self.fixed_interrupts(0));
        }
        self.lapic.interrupt(interrupting, self.entry_status);
    }

    fn writes(&self) -> u32 {
        self.writes
    }

    fn reads(&self) -> u32 {
        self.reads.get()
    }

    fn used_by_host(&mut self, noise: u64) {
        scramble(&mut self.counters, noise, 0xffff_ffff_ffff);
        // Not enabled.
        scramble(&mut self.selectors, noise, 0xffff);
        self.status = noise & self.global_valid();
        self.left = self.status;
        self.metrics = noise;
        self.claim = Claim::default();
    }

    fn assert_ready_to_switch(&self) {
        assert_eq!(self.global_ctrl, 0, "counters on before VM-entry");
    }

    fn assert_host_finds_it_clean(&self) {
        assert_eq!(self.global_ctrl, 0);
        assert_eq!(self.fixed_ctrl, 0, "a guest's FIXED_CTR_CTRL");
        assert_eq!(self.status & !self.left, 0, "a guest's status");
        for selector in self.selectors {
            assert_eq!(selector & (1 << 22), 0, "an enabled selector");
        }
    }
}

fn bit(counter: Counter) -> usize {
    match counter.kind() {
        Kind::Gp(n) => n as usize,
        Kind::Fixed(n) => 32 + n as usize,
    }
}

impl Hw for Machine {
    fn claim_counters(&mut self, claim: u64) -> u64 {
        self.claim.renew(claim)
    }

    fn counter(&self, counter: Counter) -> u64 {
        self.reads.set(self.reads.get() + 1);
        self.counters[bit(counter)]
    }

    fn set_counter(&mut self, counter: Counter, value: u64) {
        assert_eq!(value & !self.mask(), 0, "reserved bits of a counter");
        self.writes += 1;
        self.counters[bit(counter)] = value;
        self.metrics_void |= counter == Counter::SLOTS;
    }

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

    fn set_selector(&mut self, counter: Counter, selector: EventSelector) {
        assert_eq!(self.global_ctrl, 0, "a switch while counters are on");
        self.writes += 1;
        self.selectors[bit(counter)] = selector.bits();
    }

    fn set_fixed_ctrl(&mut self, ctrl: FixedCtrCtrl) {
        assert_eq!(self.global_ctrl, 0, "a switch while counters are on");
        self.writes += 1;
        self.fixed_ctrl = ctrl.bits();
    }

    fn status(&self) -> u64 {
        self.status
    }

    fn clear_status(&mut self, bits: u64) {
        self.writes += 1;
        self.status &= !bits;
    }

    fn set_status(&mut self, bits: u64) {
        let valid = self.global_valid() | (1 << 62);
        assert_eq!(bits & !valid, 0, "reserved bits of GLOBAL_STATUS_SET");
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
}
