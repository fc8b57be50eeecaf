// SPDX-License-Identifier: GPL-2.0

//! AMD's core performance counters with SVM, counting instructions and branches; and registers of
//! guests on such processors.

use super::{
    cpu::{scramble, Claims, Cpu, Intercepts, Lapic},
    registers::{read, write},
    vmm::{Deny, Vmm},
};
use crate::{
    amd::{
        counter_intercepts,
        entry::{self, Entry, EntryHw},
        Amd,
    },
    caps::{self, HostCounters, HostPmu, HostVendor},
    counter::{Counter, CounterSet, Kind, Width},
    guest::GuestPmu,
    in_place::{self, InPlaceHw, Written},
    intercepts::{Access, Passthrough},
    model::{CpuidLeaf, GuestConfig, Mode},
    msr::{EventSelector, Msr},
    park,
    pmi::{Lvtpc, Overflow},
    register::{Initiator, Register},
    retired::{
        kinds::{self, counted},
        Retired,
    },
    switch::{Claim, Hw},
    vendor::Vendor,
};
use std::cell::Cell;

const GUEST_ONLY: u64 = 1 << 40;
const HOST_ONLY: u64 = 1 << 41;
const ENABLE: u64 = 1 << 22;
/// Bits of a selector that exist.
const SELECTOR: u64 = 0x30f_ffd7_ffff;
const COUNTER: u64 = (1 << 48) - 1;
/// Bits of the status that say that LBRs or counters were frozen.
const FREEZE: u64 = (1 << 58) | (1 << 59);
/// Bits that no manual has.
const FOREIGN: u64 = (1 << 57) | (1 << 62);
/// Events that an instruction is: the second, if it is a branch.
const INSTRUCTION: &[u64] = &[0xc0, 0xc2];
/// Those of VMRUN, and of the host's way around it: taken and far branches, too.
const FAR_TRANSFER: &[u64] = &[0xc0, 0xc2, 0xc4, 0xc6];

/// What CPUID says of a PMU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Config {
    /// PerfMonV2.
    pub(super) v2: bool,
    /// PerfCtrExtCore.
    pub(super) core: bool,
    /// Counters in leaf 8000_0022H.
    pub(super) counters: u32,
    /// SVM.
    pub(super) svm: bool,
}

/// A guest that has everything.
pub(super) const FULL: Config = Config {
    v2: true,
    core: true,
    counters: 6,
    svm: true,
};

impl Config {
    fn number(&self) -> usize {
        match (self.v2, self.core) {
            (true, _) => self.counters.min(6) as usize,
            (false, true) => 6,
            (false, false) => 0,
        }
    }
}

impl GuestConfig for Config {
    fn cpuid(&self, leaf: u32) -> Option<CpuidLeaf> {
        let none = CpuidLeaf::default();
        match leaf {
            0x8000_0001 => Some(CpuidLeaf {
                ecx: (u32::from(self.core) << 23) | (u32::from(self.svm) << 2),
                ..none
            }),
            0x8000_0022 => Some(CpuidLeaf {
                eax: u32::from(self.v2),
                ebx: self.counters,
                ..none
            }),
            _ => None,
        }
    }

    fn perf_capabilities(&self) -> u64 {
        0
    }
}

/// A Genoa, but for the counters that are not a core's.
fn genoa() -> HostPmu {
    HostPmu {
        vendor: HostVendor::Amd,
        mediated: true,
        pmu_enabled: true,
        msr_bitmap: true,
        rdpmc_exiting: true,
        version: 2,
        counters: HostCounters::from_bits(0x3f),
        gp_width: Width::new(48),
        ..HostPmu::default()
    }
}

#[derive(Clone, Debug)]
pub(super) struct Machine {
    config: Config,
    denied: Deny,
    counters: [u64; 6],
    selectors: [u64; 6],
    global_ctrl: u64,
    status: u64,
    /// The guest runs, or would if this were not a bare machine, in user mode.
    user: bool,
    in_guest: bool,
    /// SVM is off: a counter with HostOnly or GuestOnly does not count.
    is_bare: bool,
    lapic: Lapic,
    /// Counters that exit.
    hidden: CounterSet,
    writes: u32,
    reads: Cell<u32>,
    /// RDMSRs and WRMSRs of the global registers.
    global: Cell<u32>,
    /// The status that the host has left behind.
    left: u64,
    intercepts: Intercepts,
    claims: Claims,
}

