// SPDX-License-Identifier: GPL-2.0

//! Over any sequence of operations a guest sees what a bare machine would show.

use super::{
    amd,
    cpu::Cpu,
    machine::{hides_metrics, Machine},
    random,
    vmm::{host, Config, Deny, Vmm, FULL, HIDDEN_METRICS},
};
use crate::{
    counter::Counter,
    guest::GuestPmu,
    intel::{metrics::MetricsHw, Intel},
    msr::Msr,
    pmi::Overflow,
    register::Initiator,
    retired::Retired,
    switch::Hw,
};
use proptest::{prelude::*, sample::select, strategy::BoxedStrategy};
use std::{cell::Cell, env};

/// What a guest, or the world around it, does.
#[derive(Clone, Debug)]
enum Op {
    Rdmsr(u32),
    Wrmsr(u32, u64),
    Rdpmc(u32),
    /// The guest sets up two counters of instructions that are about to overflow, with interrupts,
    /// and slots with IA32_PERF_METRICS if it has them.
    Arm {
        short_of_overflow: u64,
    },
    /// So many instructions retire.
    Run {
        count: u8,
        user: bool,
        branch: bool,
    },
    /// One retires, and the guest exits before its PMI could arrive.
    RunAndExit {
        user: bool,
        branch: bool,
    },
    /// One is emulated.
    Emulate {
        user: bool,
        branch: bool,
    },
    /// User space sets a counter or IA32_PERF_METRICS.
    SetMsr(u32, u64),
    /// LVTPC is masked or unmasked.
    Lvtpc {
        masked: bool,
    },
    /// An exit that the guest does not notice, on the way to another processor.
    Migrate,
    /// The same, and the host uses the PMU.
    HostUse(u64),
    /// The same, and another guest does.
    OtherGuest,
    /// User space denies this.
    Filter(Deny),
}

/// What there is to be done with a kind of processor.
trait Subject: Cpu {
    /// See [`Op::Arm`].
    fn arm(short_of_overflow: u64) -> Vec<Op>;

    /// Addresses of all PMU registers of a full guest, and of some that no guest has.
    fn msr() -> BoxedStrategy<u32>;

    /// Addresses at which user space writes what the guest would.
    fn set_msr() -> BoxedStrategy<u32>;

    /// Values that have a chance to be valid, and to matter.
    fn value() -> BoxedStrategy<u64>;

    /// Operands of RDPMC.
    fn ecx() -> BoxedStrategy<u32>;

    /// The event of retired branches.
    const BRANCHES: u64;

    fn config() -> BoxedStrategy<Self::Config>;

    /// Every register, and some that are none.
    fn everything() -> Vec<u32>;

    /// Bits of the register at `msr` that hardware does not have on top of what the guest has.
    fn known(_guest: &mut Vmm<Self>, _msr: u32) -> u64 {
        u64::MAX
    }

    /// Does RDPMC read something with this ECX that the guest has not got?
    fn is_unknown(_guest: &mut Vmm<Self>, _ecx: u32) -> bool {
        false
    }
}

/// A selector of `events` with any flags.
fn selector(events: &'static [u64]) -> impl Strategy<Value = u64> {
    (select(events), 0..32u64, any::<bool>(), 0..3u64).prop_map(|(event, flags, enable, mask)| {
        // USR, OS, E, PC, INT in bits 20:16; EN in bit 22.
        event | (flags << 16) | (u64::from(enable) << 22) | (mask << 24)
    })
}

impl Subject for Machine {
    const BRANCHES: u64 = 0xc4;

    fn arm(short_of_overflow: u64) -> Vec<Op> {
        let value = short_of_overflow.wrapping_neg() & 0xffff_ffff;
        vec![
            Op::Lvtpc { masked: false },
            Op::Wrmsr(0x186, 0x53_00c0),
            Op::Wrmsr(0x38d, 0xb),
            Op::Wrmsr(0x38d, 0xb00b),
            // Sign-extended, whatever the width is.
            Op::Wrmsr(0x0c1, value),
            Op::Wrmsr(0x309, (1 << 48) - short_of_overflow),
            Op::Wrmsr(0x38f, 0x1_0000_0001),
            // Faults where there is no IA32_PERF_METRICS.
            Op::Wrmsr(0x38f, 0x1_0009_0000_0001),
        ]
    }

    fn msr() -> BoxedStrategy<u32> {
        prop_oneof![
            4 => 0x186..0x18fu32,
            2 => 0x0c1..0x0cau32,
            3 => 0x4c1..0x4cau32,
            3 => 0x309..0x30eu32,
            2 => Just(0x329u32),
            6 => 0x38d..0x393u32,
        ]
        .boxed()
    }

