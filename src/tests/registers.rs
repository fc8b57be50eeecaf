// SPDX-License-Identifier: GPL-2.0

//! Registers beyond what a bare machine of version 2 can tell: RESET, version 1, no PMU, user
//! space's accesses, and the table of intercepts.

use super::{
    random,
    vmm::{host, host_without_metrics, Config, Deny, FULL},
};
use crate::{
    caps::{self, HostCounters, HostPmu},
    counter::{Counter, CounterSet},
    filter::AllowAll,
    guest::GuestPmu,
    intel::Intel,
    intercepts::{Access, Passthrough},
    model::{CpuidLeaf, GuestConfig},
    msr::{EventSelector, Msr},
    register::{GeneralProtection, Initiator},
    retired::{
        kinds::{self, counted},
        Retired,
    },
    vendor::Vendor,
};
use proptest::prelude::*;

fn guest(config: &impl GuestConfig) -> GuestPmu<Intel> {
    guest_of(&host(), config)
}

fn guest_of(host: &HostPmu, config: &impl GuestConfig) -> GuestPmu<Intel> {
    let mut pmu = GuestPmu::default();
    pmu.refresh(host, config);
    pmu
}

/// The same when something could count.
fn awake(mut pmu: GuestPmu<Intel>) -> GuestPmu<Intel> {
    pmu.rest.written(true);
    pmu
}

/// Has the guest IA32_PERF_METRICS?
fn has_metrics(pmu: &GuestPmu<Intel>) -> bool {
    read(pmu, 0x329).is_some()
}

/// What the guest reads of this MSR, if it has it.
pub(super) fn read<V: Vendor>(pmu: &GuestPmu<V>, msr: u32) -> Option<u64> {
    pmu.register(Msr::new(msr)).map(|r| pmu.read(r))
}

/// Writes to this MSR, which no filter keeps the guest from.
pub(super) fn write<V: Vendor>(
    pmu: &mut GuestPmu<V>,
    msr: u32,
    value: u64,
    by: Initiator,
) -> Result<(), GeneralProtection> {
    let register = pmu.register(Msr::new(msr)).ok_or(GeneralProtection)?;
    let written = pmu.write(register, value, by, &AllowAll);
    // The guest goes on.
    pmu.wrmsr = None;
    written
}

/// Every MSR that a full guest has.
fn all_msrs() -> Vec<u32> {
    (0..0x2000)
        .filter(|msr| read(&guest(&FULL), *msr).is_some())
        .collect()
}

#[test]
fn a_full_guest_has_these_registers_and_no_others() {
    let mut expected: Vec<u32> = (0xc1..0xc9).collect();
    expected.extend(0x186..0x18e);
    expected.extend(0x309..0x30d);
    expected.push(0x329);
    expected.extend(0x38d..0x391);
    expected.extend(0x4c1..0x4c9);
    assert_eq!(all_msrs(), expected);
}

#[test]
fn reset_state() {
    let pmu = guest(&FULL);
    for msr in all_msrs() {
        let expected = if msr == 0x38f { 0xff } else { 0 };
        assert_eq!(read(&pmu, msr), Some(expected), "{msr:#x}");
    }
}

#[test]
fn no_general_purpose_counter_means_no_global_enable() {
    let pmu = guest(&Config { gp: 0, ..FULL });
    assert_eq!(read(&pmu, 0x38f), Some(0));
}

#[test]
fn a_version_1_guest_has_neither_global_registers_nor_fixed_counters() {
    let mut pmu = guest(&Config { version: 1, ..FULL });
    for msr in (0x309..0x30d).chain([0x329]).chain(0x38d..0x393) {
        assert_eq!(read(&pmu, msr), None, "{msr:#x}");
    }
    assert_eq!(pmu.counters.globally_enabled(), CounterSet::first(8, 0));
    assert_eq!(write(&mut pmu, 0xc1, 0xdead, Initiator::Guest), Ok(()));
    assert_eq!(read(&pmu, 0x4c1), Some(0xdead));
    assert_eq!(pmu.rdpmc(0x4000_0000), None);
    assert!(!pmu.model().passthrough.rdpmc && !pmu.model().passthrough.global_ctrl);
}