impl Machine {
    fn access_global(&self) {
        self.global.set(self.global.get() + 1);
    }

    fn valid(&self) -> u64 {
        (1 << self.config.number()) - 1
    }

    /// The counter at `msr`, and whether it is its selector.
    fn decode(&self, msr: u32) -> Option<(usize, bool)> {
        let (index, is_selector) = match msr {
            0xc001_0000..=0xc001_0003 => (msr & 3, true),
            0xc001_0004..=0xc001_0007 => (msr & 3, false),
            0xc001_0200..=0xc001_020f if self.config.core => ((msr & 0xf) / 2, msr & 1 == 0),
            _ => return None,
        };
        ((index as usize) < self.config.number()).then_some((index as usize, is_selector))
    }

    /// An instruction of the guest retires. A branch is never taken here.
    fn count(&mut self, branch: bool) {
        self.happens(&INSTRUCTION[..1 + branch as usize]);
    }

    /// `events` happen, in the world and mode that the processor is in.
    fn happens(&mut self, events: &[u64]) {
        let world = if self.in_guest { GUEST_ONLY } else { HOST_ONLY };
        let mode = 1 << if self.user && self.in_guest { 16 } else { 17 };
        let mut interrupting = 0;
        for n in 0..6 {
            let selector = self.selectors[n];
            let event = selector & 0xf_0000_00ff;
            let happens = events.contains(&event);
            let everywhere = selector & (GUEST_ONLY | HOST_ONLY) == 0;
            let here = everywhere || (!self.is_bare && selector & world != 0);
            let enabled = selector & ENABLE != 0 && selector & mode != 0;
            let enough = (selector >> 24) & 0xff <= 1;
            let counts = self.global_ctrl & (1 << n) != 0 && self.denied.event != Some(event);
            if !(happens && here && enabled && enough && counts) {
                continue;
            }
            self.counters[n] = (self.counters[n] + 1) & COUNTER;
            if self.counters[n] == 0 {
                self.status |= 1 << n;
                interrupting |= ((selector >> 20) & 1) << n;
            }
        }
        self.lapic.interrupt(interrupting);
    }
}

impl Cpu for Machine {
    type V = Amd;
    type Units = Entry;
    type Config = Config;