    fn set_msr() -> BoxedStrategy<u32> {
        prop_oneof![0x4c1..0x4cau32, 0x309..0x30eu32, Just(0x329u32)].boxed()
    }

    fn value() -> BoxedStrategy<u64> {
        prop_oneof![
            4 => selector(&[0xc0, Self::BRANCHES]),
            // Just before an overflow: of a full counter, of 32 bits.
            3 => (1..6u64).prop_map(|n| (1 << 48) - n),
            1 => (1..6u64).prop_map(|n| (1 << 32) - n),
            // Enables and status bits.
            3 => any::<u64>().prop_map(|bits| bits & 0x1_000f_0000_00ff),
            // A little before IA32_PERF_METRICS overflows.
            1 => (1..6u64).prop_map(u64::wrapping_neg),
            1 => any::<u64>().prop_map(|bits| bits & 0xbbbb),
            1 => any::<u64>(),
            1 => Just(0),
        ]
        .boxed()
    }

    fn ecx() -> BoxedStrategy<u32> {
        prop_oneof![
            0..9u32,
            0x4000_0000..0x4000_0005u32,
            0x2000_0000..0x2000_0002u32,
            any::<u32>()
        ]
        .boxed()
    }

    fn config() -> BoxedStrategy<Config> {
        let counters = (2..6u32, 0..9u32, 0..5u32, 31..49u32);
        let flags = (any::<bool>(), any::<bool>(), any::<bool>());
        let host = select(&[0xf_0000_00ff, 0x77_0000_00ff, 0xf_0000_03ff, 0xf_0000_003f][..]);
        let any = (counters, flags, host).prop_map(
            |((version, gp, fixed, width), (full_width, metrics, host_metrics), host_counters)| {
                Config {
                    version,
                    gp,
                    fixed,
                    width,
                    full_width,
                    metrics,
                    host_metrics,
                    host_counters,
                }
            },
        );
        let without_metrics = Config {
            metrics: false,
            host_metrics: false,
            ..FULL
        };
        prop_oneof![
            2 => Just(FULL),
            1 => Just(without_metrics),
            1 => Just(HIDDEN_METRICS),
            2 => any,
        ]
        .boxed()
    }

    fn everything() -> Vec<u32> {
        (0x186..0x18f)
            .chain(0xc1..0xca)
            .chain(0x4c1..0x4ca)
            .chain(0x309..0x30e)
            .chain([0x329])
            .chain(0x38d..0x393)
            .collect()
    }

    fn known(guest: &mut Vmm<Self>, msr: u32) -> u64 {
        let hides = hides_metrics(&guest.cpu().clone(), &guest.pmu);
        match msr {
            0x38e..=0x390 if hides && guest.free(msr).reads => !(1 << 48),
            _ => u64::MAX,
        }
    }

    fn is_unknown(guest: &mut Vmm<Self>, ecx: u32) -> bool {
        ecx == 0x2000_0000 && hides_metrics(&guest.cpu().clone(), &guest.pmu)
    }
}

impl Subject for amd::Machine {
    const BRANCHES: u64 = 0xc2;

    fn arm(short_of_overflow: u64) -> Vec<Op> {
        vec![
            Op::Lvtpc { masked: false },
            Op::Wrmsr(0xc001_0200, 0x53_00c0),
            Op::Wrmsr(0xc001_0002, 0x53_00c2),
            Op::Wrmsr(0xc001_0201, (1 << 48) - short_of_overflow),
            Op::Wrmsr(0xc001_0006, (1 << 48) - short_of_overflow),
            Op::Wrmsr(0xc000_0301, 5),
        ]
    }

    fn msr() -> BoxedStrategy<u32> {
        prop_oneof![
            2 => 0xc001_0000..0xc001_0009u32,
            4 => 0xc001_0200..0xc001_020eu32,
            3 => 0xc000_0300..0xc000_0305u32,
        ]
        .boxed()
    }

    fn set_msr() -> BoxedStrategy<u32> {
        (0..6u32).prop_map(|n| 0xc001_0201 + 2 * n).boxed()
    }