#[test]
fn later_versions_are_version_2() {
    let pmu = guest(&Config { version: 5, ..FULL });
    assert_eq!(pmu.model().version, 2);
    for msr in [0x391, 0x392] {
        assert_eq!(read(&pmu, msr), None, "{msr:#x}");
    }
}

/// User space hides the PMU, by leaving out the leaf.
struct NoLeaf;

impl GuestConfig for NoLeaf {
    fn cpuid(&self, _leaf: u32) -> Option<CpuidLeaf> {
        None
    }

    fn perf_capabilities(&self) -> u64 {
        u64::MAX
    }
}

#[test]
fn without_a_pmu_there_is_nothing() {
    let no_version = guest(&Config { version: 0, ..FULL });
    for pmu in [guest(&NoLeaf), no_version] {
        assert!(!pmu.model().exists());
        assert_eq!(pmu.model().passthrough, Passthrough::default());
        for msr in all_msrs() {
            assert_eq!(read(&pmu, msr), None, "{msr:#x}");
        }
        for ecx in [0, 0x4000_0000, 0x8000_0000] {
            assert_eq!(pmu.rdpmc(ecx), None);
        }
    }
}

#[test]
fn reserved_bits_fault_and_change_nothing() {
    let mut pmu = guest(&FULL);
    let valid = [
        (0x186, 0xffdf_ffffu64),
        (0x4c1, 0xffff_ffff_ffff),
        (0x329, u64::MAX),
        (0x38d, 0xbbbb),
        (0x38f, 0x1_000f_0000_00ff),
        (0x390, 0xc001_000f_0000_00ff),
    ];
    for (msr, valid) in valid {
        for by in [Initiator::Guest, Initiator::Host] {
            let before = read(&pmu, msr);
            for bit in (0..64).filter(|bit| valid & (1 << bit) == 0) {
                let written = write(&mut pmu, msr, 1 << bit, by);
                assert_eq!(written, Err(GeneralProtection), "{msr:#x} bit {bit}");
            }
            assert_eq!(read(&pmu, msr), before);
            assert_eq!(write(&mut pmu, msr, valid, by), Ok(()), "{msr:#x}");
        }
    }
}

#[test]
fn the_status_is_read_only_for_the_guest() {
    let mut pmu = guest(&FULL);
    assert_eq!(
        write(&mut pmu, 0x38e, 0, Initiator::Guest),
        Err(GeneralProtection)
    );
    assert_eq!(write(&mut pmu, 0x38e, 3, Initiator::Host), Ok(()));
    // What user space restores must not clear it, what the guest writes does.
    assert_eq!(write(&mut pmu, 0x390, 1, Initiator::Host), Ok(()));
    assert_eq!(read(&pmu, 0x38e), Some(3));
    assert_eq!(write(&mut pmu, 0x390, 1, Initiator::Guest), Ok(()));
    assert_eq!(read(&pmu, 0x38e), Some(2));
    assert_eq!(
        write(&mut pmu, 0x38e, 1 << 8, Initiator::Host),
        Err(GeneralProtection)
    );
}

#[test]
fn legacy_writes_are_sign_extended_for_the_guest_only() {
    let mut pmu = guest(&FULL);
    assert_eq!(
        write(&mut pmu, 0xc1, 0x1234_8000_0000, Initiator::Guest),
        Ok(())
    );
    assert_eq!(read(&pmu, 0xc1), Some(0xffff_8000_0000));
    assert_eq!(
        write(&mut pmu, 0xc1, 0x1234_8000_0000, Initiator::Host),
        Ok(())
    );
    assert_eq!(read(&pmu, 0xc1), Some(0x1234_8000_0000));
}

/// A host, and a guest of it, with transactions.
struct Transactions;

impl GuestConfig for Transactions {
    fn cpuid(&self, leaf: u32) -> Option<CpuidLeaf> {
        if leaf == 7 {
            return Some(CpuidLeaf {
                ebx: 1 << 11,
                ..CpuidLeaf::default()
            });
        }
        FULL.cpuid(leaf)
    }

