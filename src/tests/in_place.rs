// SPDX-License-Identifier: GPL-2.0

//! What is done in place, and what must not be.

use super::{
    cpu::Cpu,
    machine::Machine,
    vmm::{Deny, Vmm, FULL, HIDDEN_METRICS},
};
use crate::pmi::Overflow;

/// Selectors of instructions at CPL 0, and the same with an interrupt.
const COUNTS: u64 = 0x42_00c0;
const INTERRUPTS: u64 = COUNTS | (1 << 20);

/// Counter 0 is by `selector`, about to overflow, and another one counts.
fn guest_about_to_overflow(selector: u64) -> Vmm<Machine> {
    let mut guest = Vmm::new(&FULL, Deny::NOTHING);
    guest.set_lvtpc(false);
    guest.wrmsr(0x187, INTERRUPTS).unwrap();
    guest.wrmsr(0x186, selector).unwrap();
    guest.wrmsr(0x4c2, 1 << 40).unwrap();
    guest.wrmsr(0x4c1, (1 << 48) - 1).unwrap();
    guest.wrmsr(0x38f, 3).unwrap();
    guest
}

/// The guest's next exit may be handled in place. Is it?
fn is_in_place(guest: &mut Vmm<Machine>, exit: impl FnOnce(&mut Vmm<Machine>)) -> bool {
    let exits = guest.exits;
    guest.be_fast();
    exit(guest);
    guest.exits == exits
}

#[test]
fn a_selector_takes_one_write() {
    let mut guest = guest_about_to_overflow(0);
    let (writes, reads) = (guest.writes(), guest.reads());
    assert!(is_in_place(&mut guest, |guest| guest
        .wrmsr(0x186, COUNTS)
        .unwrap()));
    assert_eq!((guest.writes() - writes, guest.reads() - reads), (1, 0));
    guest.run(false, false);
    assert_eq!(guest.rdmsr(0x38e), Some(1));
}

#[test]
fn what_faults_is_left_to_the_exit() {
    let mut guest = guest_about_to_overflow(0);
    let exits = guest.exits;
    guest.be_fast();
    assert_eq!(guest.wrmsr(0x186, u64::MAX), None);
    assert_eq!(guest.exits, exits + 1);
    assert_eq!(guest.rdmsr(0x186), Some(0));
}

#[test]
fn a_pmi_on_its_way_is_not_lost_by_a_selector() {
    let mut guest = guest_about_to_overflow(INTERRUPTS);
    guest.run_late(false);
    let off = |guest: &mut Vmm<Machine>| guest.wrmsr(0x186, 0).unwrap();
    assert!(!is_in_place(&mut guest, off));
    assert_eq!(guest.pmis, 1);

    // Of this one the status tells nothing.
    let mut guest = guest_about_to_overflow(INTERRUPTS);
    guest.set_msr(0x38e, 1).unwrap();
    guest.run_late(false);
    assert!(!is_in_place(&mut guest, off));
}

#[test]
fn an_overflow_that_did_not_interrupt_is_no_pmi_by_the_selector_that_follows() {
    let mut guest = guest_about_to_overflow(COUNTS);
    guest.run(false, false);
    let interrupts = |guest: &mut Vmm<Machine>| guest.wrmsr(0x186, INTERRUPTS).unwrap();
    assert!(!is_in_place(&mut guest, interrupts));
    guest.exit(|_| {});
    assert_eq!(guest.pmis, 0);
    assert_eq!(guest.rdmsr(0x38e), Some(1));
    guest.wrmsr(0x4c1, 1 << 40).unwrap();
    assert!(is_in_place(&mut guest, interrupts));
}

#[test]
fn an_overflow_is_not_lost_by_the_selector_that_follows() {
    let mut guest = guest_about_to_overflow(COUNTS);
    guest.wrmsr(0x187, 0).unwrap();
    guest.run(false, false);
    assert!(is_in_place(&mut guest, |guest| guest
        .wrmsr(0x186, 0)
        .unwrap()));
    guest.migrate();
    assert_eq!(guest.rdmsr(0x38e), Some(1));
}