    fn value() -> BoxedStrategy<u64> {
        let world = (0..4u64).prop_map(|world| world << 40);
        prop_oneof![
            4 => (selector(&[0xc0, 0xc2, 0xc0, 0xc2, 0xc4, 0xc6]), world).prop_map(|(bits, world)| bits | world),
            3 => (1..6u64).prop_map(|n| (1 << 48) - n),
            4 => any::<u64>().prop_map(|bits| bits & 0x3f),
            1 => any::<u64>(),
            2 => Just(0),
        ]
        .boxed()
    }

    fn ecx() -> BoxedStrategy<u32> {
        prop_oneof![4 => 0..8u32, 1 => any::<u32>()].boxed()
    }

    fn config() -> BoxedStrategy<amd::Config> {
        let any = (any::<bool>(), any::<bool>(), 0..9u32, any::<bool>());
        let any = any.prop_map(|(v2, core, counters, svm)| amd::Config {
            v2,
            core,
            counters,
            svm,
        });
        prop_oneof![2 => Just(amd::FULL), 1 => any].boxed()
    }

    fn everything() -> Vec<u32> {
        (0xc000_0300..0xc000_0304)
            .chain(0xc001_0000..0xc001_0008)
            .chain(0xc001_0200..0xc001_020c)
            .collect()
    }
}

fn op<S: Subject>() -> impl Strategy<Value = Op> {
    let how = || (any::<bool>(), any::<bool>());
    let denied = select(&[None, Some(0xc0), Some(S::BRANCHES)][..]);
    let filter = (denied, 0..16u8).prop_map(|(event, fixed)| Deny { event, fixed });
    prop_oneof![
        8 => S::msr().prop_map(Op::Rdmsr),
        16 => (S::msr(), S::value()).prop_map(|(msr, value)| Op::Wrmsr(msr, value)),
        6 => S::ecx().prop_map(Op::Rdpmc),
        4 => (1..5u64).prop_map(|n| Op::Arm { short_of_overflow: n }),
        8 => (1..8u8, how()).prop_map(|(count, (user, branch))| Op::Run { count, user, branch }),
        4 => how().prop_map(|(user, branch)| Op::RunAndExit { user, branch }),
        4 => how().prop_map(|(user, branch)| Op::Emulate { user, branch }),
        2 => (S::set_msr(), S::value()).prop_map(|(msr, value)| Op::SetMsr(msr, value)),
        4 => any::<bool>().prop_map(|masked| Op::Lvtpc { masked }),
        2 => Just(Op::Migrate),
        2 => any::<u64>().prop_map(Op::HostUse),
        2 => Just(Op::OtherGuest),
        1 => filter.prop_map(Op::Filter),
    ]
}

/// The guest, and the machine that it must not differ from.
struct Pair<S: Subject> {
    guest: Vmm<S>,
    bare: S,
}

impl<S: Subject> Pair<S> {
    fn new(config: S::Config) -> Self {
        Self {
            guest: Vmm::new(&config, Deny::NOTHING),
            bare: S::bare(&config),
        }
    }

    fn run(&mut self, op: &Op) {
        let (guest, bare) = (&mut self.guest, &mut self.bare);
        match *op {
            Op::Rdmsr(msr) => {
                let known = S::known(guest, msr);
                let read = guest.rdmsr(msr).map(|value| value & known);
                assert_eq!(read, bare.rdmsr(msr), "RDMSR {msr:#x}");
            }
            Op::Wrmsr(msr, value) => {
                let known = S::known(guest, msr);
                let in_place = guest.in_place;
                let written = guest.wrmsr(msr, value);
                let counts = S::ENTRIES_COUNT && guest.in_place != in_place;
                // By a selector as it was before, in a counter that was written.
                let is_selector = guest.is_selector(msr);
                if counts && is_selector {
                    bare.complete(false);
                }
                assert_eq!(bare.wrmsr(msr, value & known), written, "WRMSR {msr:#x}");
                if counts && !is_selector {
                    bare.complete(false);
                }
            }
            Op::Rdpmc(ecx) if S::is_unknown(guest, ecx) => {
                guest.rdpmc(ecx).unwrap();
            }
            Op::Rdpmc(ecx) => assert_eq!(guest.rdpmc(ecx), bare.rdpmc(ecx), "RDPMC {ecx:#x}"),
            Op::Arm { short_of_overflow } => {
                return self.run_all(&S::arm(short_of_overflow));
            }
            Op::Run {
                count,
                user,
                branch,
            } => {
                bare.set_user(user);
                for _ in 0..count {
                    guest.run(user, branch);
                    bare.retire(branch);
                }
            }
            Op::RunAndExit { user, branch } => {
                guest.run_and_exit(user, branch);
                bare.set_user(user);
                bare.retire(branch);
            }
            Op::Emulate { user, branch } => {
                guest.emulate(user, branch);
                bare.set_user(user);
                bare.complete(branch);
            }
            Op::SetMsr(msr, value) => assert_eq!(
                guest.set_msr(msr, value),
                bare.set_guest_msr(msr, value),
                "KVM_SET_MSRS {msr:#x}"
            ),
            Op::Lvtpc { masked } => {
                guest.set_lvtpc(masked);
                bare.lapic().lvtpc_masked = masked;
            }
            Op::Migrate => guest.migrate(),
            Op::HostUse(noise) => guest.host_uses_pmu(noise),
            Op::OtherGuest => guest.other_guest_runs(),
            Op::Filter(filter) => {
                guest.set_filter(filter);
                bare.deny(filter);
            }
        }
        assert_eq!(guest.pmis, bare.lapic().pmis, "PMIs");
    }