    fn perf_capabilities(&self) -> u64 {
        FULL.perf_capabilities()
    }
}

#[test]
fn selectors_have_transaction_bits_where_both_sides_have_transactions() {
    let mut capable = host();
    capable.transactions = true;

    let mut pmu = guest_of(&capable, &Transactions);
    let by = Initiator::Guest;
    assert_eq!(write(&mut pmu, 0x186, EventSelector::IN_TX, by), Ok(()));
    assert_eq!(write(&mut pmu, 0x188, EventSelector::IN_TXCP, by), Ok(()));
    assert_eq!(
        write(&mut pmu, 0x187, EventSelector::IN_TXCP, by),
        Err(GeneralProtection)
    );

    for (host, config) in [(host(), true), (capable, false)] {
        let model = if config {
            Intel::model(&host, &Transactions)
        } else {
            Intel::model(&host, &FULL)
        };
        assert_eq!(model.selector_valid, 0xffdf_ffff);
        assert_eq!(model.selector2_valid, 0);
    }
}

#[test]
fn what_is_free_depends_on_the_whole_configuration() {
    let free = |config: Config| awake(guest(&config)).passthrough();
    let full = free(FULL);
    assert!(full.rdpmc && full.global_ctrl && full.full_width);
    assert_eq!(full.counters, CounterSet::first(8, 4));

    for fewer in [Config { gp: 7, ..FULL }, Config { fixed: 3, ..FULL }] {
        let free = free(fewer);
        assert!(!free.rdpmc && !free.global_ctrl);
        let own = CounterSet::first(fewer.gp as usize, fewer.fixed as usize);
        assert_eq!(free.counters, own);
        assert_eq!(has_metrics(&guest(&fewer)), fewer.fixed == 4);
    }

    let narrow = free(Config { width: 40, ..FULL });
    assert!(!narrow.rdpmc && !narrow.global_ctrl);
    assert_eq!(narrow.counters, CounterSet::EMPTY);

    let legacy = free(Config {
        full_width: false,
        ..FULL
    });
    assert!(legacy.rdpmc && legacy.global_ctrl && !legacy.full_width);
}

/// A host with the counters of `mask`, and the guest that has all it is offered there.
fn host_with(mask: u64) -> (HostPmu, Config) {
    let host = HostPmu {
        counters: HostCounters::from_bits(mask),
        ..host()
    };
    let offer = Intel::offer(&host);
    let config = Config {
        gp: offer.gp,
        fixed: offer.fixed,
        ..FULL
    };
    (host, config)
}

#[test]
fn guests_have_the_counters_before_the_first_gap() {
    let table = [
        (0xf_0000_00ff, (8, 4), true),
        (0x7_0000_00ff, (8, 3), true),
        (0x77_0000_00ff, (8, 3), false),
        (0xf_0000_03ff, (8, 4), false),
        (0xffff_0000_00ff, (8, 4), false),
        (0xf_0000_003f, (6, 4), true),
        (0xf_0000_00bf, (6, 4), false),
        (0xe_0000_00ff, (8, 0), false),
    ];
    for (mask, (gp, fixed), whole) in table {
        let (host, config) = host_with(mask);
        assert_eq!((config.gp, config.fixed), (gp, fixed), "{mask:#x}");
        // A guest that is told of more gets no more.
        for config in [config, FULL] {
            let pmu = awake(guest_of(&host, &config));
            let counters = CounterSet::first(gp as usize, fixed as usize);
            assert_eq!(pmu.model().counters, counters, "{mask:#x}");
            assert_eq!(counters.bits() & !mask, 0, "{mask:#x}");
            let free = pmu.passthrough();
            assert_eq!((free.rdpmc, free.global_ctrl), (whole, whole), "{mask:#x}");
            assert_eq!(free.counters, counters, "{mask:#x}");
        }
    }
}

#[test]
fn a_guest_without_the_hosts_metrics_is_free_all_the_same() {
    let without = Config {
        metrics: false,
        ..FULL
    };
    let pmu = awake(guest(&without));
    assert!(!has_metrics(&pmu));
    assert!(pmu.passthrough().rdpmc && pmu.passthrough().global_ctrl);
    let metrics = Msr::new(0x329);
    assert!(pmu.intercepts().any(|row| row == (metrics, Access::NONE)));
}