    const FULL: Config = FULL;
    const ENTRIES_COUNT: bool = true;
    const EVERYTHING: &'static [(u32, u64)] = &[
        (0xc001_0200, 0x53_00c0),
        (0xc001_0202, 0x53_00c0),
        (0xc001_0204, 0x53_00c2),
        (0xc001_0206, 0x30f_ff57_ff00),
        (0xc001_0207, 0x1234_5678_9abc),
        (0xc001_0201, COUNTER),
        (0xc000_0301, 0x3f),
    ];

    fn existing(_guest: &GuestPmu<Amd>, _register: Register, value: u64) -> u64 {
        value
    }

    fn bare(config: &Config) -> Self {
        Self {
            global_ctrl: (1 << config.number()) - 1,
            in_guest: true,
            is_bare: true,
            ..Self::host(config)
        }
    }

    fn host(config: &Config) -> Self {
        Self {
            config: *config,
            denied: Deny::NOTHING,
            counters: [0; 6],
            selectors: [0; 6],
            global_ctrl: 0,
            status: 0,
            user: false,
            in_guest: false,
            is_bare: false,
            lapic: Lapic::new(false),
            hidden: CounterSet::EMPTY,
            writes: 0,
            reads: Cell::new(0),
            global: Cell::new(0),
            left: 0,
            intercepts: Intercepts::default(),
            claims: Claims::default(),
        }
    }

    fn host_pmu(_config: &Config) -> HostPmu {
        genoa()
    }

    fn lapic(&mut self) -> &mut Lapic {
        &mut self.lapic
    }

    fn deny(&mut self, filter: Deny) {
        self.denied = filter;
    }

    fn rdmsr(&self, msr: u32) -> Option<u64> {
        if self.config.v2 {
            match msr {
                0xc000_0300 => return Some(self.status),
                0xc000_0301 => return Some(self.global_ctrl),
                0xc000_0302 | 0xc000_0303 => return Some(0),
                _ => {}
            }
        }
        let (index, is_selector) = self.decode(msr)?;
        Some(if is_selector {
            self.selectors[index]
        } else {
            self.counters[index]
        })
    }

    fn wrmsr(&mut self, msr: u32, value: u64) -> Option<()> {
        if self.config.v2 {
            let bits = value & self.valid();
            match msr {
                0xc000_0300 => return Some(()),
                0xc000_0301 => {
                    self.global_ctrl = bits;
                    return Some(());
                }
                0xc000_0302 => {
                    self.status &= !bits;
                    return Some(());
                }
                0xc000_0303 => {
                    self.status |= bits;
                    return Some(());
                }
                _ => {}
            }
        }
        let (index, is_selector) = self.decode(msr)?;
        if is_selector {
            let worlds = if self.is_bare && !self.config.svm {
                GUEST_ONLY | HOST_ONLY
            } else {
                0
            };
            self.selectors[index] = value & SELECTOR & !worlds;
        } else {
            self.counters[index] = value & COUNTER;
        }
        Some(())
    }

    fn rdpmc(&self, ecx: u32) -> Option<u64> {
        let exists = (ecx as usize) < self.config.number();
        exists.then(|| self.counters[ecx as usize])
    }

    fn is_hidden(&self, msr: u32) -> bool {
        let counter = match self.decode(msr) {
            Some((index, false)) => Counter::gp(index),
            _ => None,
        };
        counter.is_some_and(|counter| self.hidden.contains(counter))
    }

    fn hides_rdpmc(&self) -> bool {
        !self.hidden.is_empty()
    }

    fn intercepts(&mut self) -> &mut Intercepts {
        &mut self.intercepts
    }

    fn is_status(msr: u32) -> bool {
        [0xc000_0300, 0xc000_0302].contains(&msr)
    }

    fn set_user(&mut self, user: bool) {
        self.user = user;
    }

    /// A few instructions of the host, and VMRUN, which counts in the guest.
    fn vm_entry(&mut self) {
        self.happens(FAR_TRANSFER);
        assert!(self.lapic.pmis == 0, "an overflow in the host");
        self.in_guest = true;
        self.happens(FAR_TRANSFER);
        assert!(self.lapic.pmis == 0, "VMRUN overflows a counter");
    }

    /// It may be what overflows then.
    fn vm_reentry(&mut self) {
        self.happens(FAR_TRANSFER);
        self.in_guest = true;
        self.happens(FAR_TRANSFER);
    }

    fn write_in_place(
        &mut self,
        pmu: &mut GuestPmu<Amd>,
        register: Register,
        value: u64,
        filter: &Deny,
    ) -> Written {
        // WRMSR is for CPL 0.
        if self.user {
            return Written::No;
        }
        in_place::entered(pmu);
        entry::write_in_place(pmu, self, register, value, filter)
    }

    fn retire_in_place(&mut self, pmu: &mut GuestPmu<Amd>, user: bool) -> Option<bool> {
        in_place::entered(pmu);
        (!user).then(|| entry::retire(pmu, self, Retired::INSTRUCTION, || false))
    }

    fn park(&mut self, pmu: &mut GuestPmu<Amd>) -> Option<Overflow> {
        park::stop(pmu, self)
    }

    fn resume(&mut self, pmu: &mut GuestPmu<Amd>, lvtpc: Lvtpc) -> bool {
        park::resume(pmu, self, lvtpc).owed
    }

    fn retire_parked(&mut self, pmu: &mut GuestPmu<Amd>, what: Retired, user: bool) -> bool {
        entry::retire_parked(pmu, self, what, || user)
    }

    fn vm_exit(&mut self) {
        self.in_guest = false;
        self.happens(FAR_TRANSFER);
    }

    fn retire(&mut self, branch: bool) {
        self.count(branch);
    }

    fn complete(&mut self, branch: bool) {
        self.count(branch);
    }

    fn writes(&self) -> u32 {
        self.writes
    }

    fn reads(&self) -> u32 {
        self.reads.get()
    }

    fn evict(&mut self) -> Self {
        self.global_ctrl = 0;
        let evicted = self.clone();
        self.selectors = [0; 6];
        self.status &= FOREIGN;
        evicted
    }

    fn used_by_host(&mut self, noise: u64) {
        let used = self.claims.used_by_host(noise);
        scramble(&mut self.counters, used, noise, COUNTER);
        scramble(&mut self.selectors, used, noise, SELECTOR & !ENABLE);
        let foreign = if noise & 7 == 0 { FOREIGN } else { 0 };
        self.status = noise & (0x3f | FREEZE | foreign);
        self.left = self.status;
    }

    fn assert_ready_to_switch(&self, _pmu: &GuestPmu<Amd>) {
        assert!(!self.in_guest);
    }

    fn assert_host_finds_it_clean(&self) {
        assert_eq!(self.global_ctrl, 0);
        assert_eq!(self.status & !self.left, 0, "a guest's status");
        let foreign = self.left & FOREIGN;
        assert_eq!(self.status & FOREIGN, foreign, "a status of others");
        for selector in self.selectors {
            assert_eq!(selector & ENABLE, 0, "an enabled selector");
        }
    }
}