    fn run_all(&mut self, ops: &[Op]) {
        for op in ops {
            self.run(op);
        }
    }

    /// Every register, at the end.
    fn compare_all(&mut self) {
        for msr in S::everything() {
            self.run(&Op::Rdmsr(msr));
        }
    }
}

fn run<S: Subject>(config: S::Config, ops: &[Op]) {
    let mut pair = Pair::<S>::new(config);
    pair.run_all(ops);
    pair.compare_all();
}

/// How many cases are tried where nobody asks for more, and how many operations that has to be.
const CASES: u32 = 5000;
const OPERATIONS: usize = 100_000;

fn guests_see_what_bare_metal_shows<S: Subject>() {
    let tried = Cell::new(0);
    let programs = (S::config(), prop::collection::vec(op::<S>(), 1..120));
    random::check(CASES, &programs, |(config, ops)| {
        tried.set(tried.get() + ops.len());
        run::<S>(config, &ops);
    });
    println!("{} operations", tried.get());
    assert!(env::var_os("CASES").is_some() || tried.get() >= OPERATIONS);
}

#[test]
fn a_guest_sees_what_bare_metal_shows() {
    guests_see_what_bare_metal_shows::<Machine>();
}

#[test]
fn a_guest_on_amd_sees_what_bare_metal_shows() {
    guests_see_what_bare_metal_shows::<amd::Machine>();
}

/// So many instructions retire in the guest's kernel, none of them a branch.
const fn run_in_kernel(count: u8) -> Op {
    Op::Run {
        count,
        user: false,
        branch: false,
    }
}

/// A guest with all counters, of which counter 0 and fixed counter 0 count instructions, with INT.
fn counting_guest() -> Pair<Machine> {
    let mut pair = Pair::new(FULL);
    pair.run(&Op::Arm {
        short_of_overflow: 1000,
    });
    pair
}

#[test]
fn global_ctrl_and_rdpmc_cost_no_exit() {
    let mut pair = counting_guest();
    let exits = pair.guest.exits;
    pair.run_all(&[
        Op::Wrmsr(0x38f, 0),
        Op::Rdpmc(0),
        Op::Rdpmc(0x4000_0003),
        Op::Wrmsr(0x4c1, 5),
        Op::Wrmsr(0x30c, 5),
        Op::Rdmsr(0x38e),
        Op::Wrmsr(0x390, 1),
        Op::Wrmsr(0x38f, 1 << 48),
        Op::Wrmsr(0x329, 0x0102_0304_0506_0708),
        Op::Rdpmc(0x2000_0000),
        Op::Rdmsr(0x329),
    ]);
    assert_eq!(pair.guest.exits, exits);
}

#[test]
fn an_exit_costs_no_write_when_nothing_counts() {
    let mut pair = Pair::<Machine>::new(FULL);
    pair.run(&Op::Wrmsr(0x4c1, 1234));
    pair.guest.exit(|_| {});
    let writes = pair.guest.writes();
    pair.guest.exit(|_| {});
    assert_eq!(pair.guest.writes(), writes);
}

#[test]
fn an_exit_writes_no_counter_that_is_still_there() {
    let mut pair = counting_guest();
    pair.guest.keep_nothing();
    pair.run(&run_in_kernel(5));
    let writes = pair.guest.writes();
    pair.guest.exit(|_| {});
    // A selector and FIXED_CTR_CTRL, off and on.
    assert_eq!(pair.guest.writes() - writes, 4);
}