#[test]
fn a_guest_has_metrics_if_it_has_slots_and_the_host_has_both() {
    let has = |host: HostPmu, config: Config| {
        let mut pmu = awake(guest_of(&host, &config));
        let global_ctrl = write(&mut pmu, 0x38f, 1 << 48, Initiator::Guest).is_ok();
        let status = write(&mut pmu, 0x390, 1 << 48, Initiator::Guest).is_ok();
        let rdpmc = pmu.rdpmc(0x2000_0000).is_some();
        let msr = read(&pmu, 0x329).is_some();
        let mut intercepts = pmu.intercepts();
        let free = intercepts.any(|row| row == (Msr::new(0x329), Access::all_if(true)));
        assert_eq!([global_ctrl, status, rdpmc, free], [msr; 4]);
        msr
    };
    let hidden = Config {
        metrics: false,
        ..FULL
    };
    let no_slots = Config { fixed: 3, ..FULL };
    let version_1 = Config { version: 1, ..FULL };
    assert!(has(host(), FULL));
    assert!(!has(host(), hidden) && !has(host(), no_slots));
    assert!(!has(host_without_metrics(), FULL));

    let mut pmu = guest(&version_1);
    assert_eq!(read(&pmu, 0x329), None);
    assert!(write(&mut pmu, 0x329, 0, Initiator::Host).is_err());

    // Where the host has none, guests lack nothing of what hardware would let them do.
    let free = awake(guest_of(&host_without_metrics(), &hidden)).passthrough();
    assert!(free.rdpmc && free.global_ctrl);
}

#[test]
fn guests_are_offered_all_counters_of_the_host() {
    let offer = Intel::offer(&host());
    assert_eq!((offer.version, offer.gp, offer.fixed), (2, 8, 4));
    assert_eq!(offer.perf_capabilities, (1 << 13) | (1 << 15));
    let offer = Intel::offer(&host_without_metrics());
    assert_eq!(offer.perf_capabilities, 1 << 13);
}

#[test]
fn requirements() {
    let lacking = |host: HostPmu| {
        caps::check(&host, Intel::REQUIREMENTS)
            .map_err(|m| m.to_string())
            .err()
    };
    assert_eq!(lacking(host()), None);

    let mut old = host();
    old.version = 3;
    old.exit_save_global_ctrl = false;
    assert_eq!(
        lacking(old).as_deref(),
        Some(
            "architectural performance monitoring version 4, \
             VM-exit save of IA32_PERF_GLOBAL_CTRL"
        )
    );
}

#[test]
fn each_requirement_is_named_when_it_is_missing() {
    type Spoil = fn(&mut HostPmu);
    let spoils: [(Spoil, &str); 9] = [
        (|h| h.pmu_enabled = false, "KVM's PMU support"),
        (|h| h.mediated = false, "perf's mediated PMU support"),
        (|h| h.version = 3, "performance monitoring version 4"),
        (|h| h.perf_capabilities = 0, "full-width counter writes"),
        (|h| h.entry_load_global_ctrl = false, "VM-entry load"),
        (|h| h.exit_load_global_ctrl = false, "VM-exit load"),
        (|h| h.exit_save_global_ctrl = false, "VM-exit save"),
        (|h| h.msr_bitmap = false, "MSR bitmaps"),
        (|h| h.rdpmc_exiting = false, "RDPMC exiting"),
    ];
    assert_eq!(spoils.len(), Intel::REQUIREMENTS.len());
    for (spoil, name) in spoils {
        let mut host = host();
        spoil(&mut host);
        let missing = caps::check(&host, Intel::REQUIREMENTS).map_err(|m| m.to_string());
        let missing = missing.expect_err(name);
        assert!(missing.contains(name), "{missing}, expected {name}");
        let alone = Intel::REQUIREMENTS.iter().any(|r| r.name == missing);
        assert!(alone, "{missing}, expected {name} only");
    }
}

