// SPDX-License-Identifier: GPL-2.0

//! What must not come of a state that stays in hardware, where random programs rarely get.

use super::{
    amd,
    cpu::Cpu,
    machine::Machine,
    vmm::{Config, Deny, Vmm, FULL, HIDDEN_METRICS},
};
use crate::{pmi::Overflow, rest::Rest, retired::Retired};

/// EN, OS and USR, instructions.
const COUNTS: u64 = 0x43_00c0;

/// A guest that counts with counter 0, and never rests.
fn counting(config: &Config) -> Vmm<Machine> {
    let mut guest = Vmm::new(config, Deny::NOTHING);
    guest.stay_awake();
    guest.wrmsr(0x186, COUNTS).unwrap();
    guest.wrmsr(0x38f, 1).unwrap();
    guest
}

/// How many of `n` exits left the state in hardware.
fn parked(guest: &mut Vmm<Machine>, n: u32) -> u32 {
    let before = guest.parked;
    for _ in 0..n {
        guest.brief_exit(&[]);
    }
    guest.parked - before
}

#[test]
fn an_exit_costs_what_is_completed() {
    let mut guest = counting(&FULL);
    for (what, cost) in [(&[][..], (0, 0)), (&[Retired::INSTRUCTION], (1, 1))] {
        let costs = [(); 4].map(|()| {
            let (writes, reads) = (guest.writes(), guest.reads());
            guest.brief_exit(what);
            (guest.writes() - writes, guest.reads() - reads)
        });
        // Every other time it is parked.
        assert!(costs.contains(&cost), "{costs:?}");
    }
}

/// It is 0 at each entry, which this machine looks for.
#[test]
fn metrics_that_the_guest_has_not_got_do_not_stay() {
    let mut guest = counting(&HIDDEN_METRICS);
    assert_ne!(parked(&mut guest, 4), 0);
    // The slots alone do not show in it, but they may have before the guest was left.
    guest.wrmsr(0x38d, 3 << 12).unwrap();
    guest.wrmsr(0x38f, 1 | (1 << 35) | (1 << 48)).unwrap();
    for _ in 0..4 {
        guest.run(false, false);
        guest.brief_exit(&[]);
    }
    guest.run(false, false);
    guest.wrmsr(0x38f, 1 | (1 << 35)).unwrap();
    assert_eq!(parked(&mut guest, 4), 0);
}

/// A guest enables what it does not know of, for which nothing is selected.
#[test]
fn what_the_guest_has_not_got_is_off_at_each_entry() {
    let mut guest = counting(&HIDDEN_METRICS);
    guest.wrmsr(0x38f, 1 | (1 << 48)).unwrap();
    guest.brief_exit(&[]);
    guest.brief_exit(&[]);
    assert_eq!(guest.rdmsr(0x38f), Some(1));
}

#[test]
fn a_status_of_others_makes_it_leave() {
    for exits_before in 4..6 {
        let mut guest = counting(&FULL);
        guest.wrmsr(0x186, COUNTS | (1 << 20)).unwrap();
        guest.set_lvtpc(false);
        assert_ne!(parked(&mut guest, exits_before), 0);
        guest.cpu().raise_in_guest(1 << 55);
        assert_eq!(parked(&mut guest, 4), 0);
        let exits = guest.exits;
        assert_eq!(guest.rdmsr(0x38e), Some(0));
        assert_ne!(guest.exits, exits);
    }
}

/// It comes while the guest's LVTPC is masked, when nobody looks, and is there when it is unmasked.
#[test]
fn a_status_of_others_behind_a_mask_is_not_the_guest_s() {
    for exits_before in 4..6 {
        let mut guest = counting(&FULL);
        guest.wrmsr(0x186, COUNTS | (1 << 20)).unwrap();
        assert_ne!(parked(&mut guest, exits_before), 0);
        guest.cpu().raise_in_guest(1 << 63);
        guest.set_lvtpc(false);
        assert_eq!(guest.rdmsr(0x38e), Some(0));
    }
}

/// Whether something can count decides whether the PMU goes to rest.
#[test]
fn a_pmu_that_counts_between_exits_does_not_rest() {
    let mut guest = counting(&FULL);
    guest.exit(|vmm| {
        vmm.pmu.rest = Rest::new(7);
        vmm.pmu.rest.written(true);
    });
    let mut left = 0;
    for _ in 0..4 {
        // One more in a row, and it rests: that it counted in between is known from a single exit.
        for _ in 0..6 {
            guest.wrmsr(0x38f, 0).unwrap();
            guest.brief_exit(&[]);
        }
        assert!(!guest.pmu.rest.is());
        guest.wrmsr(0x38f, 1).unwrap();
        left += parked(&mut guest, 1);
    }
    assert_ne!(left, 0);
    guest.wrmsr(0x38f, 0).unwrap();
    for _ in 0..9 {
        guest.brief_exit(&[]);
    }
    assert!(guest.pmu.rest.is());
}