#[test]
fn an_exit_reads_each_counter_once() {
    let mut pair = counting_guest();
    pair.guest.keep_nothing();
    for op in [
        Op::Migrate,
        Op::Wrmsr(0x4c1, 77),
        Op::Emulate {
            user: false,
            branch: true,
        },
    ] {
        pair.run(&op);
        let reads = pair.guest.reads();
        pair.guest.exit(|_| {});
        // And IA32_PERF_METRICS.
        assert_eq!(pair.guest.reads() - reads, 8 + 4 + 1);
    }
}

/// Else it would overflow again only where the hardware counter does, 2^48 events later.
#[test]
fn a_narrow_counter_is_written_anew_after_an_overflow() {
    let mut pair = Pair::<Machine>::new(Config { width: 40, ..FULL });
    pair.run_all(&Machine::arm(1));
    for _ in 0..2 {
        pair.run(&run_in_kernel(1));
        pair.guest.exit(|_| {});
    }
    let counter = Counter::gp(0).unwrap();
    assert_eq!(pair.guest.cpu().counter(counter), 0xff00_0000_0001);
}

#[test]
fn a_late_pmi_is_not_lost() {
    let mut pair = counting_guest();
    pair.run_all(&[
        Op::Wrmsr(0x4c1, (1 << 48) - 1),
        Op::RunAndExit {
            user: false,
            branch: false,
        },
    ]);
    assert_eq!(pair.guest.pmis, 1);
}

/// What the hypervisor knows when a guest with counters that interrupt, and with this status, has
/// executed an instruction that overflows counter 0 or does not.
fn known_of(status: u64, masked: bool, overflows: bool) -> Overflow {
    let mut guest = counting_guest().guest;
    guest.set_lvtpc(masked);
    guest.set_msr(0x38e, status).unwrap();
    // Far from an overflow, and far behind it.
    guest.wrmsr(0x309, 1 << 40).unwrap();
    guest.wrmsr(0x30c, 1 << 40).unwrap();
    guest
        .wrmsr(0x4c1, if overflows { (1 << 48) - 1 } else { 1 << 40 })
        .unwrap();
    guest.run_and_exit(false, false);
    guest.overflow
}

#[test]
fn what_is_known_of_an_overflow() {
    assert_eq!(known_of(0, false, false), Overflow::None);
    assert_eq!(known_of(0, false, true), Overflow::New);
    // Counter 1 does not interrupt, counter 2 does not count.
    assert_eq!(known_of(0b110, false, false), Overflow::None);
    // Counter 0 overflows again, which its value shows.
    assert_eq!(known_of(1, false, false), Overflow::None);
    assert_eq!(known_of(1, false, true), Overflow::Unclear);
    // The bit of fixed counter 0 tells nothing of counter 0.
    assert_eq!(known_of(1 << 32, false, true), Overflow::New);
    // Nothing is owed behind the mask.
    assert_eq!(known_of(0, true, true), Overflow::None);
    assert_eq!(known_of(1, true, true), Overflow::None);
}

/// Clearing the status and switching the counter off take no PMI back.
#[test]
fn an_overflow_may_be_hidden_before_its_pmi_comes() {
    let mut guest = counting_guest().guest;
    guest.wrmsr(0x309, 1 << 40).unwrap();
    guest.wrmsr(0x30c, 1 << 40).unwrap();
    guest.wrmsr(0x4c1, (1 << 48) - 1).unwrap();
    guest.cpu().lapic().pmi_is_late = true;
    guest.cpu().retire(false);
    guest.cpu().retire(false);
    guest.cpu().lapic().pmi_is_late = false;
    let exits = guest.exits;
    guest.wrmsr(0x390, 1).unwrap();
    guest.wrmsr(0x38f, 0).unwrap();
    assert_eq!(guest.exits, exits);
    guest.exit(|_| {});
    assert_eq!(guest.overflow, Overflow::Unclear);
    // It has not counted since.
    guest.exit(|_| {});
    assert_eq!(guest.overflow, Overflow::None);
}

#[test]
fn an_overflow_behind_the_mask_raises_nothing_when_the_mask_goes() {
    let mut pair = counting_guest();
    pair.run_all(&[
        Op::Lvtpc { masked: true },
        Op::Wrmsr(0x4c1, (1 << 48) - 1),
        run_in_kernel(1),
        Op::Lvtpc { masked: false },
    ]);
    assert_eq!(pair.guest.pmis, 0);
}

#[test]
fn an_emulated_instruction_overflows_like_any_other() {
    let mut pair = counting_guest();
    pair.run_all(&[
        Op::Wrmsr(0x4c1, (1 << 48) - 1),
        Op::Emulate {
            user: false,
            branch: false,
        },
        Op::Rdmsr(0x38e),
    ]);
    assert_eq!(pair.guest.pmis, 1);
}