fn program(pmu: &mut GuestPmu<Intel>, selector: u64) {
    assert_eq!(write(pmu, 0x186, selector, Initiator::Guest), Ok(()));
}

fn emulate_one(selector: u64) -> u64 {
    let mut pmu = guest(&FULL);
    program(&mut pmu, selector);
    assert!(!pmu.retire(Retired::INSTRUCTION, || false));
    pmu.counter(Counter::gp(0).unwrap())
}

#[test]
fn which_selectors_count_an_emulated_instruction() {
    let kernel = 0x42_00c0; // EN, OS, INST_RETIRED.ANY_P
    let counts = [
        (kernel, 1),
        (kernel | EventSelector::EDGE, 1),
        (kernel | EventSelector::INV, 1),
        (kernel | (1 << 24), 1),
        (kernel | (1 << 24) | EventSelector::INV, 0),
        (kernel | (2 << 24), 0),
        (kernel | (2 << 24) | EventSelector::INV, 0),
        (kernel & !EventSelector::EN, 0),
        (kernel & !EventSelector::OS, 0),
        ((kernel & !EventSelector::OS) | EventSelector::USR, 0),
        (kernel | EventSelector::USR, 1),
        (kernel + 4, 0),      // branches
        (kernel | 0x0100, 0), // another unit mask
    ];
    for (selector, count) in counts {
        assert_eq!(emulate_one(selector), count, "{selector:#x}");
    }
}

/// Kinds of instructions that a counter with `selector` counts when they are emulated.
fn emulated_as(selector: u64) -> Vec<&'static str> {
    counted(|what| {
        let mut pmu = guest(&FULL);
        program(&mut pmu, selector);
        assert!(!pmu.retire(what, || false));
        pmu.counter(Counter::gp(0).unwrap()) == 1
    })
}

#[test]
fn which_emulated_branches_an_event_counts() {
    let conditional = ["Jcc, not taken", "Jcc, taken"];
    let near_taken = [
        "Jcc, taken",
        "JMP",
        "JMP, indirect",
        "CALL",
        "CALL, indirect",
        "RET",
    ];
    let all: Vec<_> = kinds::ALL[1..].iter().map(|(name, _)| *name).collect();
    // SDM and Intel's event lists: BR_INST_RETIRED.
    let table: [(u64, &[&str]); 11] = [
        (0x00, &all),
        (0x01, &["Jcc, taken"]),
        (0x02, &["CALL", "CALL, indirect"]),
        (0x08, &["RET"]),
        (0x10, &["Jcc, not taken"]),
        (0x11, &conditional),
        (0x20, &near_taken),
        (0x40, &["IRET"]),
        (0x80, &["JMP, indirect", "CALL, indirect"]),
        (0x04, &[]),
        (0x03, &[]),
    ];
    for (mask, expected) in table {
        assert_eq!(emulated_as(0x42_00c4 | (mask << 8)), expected, "{mask:#x}");
    }
    assert_eq!(emulated_as(0x42_00c0).len(), kinds::ALL.len());
}

/// KVM tells of an emulated branch in two parts.
#[test]
fn what_comes_in_parts_is_counted_once() {
    for (event, count) in [(0x00c0, 1), (0x00c4, 1), (0x20c4, 0)] {
        let mut pmu = guest(&FULL);
        program(&mut pmu, 0x42_0000 | event);
        assert!(!pmu.retire(Retired::INSTRUCTION, || false));
        assert!(!pmu.retire(Retired::BRANCH, || false));
        assert_eq!(pmu.counter(Counter::gp(0).unwrap()), count, "{event:#x}");
    }
}

#[test]
fn the_privilege_is_asked_only_if_it_matters() {
    let mut pmu = guest(&FULL);
    program(&mut pmu, 0x43_00c0);
    assert!(!pmu.retire(Retired::INSTRUCTION, || unreachable!()));
    assert_eq!(pmu.counter(Counter::gp(0).unwrap()), 1);
}