fn index(counter: Counter) -> usize {
    match counter.kind() {
        Kind::Gp(n) => n as usize,
        Kind::Fixed(_) => panic!("a fixed counter"),
    }
}

impl Hw for Machine {
    fn claim_counters(&mut self, number: u64) -> Claim {
        self.claims.renew(number)
    }

    fn counter(&self, counter: Counter) -> u64 {
        self.reads.set(self.reads.get() + 1);
        self.counters[index(counter)]
    }

    fn set_counter(&mut self, counter: Counter, value: u64) {
        assert_eq!(value & !COUNTER, 0, "reserved bits of a counter");
        self.writes += 1;
        self.counters[index(counter)] = value;
    }

    fn set_selector(&mut self, counter: Counter, selector: EventSelector) {
        let bits = selector.bits();
        assert!(!self.in_guest, "a switch while counters are on");
        assert!(bits == 0 || bits & (GUEST_ONLY | HOST_ONLY) == GUEST_ONLY);
        self.writes += 1;
        self.selectors[index(counter)] = bits;
    }

    fn status(&self) -> u64 {
        self.access_global();
        self.status
    }

    fn clear_status(&mut self, bits: u64) {
        assert_eq!(bits & FOREIGN, 0, "somebody else's status");
        self.access_global();
        self.writes += 1;
        self.status &= !bits;
    }

    fn set_status(&mut self, bits: u64) {
        self.access_global();
        self.writes += 1;
        self.status |= bits;
    }

    fn take_global_ctrl(&mut self) -> u64 {
        self.access_global();
        let ctrl = self.global_ctrl;
        self.drop_global_ctrl(ctrl);
        ctrl
    }

    fn drop_global_ctrl(&mut self, given: u64) {
        assert_eq!(given, self.global_ctrl);
        self.give_global_ctrl(0);
    }

    fn give_global_ctrl(&mut self, ctrl: u64) {
        if ctrl != self.global_ctrl {
            self.access_global();
        }
        self.global_ctrl = ctrl;
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
        self.access_global();
        self.global_ctrl
    }

    fn keep_global_ctrl(&mut self, ctrl: u64) {
        assert_eq!(ctrl, self.global_ctrl);
    }
}

impl EntryHw for Machine {
    fn in_user_mode(&self) -> bool {
        self.user
    }

    fn intercept_counters(&mut self, counters: CounterSet) {
        self.hidden = counters;
    }

    fn restore_intercepts(&mut self, counters: CounterSet, free: Passthrough, _mode: Mode) {
        assert_eq!(self.hidden, counters);
        assert_eq!(free.counters & counters, counters);
        self.hidden = CounterSet::EMPTY;
    }
}