#[test]
fn a_status_that_is_cleared_without_an_exit_stays_cleared() {
    let mut pair = counting_guest();
    pair.run_all(&[
        Op::Wrmsr(0x4c1, (1 << 48) - 1),
        run_in_kernel(1),
        // Nothing counts any more, but there is a status.
        Op::Wrmsr(0x186, 0),
        Op::Wrmsr(0x38d, 0),
        Op::Rdmsr(0x38e),
        Op::Wrmsr(0x390, 1),
        Op::Migrate,
        Op::Rdmsr(0x38e),
    ]);
}

#[test]
fn a_saved_status_is_the_same_after_a_run() {
    let everything = (3 << 62) | 0xf_0000_00ff;
    let mut guest = Vmm::<Machine>::new(&FULL, Deny::NOTHING);
    guest.stay_awake();
    assert_eq!(guest.set_msr(0x38e, everything), Some(()));
    guest.exit(|_| {});
    assert_eq!(guest.get_msr(0x38e), Some(everything));
    // OvfDSBuffer and CondChgd are not put into hardware.
    assert_eq!(guest.rdmsr(0x38e), Some(everything));
    guest.wrmsr(0x390, 3 << 62).unwrap();
    assert_eq!(guest.rdmsr(0x38e), Some(0xf_0000_00ff));
    // Now it is hardware's, and the guest's own.
    guest.exit(|_| {});
    let exits = guest.exits;
    assert_eq!(guest.rdmsr(0x38e), Some(0xf_0000_00ff));
    guest.wrmsr(0x390, 0xf_0000_00ff).unwrap();
    assert_eq!(guest.rdmsr(0x38e), Some(0));
    assert_eq!(guest.exits, exits);
}

/// Do the guest's accesses of its own status exit, where it is loaded?
fn status_exits(guest: &mut Vmm<Machine>) -> bool {
    let exits = guest.exits;
    assert_eq!(guest.rdmsr(0x38e), Some(0));
    guest.wrmsr(0x390, 0xf_0000_00ff).unwrap();
    guest.exits != exits
}

/// Has a host leave `status`, which it alone knows of, in front of a guest; returns whether the
/// guest's accesses of its own status exit then.
fn status_exits_after(guest: &mut Vmm<Machine>, status: u64) -> bool {
    guest.exit(|vmm| vmm.cpu().leave_status(status));
    status_exits(guest)
}

#[test]
fn a_status_of_others_stays_and_is_not_seen() {
    let mut guest = counting_guest().guest;
    assert!(!status_exits_after(&mut guest, 0xf_0000_00ff));
    assert!(!status_exits_after(&mut guest, (3 << 58) | (1 << 48)));
    for bit in [55, 61, 62, 63] {
        // That it stays, the machine sees to.
        assert!(status_exits_after(&mut guest, 1 << bit));
        guest.exit(|_| {});
        assert!(status_exits_after(&mut guest, 1 << bit));
        guest.migrate();
        assert_eq!(guest.rdmsr(0x38e), Some(0));
        guest.migrate();
        // Gone, which shows when the guest is left.
        status_exits_after(&mut guest, 0);
        guest.exit(|_| {});
        assert!(!status_exits_after(&mut guest, 0));
    }
}

#[test]
fn a_status_that_others_may_get_is_not_seen() {
    let mut guest = counting_guest().guest;
    assert!(!status_exits(&mut guest));
    guest.exit(|vmm| vmm.cpu().expect_status(1 << 55));
    for _ in 0..3 {
        assert!(status_exits(&mut guest));
        guest.exit(|_| {});
    }
    // The next entry knows, and the exit after it.
    guest.exit(|vmm| vmm.cpu().expect_status(0));
    guest.exit(|_| {});
    assert!(!status_exits(&mut guest));
}

/// RDMSRs of the status that the hypervisor has done so far.
fn status_reads(guest: &Vmm<Machine>) -> u32 {
    guest.cpus().iter().map(Machine::status_reads).sum()
}