#[test]
fn what_can_interrupt_is_known() {
    let mut pmu = guest(&Config {
        metrics: false,
        ..FULL
    });
    let can_interrupt_after = |pmu: &mut GuestPmu<Intel>, msr, value| {
        assert_eq!(write(pmu, msr, value, Initiator::Guest), Ok(()));
        pmu.can_interrupt()
    };
    assert!(!pmu.can_interrupt());
    assert!(!can_interrupt_after(&mut pmu, 0x187, 0x43_00c0));
    assert!(can_interrupt_after(&mut pmu, 0x187, 0x53_00c0));
    assert!(!can_interrupt_after(&mut pmu, 0x187, 0));
    assert!(!can_interrupt_after(&mut pmu, 0x38d, 0x0030));
    assert!(can_interrupt_after(&mut pmu, 0x38d, 0x00b0));
    assert!(!can_interrupt_after(&mut pmu, 0x38d, 0));

    // What the filter denies does not count, and can't interrupt.
    program(&mut pmu, 0x53_00c0);
    pmu.refilter(&Deny::event(0xc0));
    assert!(!pmu.can_interrupt());
    pmu.refilter(&AllowAll);
    assert!(pmu.can_interrupt());

    // IA32_PERF_METRICS has no enable of its own for that, but moves with the slots only.
    let mut pmu = guest(&FULL);
    assert!(!pmu.can_interrupt());
    assert!(!can_interrupt_after(&mut pmu, 0x38f, 1 << 48));
    assert!(!can_interrupt_after(&mut pmu, 0x38d, 0x0300));
    assert!(!can_interrupt_after(&mut pmu, 0x38d, 0x8000));
    assert!(can_interrupt_after(&mut pmu, 0x38d, 0x2000));
    pmu.refilter(&Deny {
        event: None,
        fixed: 1 << 3,
    });
    assert!(!pmu.can_interrupt());
}

#[test]
fn a_filtered_event_is_read_back_and_does_not_count() {
    let mut pmu = guest(&FULL);
    let register = pmu.register(Msr::new(0x186)).unwrap();
    let filter = Deny::event(0xc0);
    let written = pmu.write(register, 0x53_00c0, Initiator::Guest, &filter);
    assert_eq!(written, Ok(()));
    assert_eq!(read(&pmu, 0x186), Some(0x53_00c0));
    let counters = &pmu.counters;
    assert!(counters.active.is_empty() && counters.emulated.instructions().is_empty());
    assert!(!pmu.retire(Retired::INSTRUCTION, || false));
    assert_eq!(read(&pmu, 0xc1), Some(0));

    pmu.refilter(&AllowAll);
    assert!(!pmu.counters.emulated.instructions().is_empty());
}

/// Invariant: KVM_GET_MSRS then KVM_SET_MSRS on a fresh vCPU is an identity.
#[test]
fn save_and_restore_is_an_identity() {
    let msrs = all_msrs();
    let write = (
        prop::sample::select(msrs.clone()),
        any::<u64>(),
        any::<bool>(),
    );
    random::check(256, &prop::collection::vec(write, 0..60), |writes| {
        save_and_restore(&msrs, &writes);
    });
}

fn save_and_restore(msrs: &[u32], writes: &[(u32, u64, bool)]) {
    let mut pmu = guest(&FULL);
    for &(msr, value, valid) in writes {
        // Faults are as good as writes here, but not too many of them.
        let value = if valid { value & 0xf_0000_00ff } else { value };
        let _ = write(&mut pmu, msr, value, Initiator::Host);
    }

    let read_all = |pmu: &GuestPmu<Intel>| -> Vec<_> {
        let value = |msr: &u32| (*msr, read(pmu, *msr).unwrap());
        msrs.iter().map(value).collect()
    };
    let saved = read_all(&pmu);
    let mut fresh = guest(&FULL);
    for &(msr, value) in &saved {
        assert_eq!(write(&mut fresh, msr, value, Initiator::Host), Ok(()));
    }
    assert_eq!(read_all(&fresh), saved);
    assert_eq!(fresh.counters.active, pmu.counters.active);
    assert_eq!(
        fresh.counters.emulated.instructions(),
        pmu.counters.emulated.instructions()
    );
}