/// That takes the guest's LVTPC.
#[test]
fn the_first_counter_that_interrupts_is_left_to_the_exit() {
    let mut guest = guest_about_to_overflow(COUNTS);
    guest.wrmsr(0x187, 0).unwrap();
    guest.exit(|_| {});
    let on = |guest: &mut Vmm<Machine>| guest.wrmsr(0x187, INTERRUPTS).unwrap();
    assert!(!is_in_place(&mut guest, on));
    assert!(is_in_place(&mut guest, on));
}

#[test]
fn an_instruction_that_overflows_is_one_pmi_and_no_more() {
    let mut guest = guest_about_to_overflow(INTERRUPTS);
    assert!(!is_in_place(&mut guest, |guest| guest.emulate(false, false)));
    assert_eq!(guest.pmis, 1);
    // Nobody has to wait for an interrupt that hardware would have raised.
    assert_ne!(guest.overflow, Overflow::New);
    assert_eq!(guest.rdmsr(0x38e), Some(1));
    assert_eq!(guest.rdpmc(0), Some(0));
    assert_eq!(guest.rdpmc(1), Some((1 << 40) + 1));
}

#[test]
fn an_instruction_is_counted_where_the_guest_has_switched_on_what_counts() {
    let mut guest = guest_about_to_overflow(0);
    guest.wrmsr(0x38f, 0).unwrap();
    assert!(is_in_place(&mut guest, |guest| guest.emulate(false, false)));
    assert_eq!(guest.rdpmc(1), Some(1 << 40));
    guest.wrmsr(0x38f, 2).unwrap();
    assert!(is_in_place(&mut guest, |guest| guest.emulate(false, false)));
    assert!(is_in_place(&mut guest, |guest| guest.emulate(true, false)));
    assert_eq!(guest.rdpmc(1), Some((1 << 40) + 1));
}

#[test]
fn slots_with_hidden_metrics_are_left_to_the_exit() {
    let mut guest = Vmm::<Machine>::new(&HIDDEN_METRICS, Deny::NOTHING);
    guest.stay_awake();
    guest.wrmsr(0x38d, 0x3003).unwrap();
    guest.wrmsr(0x38f, (1 << 48) | (9 << 32)).unwrap();
    guest.run(false, false);
    let slots_off = |guest: &mut Vmm<Machine>| guest.wrmsr(0x38d, 0x3).unwrap();
    assert!(!is_in_place(&mut guest, slots_off));
    assert_eq!(guest.rdpmc(0x2000_0000), Some(0));
    let instructions_off = |guest: &mut Vmm<Machine>| guest.wrmsr(0x38d, 0).unwrap();
    assert!(is_in_place(&mut guest, instructions_off));
    let fixed_ctrl = guest.cpu().rdmsr(0x38d);
    assert_eq!(fixed_ctrl, Some(0));
}

/// What the guest has written before counts by it as well, and may interrupt.
#[test]
fn a_filter_that_is_not_told_yet_is_seen_to_before_the_guest_is_entered() {
    let denied = Deny {
        event: None,
        fixed: 1 << 1,
    };
    let mut guest = Vmm::<Machine>::new(&FULL, denied);
    guest.set_lvtpc(false);
    guest.wrmsr(0x186, COUNTS).unwrap();
    guest.wrmsr(0x38d, 0xb0).unwrap();
    guest.wrmsr(0x38f, (3 << 32) | 1).unwrap();
    guest.wrmsr(0x30a, (1 << 48) - 1).unwrap();
    guest.set_filter_untold(Deny::NOTHING);
    assert!(!is_in_place(&mut guest, |guest| guest
        .wrmsr(0x38d, 0xb2)
        .unwrap()));
    // Its LVTPC is in hardware by now, or an interrupt would be the host's.
    assert_eq!(guest.rdmsr(0x38d), Some(0xb2));
    guest.run(false, false);
}