#[test]
fn the_status_is_read_if_somebody_else_had_the_counters() {
    let mut guest = counting_guest().guest;
    guest.keep_nothing();
    let mut reads_of = |leave: fn(&mut Vmm<Machine>)| {
        let before = status_reads(&guest);
        leave(&mut guest);
        status_reads(&guest) - before
    };
    // Once in put, which takes what overflowed, and once in load if need be.
    assert_eq!(reads_of(|guest| guest.exit(|_| {})), 1);
    assert_eq!(reads_of(|guest| guest.host_uses_pmu(0xff)), 2);
    assert_eq!(reads_of(|guest| guest.exit(|_| {})), 1);
    assert_eq!(reads_of(|guest| guest.migrate()), 2);
    assert_eq!(reads_of(|guest| guest.set_msr(0x38e, 3).unwrap()), 1);
    assert_eq!(reads_of(|guest| guest.exit(|_| {})), 1);
}

/// Of a guest whose status exits and which counts nothing, hardware's is nobody's business, until
/// it begins to count.
#[test]
fn a_status_that_was_left_alone_is_read_when_it_begins_to_matter() {
    let mut guest = Vmm::<Machine>::new(&Config { gp: 7, ..FULL }, Deny::NOTHING);
    guest.set_lvtpc(false);
    guest.host_uses_pmu(0xff);
    guest.exit(|_| {});
    guest.wrmsr(0x186, 0x53_00c0).unwrap();
    guest.wrmsr(0x4c1, (1 << 48) - 1).unwrap();
    guest.run_and_exit(false, false);
    assert_eq!(guest.rdmsr(0x38e), Some(1));
    assert_eq!(guest.pmis, 1);
}

/// A guest that has not got its host's PERF_METRICS, but has slots, and sets the register's enable,
/// of which it can know nothing.
fn guest_with_hidden_metrics() -> Vmm<Machine> {
    let mut guest = Vmm::new(&HIDDEN_METRICS, Deny::NOTHING);
    guest.set_lvtpc(false);
    guest.stay_awake();
    guest.wrmsr(0x38d, 0x3000).unwrap();
    guest.wrmsr(0x38f, (1 << 48) | (1 << 35)).unwrap();
    guest
}

#[test]
fn hidden_metrics_cost_no_exit() {
    let mut guest = guest_with_hidden_metrics();
    let exits = guest.exits;
    for _ in 0..3 {
        guest.run(false, false);
    }
    assert_eq!(guest.rdpmc(0x4000_0003), Some(3));
    assert_eq!(guest.rdpmc(0x2000_0000), Some(3));
    guest.wrmsr(0x38f, 1 << 35).unwrap();
    assert_eq!(guest.rdmsr(0x38e), Some(0));
    assert_eq!(guest.exits, exits);
    // Of the register itself there is no knowing.
    assert_eq!(guest.rdmsr(0x329), None);
    assert_eq!(guest.wrmsr(0x329, 5), None);
}

#[test]
fn hidden_metrics_are_0_whenever_the_guest_is_entered() {
    for leave in [
        |guest: &mut Vmm<Machine>| guest.exit(|_| {}),
        |guest: &mut Vmm<Machine>| guest.migrate(),
        |guest: &mut Vmm<Machine>| guest.host_uses_pmu(0x1234_5678_9abc_def0),
        |guest: &mut Vmm<Machine>| guest.other_guest_runs(),
        // User space writes slots, of which the register holds fractions.
        |guest: &mut Vmm<Machine>| guest.set_msr(0x30c, 77).unwrap(),
    ] {
        // The enable need not be set when the guest exits.
        for enable_at_exit in [1 << 48, 0] {
            let mut guest = guest_with_hidden_metrics();
            guest.run(false, false);
            guest.wrmsr(0x38f, enable_at_exit | (1 << 35)).unwrap();
            assert_eq!(guest.rdpmc(0x2000_0000), Some(1));
            leave(&mut guest);
            assert_eq!(guest.rdpmc(0x2000_0000), Some(0));
            assert_eq!(guest.rdmsr(0x38f), Some(1 << 35), "the enable is dropped");
        }
    }
}

#[test]
fn hidden_metrics_are_looked_at_only_if_they_may_have_moved() {
    let mut guest = Vmm::<Machine>::new(&HIDDEN_METRICS, Deny::NOTHING);
    guest.stay_awake();
    guest.wrmsr(0x38f, u64::MAX & 0x1_000f_0000_00ff).unwrap();
    guest.exit(|_| {});
    let reads = guest.reads();
    guest.exit(|_| {});
    assert_eq!(guest.reads() - reads, 8 + 4);

    guest.wrmsr(0x38d, 0x2000).unwrap();
    let (reads, writes) = (guest.reads(), guest.writes());
    guest.exit(|_| {});
    assert_eq!(guest.reads() - reads, 8 + 4 + 1);
    // IA32_FIXED_CTR_CTRL, off and on.
    assert_eq!(guest.writes() - writes, 2);
}