fn guest(config: &Config) -> GuestPmu<Amd> {
    let mut pmu = GuestPmu::default();
    pmu.refresh(&genoa(), config);
    pmu
}

/// Every MSR that a guest with `config` has.
fn all_msrs(config: &Config) -> Vec<u32> {
    let pmu = guest(config);
    (0..0x2000)
        .chain(0xc000_0000..0xc000_2000)
        .chain(0xc001_0000..0xc001_2000)
        .filter(|msr| read(&pmu, *msr).is_some())
        .collect()
}

const LEGACY: core::ops::Range<u32> = 0xc001_0000..0xc001_0008;

#[test]
fn which_registers_a_guest_has_depends_on_cpuid() {
    let global = 0xc000_0300..0xc000_0304;
    let full: Vec<u32> = global
        .chain(LEGACY)
        .chain(0xc001_0200..0xc001_020c)
        .collect();
    assert_eq!(all_msrs(&FULL), full);

    let v1 = Config { v2: false, ..FULL };
    assert_eq!(all_msrs(&v1), full[4..]);

    let v2_alone = Config {
        core: false,
        ..FULL
    };
    assert_eq!(all_msrs(&v2_alone), full[..4 + 8]);

    let three = Config {
        counters: 3,
        ..FULL
    };
    assert_eq!(all_msrs(&three).len(), 4 + 6 + 6);
    assert_eq!(read(&guest(&three), 0xc001_0003), None);
    // It is the PMU's all the same, and faults.
    assert!(guest(&three).is_valid(Msr::new(0xc001_0003)));
    assert!(!guest(&three).is_valid(Msr::new(0xc001_0206)));
}

#[test]
fn reserved_bits_and_writes_of_the_status_do_nothing() {
    for by in [Initiator::Guest, Initiator::Host] {
        let mut pmu = guest(&FULL);
        for (msr, valid) in [
            (0xc001_0200, SELECTOR),
            (0xc001_0001, SELECTOR),
            (0xc001_0201, COUNTER),
            (0xc001_0005, COUNTER),
            (0xc000_0301, 0x3f),
        ] {
            assert_eq!(write(&mut pmu, msr, u64::MAX, by), Ok(()), "{msr:#x}");
            assert_eq!(read(&pmu, msr), Some(valid), "{msr:#x}");
        }
    }
    let mut pmu = guest(&FULL);
    assert_eq!(write(&mut pmu, 0xc000_0300, 5, Initiator::Guest), Ok(()));
    assert_eq!(read(&pmu, 0xc000_0300), Some(0));
    assert_eq!(write(&mut pmu, 0xc000_0300, 5, Initiator::Host), Ok(()));
    for msr in [0xc000_0302, 0xc000_0303] {
        assert_eq!(write(&mut pmu, msr, 2 + 4, Initiator::Host), Ok(()));
        assert_eq!(read(&pmu, 0xc000_0300), Some(5), "{msr:#x}");
    }
    assert!(write(&mut pmu, 0xc000_0300, 0x40, Initiator::Host).is_err());
    assert_eq!(write(&mut pmu, 0xc000_0302, !4, Initiator::Guest), Ok(()));
    assert_eq!(read(&pmu, 0xc000_0300), Some(4));
    assert_eq!(write(&mut pmu, 0xc000_0303, !4, Initiator::Guest), Ok(()));
    assert_eq!(read(&pmu, 0xc000_0300), Some(0x3f));
}

#[test]
fn hardware_gets_guest_only_whatever_the_guest_wants() {
    let counter = Counter::gp(0).unwrap();
    for world in [0, GUEST_ONLY, HOST_ONLY, GUEST_ONLY | HOST_ONLY] {
        let mut pmu = guest(&FULL);
        let written = 0xf_0053_01c0 | world;
        assert_eq!(
            write(&mut pmu, 0xc001_0200, written, Initiator::Guest),
            Ok(())
        );
        assert_eq!(read(&pmu, 0xc001_0200), Some(written));
        assert_eq!(read(&pmu, 0xc001_0000), Some(written));
        assert_eq!(
            pmu.counters.hw_selector(counter).bits(),
            0xf_0053_01c0 | GUEST_ONLY
        );
    }
}