/// And is off whenever it exits: that its counters have moved is seen before it rests.
#[test]
fn a_pmu_that_counts_between_exits_and_is_off_at_each_does_not_rest() {
    let mut guest = counting(&FULL);
    guest.exit(|vmm| {
        vmm.pmu.rest = Rest::new(7);
        vmm.pmu.rest.written(true);
    });
    guest.keeps_always = true;
    let mut left = 0;
    for _ in 0..40 {
        guest.wrmsr(0x38f, 1).unwrap();
        guest.run(false, false);
        guest.wrmsr(0x38f, 0).unwrap();
        left += parked(&mut guest, 1);
        assert!(!guest.pmu.rest.is());
    }
    assert_ne!(left, 0);
}

/// To hardware such a counter is one that has not overflowed, once it has.
#[test]
fn counters_that_are_narrower_than_hardware_s_do_not_stay() {
    let mut guest = counting(&Config { width: 32, ..FULL });
    assert_eq!(parked(&mut guest, 4), 0);
}

/// A guest on AMD that has parked counter 0 at `value`, of instructions by `privileges`.
fn counting_on_amd(privileges: u64, value: u64) -> Vmm<amd::Machine> {
    let mut guest = Vmm::new(&amd::FULL, Deny::NOTHING);
    guest.stay_awake();
    guest.set_lvtpc(false);
    guest.wrmsr(0xc001_0201, value).unwrap();
    guest.wrmsr(0xc000_0301, 0).unwrap();
    guest.wrmsr(0xc001_0200, 0x50_00c0 | privileges).unwrap();
    guest.wrmsr(0xc000_0301, 1).unwrap();
    guest.keeps_always = true;
    guest
}

/// KVM may have the vCPU sleep before it is entered again.
#[test]
fn a_pmi_by_what_is_left_to_the_entry_is_told_before_it() {
    let mut guest = counting_on_amd(1 << 17, (1 << 48) - 2);
    for (pmis, value) in [(0, (1 << 48) - 1), (1, 0), (1, 1)] {
        let was_parked = guest.parked;
        guest.brief_exit_to(&[Retired::INSTRUCTION], |vmm| {
            assert_eq!(vmm.pmi_requested, pmis == 1 && vmm.pmis == 0);
        });
        // But for the third, which hardware is one ahead of.
        assert_eq!(guest.parked > was_parked, value != 1);
        assert_eq!(guest.pmis, pmis);
        assert_eq!(guest.rdpmc(0), Some(value));
    }
}

/// Its status was known to be set, and what it was before is that it was written.
#[test]
fn a_counter_that_is_written_while_it_is_ahead_overflows_like_others() {
    let mut guest = counting_on_amd(1 << 17, (1 << 48) - 1);
    guest.keeps_always = false;
    guest.run_and_exit(false, false);
    assert_eq!((guest.overflow, guest.rdpmc(0)), (Overflow::New, Some(0)));
    guest.wrmsr(0xc000_0302, 1).unwrap();
    guest.wrmsr(0xc001_0201, (1 << 48) - 2).unwrap();
    guest.run_and_exit(false, false);
    assert_eq!(guest.overflow, Overflow::Unclear);
}

/// As by an SMI.
#[test]
fn an_instruction_counts_where_it_was_whatever_the_entry_does() {
    for (privileges, expected) in [(1 << 16, 101), (1 << 17, 100)] {
        let mut guest = counting_on_amd(privileges, 100);
        guest.set_user(true);
        guest.brief_exit_to(&[Retired::INSTRUCTION], |vmm| vmm.set_user(false));
        assert_eq!(guest.parked, 1);
        assert_eq!(guest.rdpmc(0), Some(expected), "{privileges:#x}");
    }
}

/// As by INIT: the entry is no matter to a counter that it would have found at 0.
#[test]
fn a_counter_at_zero_is_not_ahead_of_an_entry_that_it_does_not_count() {
    let mut guest = counting_on_amd(1 << 16, (1 << 48) - 1);
    guest.set_user(true);
    guest.brief_exit_to(&[Retired::INSTRUCTION], |vmm| vmm.set_user(false));
    guest.set_user(true);
    guest.cpu().retire(false);
    guest.exit(|_| {});
    assert_eq!(guest.rdpmc(0), Some(1));
}

/// As when it goes on in another VMCS, that of a guest of its own.
#[test]
fn the_global_control_is_given_anew() {
    let mut guest = counting(&FULL);
    guest.forget_vmcs = true;
    for _ in 0..4 {
        guest.brief_exit(&[]);
        assert_eq!(guest.rdmsr(0x38f), Some(1));
    }
}