#[test]
fn an_overflow_of_hidden_metrics_is_a_pmi_of_the_guests_own() {
    for late in [false, true] {
        let mut guest = guest_with_hidden_metrics();
        guest.cpu().set_metrics(u64::MAX);
        if late {
            guest.run_and_exit(false, false);
        } else {
            guest.run(false, false);
        }
        assert_eq!(guest.pmis, 1);
        guest.exit(|_| {});
        assert_eq!(guest.rdmsr(0x38e), Some(0));
        assert_eq!(guest.get_msr(0x38e), Some(0));
    }
}

#[test]
fn metrics_do_not_move_if_slots_are_denied() {
    for config in [FULL, HIDDEN_METRICS] {
        let slots = Deny {
            event: None,
            fixed: 1 << 3,
        };
        let mut guest = Vmm::<Machine>::new(&config, slots);
        guest.stay_awake();
        guest.wrmsr(0x38d, 0x3000).unwrap();
        guest.wrmsr(0x38f, (1 << 48) | (1 << 35)).unwrap();
        guest.run(false, false);
        assert_eq!(guest.rdpmc(0x4000_0003), Some(0));
        assert_eq!(guest.rdpmc(0x2000_0000), Some(0));
        guest.set_filter(Deny::NOTHING);
        guest.wrmsr(0x38f, (1 << 48) | (1 << 35)).unwrap();
        guest.run(false, false);
        assert_eq!(guest.rdpmc(0x2000_0000), Some(1));
        guest.set_filter(slots);
        guest.wrmsr(0x38f, (1 << 48) | (1 << 35)).unwrap();
        let told = guest.rdpmc(0x2000_0000);
        guest.run(false, false);
        assert_eq!(guest.rdpmc(0x2000_0000), told);
    }
}

#[test]
fn a_write_takes_effect_when_its_instruction_has_retired() {
    let counting = 0x43_00c0;
    let mut pmu = GuestPmu::<Intel>::default();
    pmu.refresh(&host(), &FULL);
    let wrmsr = |pmu: &mut GuestPmu<Intel>, msr: u32, value: u64| {
        let register = pmu.register(Msr::new(msr)).unwrap();
        pmu.write(register, value, Initiator::Guest, &Deny::NOTHING)
            .unwrap();
        pmu.retire(Retired::INSTRUCTION, || false)
    };
    let pmc0 = |pmu: &GuestPmu<Intel>| pmu.rdpmc(0).unwrap();

    // On and off by the selector, and by the global control.
    for (msr, on) in [(0x186, counting), (0x38f, 1)] {
        wrmsr(&mut pmu, msr, 0);
        wrmsr(&mut pmu, 0x4c1, 0);
        assert!(!wrmsr(&mut pmu, msr, on));
        assert_eq!(pmc0(&pmu), 0);
        assert!(!pmu.retire(Retired::INSTRUCTION, || false));
        assert_eq!(pmc0(&pmu), 1);
        assert!(!wrmsr(&mut pmu, msr, 0));
        assert_eq!(pmc0(&pmu), 2);
        assert!(!pmu.retire(Retired::INSTRUCTION, || false));
        assert_eq!(pmc0(&pmu), 2);
        wrmsr(&mut pmu, msr, on);
    }

    // The last instruction that a counter counts overflows it, and interrupts.
    wrmsr(&mut pmu, 0x186, counting | (1 << 20));
    assert!(wrmsr(&mut pmu, 0x4c1, u64::MAX >> 16));
    assert_eq!(pmc0(&pmu), 0, "it counts the write of its own value");
    wrmsr(&mut pmu, 0x4c1, (u64::MAX >> 16) - 1);
    assert!(wrmsr(&mut pmu, 0x186, 0));
    assert_eq!(pmc0(&pmu), 0);
}

#[test]
fn a_guest_that_stops_before_each_exit_measures_still() {
    let mut guest = Vmm::<Machine>::new(&FULL, Deny::NOTHING);
    guest.wrmsr(0x186, 0x43_00c0).unwrap();
    let exits = guest.exits;
    for _ in 0..20 {
        guest.wrmsr(0x38f, 1).unwrap();
        guest.run(false, false);
        guest.wrmsr(0x38f, 0).unwrap();
        guest.exit(|_| {});
    }
    assert_eq!(guest.rdpmc(0), Some(20));
    assert_eq!(guest.exits - exits, 20);
    assert!(!guest.pmu.rest.is());
}