/// Does a counter with the bits `world` count in `mode`? It must not differ in hardware and in what
/// KVM emulates.
fn counts(pmu: &mut GuestPmu<Amd>, mode: Mode) -> bool {
    let counter = Counter::gp(0).unwrap();
    pmu.change_mode(mode);
    let before = pmu.counter(counter);
    assert!(!pmu.retire(Retired::INSTRUCTION, || false));
    let counted = pmu.counter(counter) != before;
    assert_eq!(pmu.counters.active.contains(counter), counted);
    let instructions = pmu.counters.emulated.instructions();
    assert_eq!(instructions.contains(counter), counted);
    counted
}

#[test]
fn where_a_guest_counts_is_told_by_efer_and_its_two_bits() {
    let mode = |svme, l2| Mode { svme, l2 };
    let modes = [mode(false, false), mode(true, false), mode(true, true)];
    let table = [
        (0, [true, true, true]),
        (GUEST_ONLY, [false, false, true]),
        (HOST_ONLY, [false, true, false]),
        (GUEST_ONLY | HOST_ONLY, [false, true, true]),
    ];
    for (world, expected) in table {
        let mut pmu = guest(&FULL);
        let written = 0x53_00c0 | world;
        write(&mut pmu, 0xc000_0301, 1, Initiator::Guest).unwrap();
        write(&mut pmu, 0xc001_0200, written, Initiator::Guest).unwrap();
        // There and back again.
        for n in [0, 1, 2, 1, 0, 2] {
            assert_eq!(counts(&mut pmu, modes[n]), expected[n], "{world:#x} {n}");
            assert_eq!(read(&pmu, 0xc001_0200), Some(written));
        }
        // Of a selector that is written where it does not count, or does, and of a new PMU.
        for n in 0..3 {
            pmu.change_mode(modes[n]);
            pmu.refresh(&genoa(), &FULL);
            write(&mut pmu, 0xc000_0301, 1, Initiator::Guest).unwrap();
            write(&mut pmu, 0xc001_0200, written, Initiator::Guest).unwrap();
            assert_eq!(
                !pmu.counters.active.is_empty(),
                expected[n],
                "{world:#x} {n}"
            );
            assert_eq!(counts(&mut pmu, modes[n]), expected[n], "{world:#x} {n}");
        }
    }
}

/// KVM's ABI.
#[test]
fn without_svm_there_are_no_worlds_to_choose_from() {
    let without = Config { svm: false, ..FULL };
    for world in [GUEST_ONLY, HOST_ONLY, GUEST_ONLY | HOST_ONLY] {
        for by in [Initiator::Guest, Initiator::Host] {
            let mut pmu = guest(&without);
            write(&mut pmu, 0xc000_0301, 1, by).unwrap();
            write(&mut pmu, 0xc001_0200, 0x53_00c0 | world, by).unwrap();
            assert_eq!(read(&pmu, 0xc001_0200), Some(0x53_00c0));
            let counter = Counter::gp(0).unwrap();
            let hardware = pmu.counters.hw_selector(counter).bits();
            assert_eq!(hardware, 0x53_00c0 | GUEST_ONLY);
            assert!(counts(&mut pmu, Mode::default()));
        }
    }
}

#[test]
fn which_emulated_branches_an_event_counts() {
    let all: Vec<_> = kinds::ALL.iter().map(|(name, _)| *name).collect();
    let taken = &all[2..];
    // The APM's and the PPR's names: EX_RET_INSTR, _BRN, _BRN_TKN, _BRN_FAR, _NEAR_RET,
    // _IND_BRCH_INSTR, _COND.
    let table: [(u64, &[&str]); 8] = [
        (0xc0, &all),
        (0xc2, &all[1..]),
        (0xc4, taken),
        (0xc6, &["IRET"]),
        (0xc8, &["RET"]),
        (0xcc, &["JMP, indirect", "CALL, indirect"]),
        (0xd1, &["Jcc, not taken", "Jcc, taken"]),
        (0xc3, &[]),
    ];
    for (event, expected) in table {
        for unit_mask in [0, 0xff] {
            let counts = counted(|what| {
                let mut pmu = guest(&FULL);
                write(&mut pmu, 0xc000_0301, 1, Initiator::Guest).unwrap();
                let selector = 0x53_0000 | (unit_mask << 8) | event;
                write(&mut pmu, 0xc001_0200, selector, Initiator::Guest).unwrap();
                assert!(!pmu.retire(what, || false));
                pmu.counter(Counter::gp(0).unwrap()) == 1
            });
            assert_eq!(counts, expected, "{event:#x}");
        }
    }
}

#[test]
fn a_filtered_or_disabled_event_reaches_hardware_not_even_as_guest_only() {
    let mut pmu = guest(&FULL);
    let register = pmu.register(Msr::new(0xc001_0200)).unwrap();
    for (value, filter) in [(0x13_00c0, Deny::NOTHING), (0x53_00c0, Deny::event(0xc0))] {
        let written = pmu.write(register, value, Initiator::Guest, &filter);
        assert_eq!(written, Ok(()));
        assert!(pmu.counters.active.is_empty());
        assert_eq!(pmu.counters.hw_selector(Counter::gp(0).unwrap()).bits(), 0);
    }
}

#[test]
fn what_is_free_depends_on_host_and_guest() {
    let free = |host: &HostPmu, config: Config| {
        let model = Amd::model(host, &config);
        let table: Vec<_> = Amd::intercepts(model.passthrough).collect();
        let of = |free: Access| -> Vec<u32> {
            let rows = table.iter().filter(|(_, row)| *row == free);
            rows.map(|(msr, _)| msr.address()).collect()
        };
        let reads_only = of(Access::all_if(true).without_writes());
        let mut both = of(Access::all_if(true));
        both.sort_unstable();
        (model.passthrough.rdpmc, reads_only, both)
    };
    let legacy = 0xc001_0004..0xc001_0008;
    let core = |n: u32| (0..n).map(|n| 0xc001_0201 + 2 * n);
    let global = 0xc000_0301..0xc000_0303;

    let all: Vec<u32> = global.chain(legacy.clone()).chain(core(6)).collect();
    assert_eq!(free(&genoa(), FULL), (true, vec![0xc000_0300], all.clone()));

    let real = HostPmu {
        rdpmc_beyond_core: true,
        ..genoa()
    };
    assert_eq!(free(&real, FULL), (false, vec![0xc000_0300], all));

    let five = legacy.clone().chain(core(5)).collect();
    let config = Config {
        counters: 5,
        ..FULL
    };
    assert_eq!(free(&genoa(), config), (false, vec![], five));

    let v1 = Config { v2: false, ..FULL };
    let six = legacy.clone().chain(core(6)).collect();
    assert_eq!(free(&genoa(), v1), (true, vec![], six));

    let oldest = Config { core: false, ..v1 };
    assert_eq!(free(&genoa(), oldest), (false, vec![], vec![]));
}

/// KVM's own vPMU serves it.
#[test]
fn a_guest_without_a_sign_of_the_core_counters_has_no_mediated_pmu() {
    let legacy = Config {
        v2: false,
        core: false,
        ..FULL
    };
    let pmu = guest(&legacy);
    assert!(!pmu.model().exists());
    assert_eq!(pmu.passthrough(), Passthrough::default());
    assert_eq!(all_msrs(&legacy), []);
    for msr in LEGACY {
        assert!(!pmu.is_valid(Msr::new(msr)));
    }
    assert_eq!(pmu.rdpmc(0), None);
}

#[test]
fn every_register_is_intercepted_or_not_once() {
    let mut msrs: Vec<u32> = Amd::intercepts(Default::default())
        .map(|(msr, _)| msr.address())
        .collect();
    msrs.sort_unstable();
    assert_eq!(msrs, all_msrs(&FULL));
}

#[test]
fn each_counter_has_its_addresses() {
    let addresses = |index| -> Vec<u32> {
        let counters = CounterSet::from_bits(1u64 << index);
        counter_intercepts(counters, Passthrough::default())
            .map(|(msr, _)| msr.address())
            .collect()
    };
    assert_eq!(addresses(0), [0xc001_0004, 0xc001_0201]);
    assert_eq!(addresses(3), [0xc001_0007, 0xc001_0207]);
    assert_eq!(addresses(4), [0xc001_0209]);
    assert_eq!(addresses(32), []);
}

#[test]
fn rdpmc_goes_by_number() {
    let pmu = guest(&Config {
        counters: 5,
        ..FULL
    });
    for ecx in 0..5 {
        assert!(pmu.rdpmc(ecx).is_some());
    }
    for ecx in [5, 6, 9, 10, 15, 0x4000_0000, 0x8000_0000, u32::MAX] {
        assert!(pmu.rdpmc(ecx).is_none(), "{ecx:#x}");
    }
}

#[test]
fn requirements() {
    let lacking = |host: HostPmu| {
        caps::check(&host, Amd::REQUIREMENTS)
            .map_err(|m| m.to_string())
            .err()
    };
    assert_eq!(lacking(genoa()), None);

    let mut zen3 = genoa();
    zen3.mediated = false;
    zen3.version = 1;
    assert_eq!(
        lacking(zen3).as_deref(),
        Some("perf's mediated PMU support (CONFIG_PERF_GUEST_MEDIATED_PMU), PerfMonV2")
    );
    let mut fewer = genoa();
    fewer.counters = HostCounters::from_bits(0xf);
    assert_eq!(
        lacking(fewer).as_deref(),
        Some("six core performance counters")
    );
}

#[test]
fn save_and_restore_is_an_identity() {
    let mut pmu = guest(&FULL);
    for (n, msr) in (0..).zip(0xc001_0200..0xc001_020c) {
        let value = 0x303_0053_00c0u64.rotate_left(n);
        assert_eq!(write(&mut pmu, msr, value, Initiator::Guest), Ok(()));
    }
    write(&mut pmu, 0xc000_0300, 0x15, Initiator::Host).unwrap();
    write(&mut pmu, 0xc000_0301, 0x2a, Initiator::Host).unwrap();

    let mut fresh = guest(&FULL);
    for msr in all_msrs(&FULL) {
        let saved = read(&pmu, msr).unwrap();
        assert_eq!(write(&mut fresh, msr, saved, Initiator::Host), Ok(()));
    }
    for msr in all_msrs(&FULL) {
        assert_eq!(read(&fresh, msr), read(&pmu, msr), "{msr:#x}");
    }
    assert_eq!(fresh.counters.active, pmu.counters.active);
}

/// RDMSRs and WRMSRs of the global registers in an exit of a guest with `config`, which has written
/// `value` to its first selector, and 0 to its global control if it has one.
fn global_accesses_of_an_exit(config: Config, value: u64) -> u32 {
    let mut vmm = Vmm::<Machine>::new(&config, Deny::NOTHING);
    vmm.stay_awake();
    vmm.keep_nothing();
    let _ = vmm.wrmsr(0xc000_0301, 0);
    vmm.wrmsr(0xc001_0200, value).unwrap();
    vmm.host_uses_pmu(0x3f);
    let before = vmm.cpu().global.get();
    vmm.exit(|_| {});
    vmm.cpu().global.get() - before
}

#[test]
fn global_registers_are_left_alone_where_nobody_can_tell() {
    let v1 = Config { v2: false, ..FULL };
    let five = Config {
        counters: 5,
        ..FULL
    };
    let counting = 0x53_00c0;
    // The global control where the guest could have written it, and the status of what counts.
    assert_eq!(global_accesses_of_an_exit(FULL, 0), 1);
    assert_eq!(global_accesses_of_an_exit(FULL, counting), 2);
    assert_eq!(global_accesses_of_an_exit(v1, 0), 0);
    assert_eq!(global_accesses_of_an_exit(five, 0), 0);
    // The status, the global control on and off.
    assert_eq!(global_accesses_of_an_exit(v1, counting), 3);
    assert_eq!(global_accesses_of_an_exit(five, counting), 1);
}
