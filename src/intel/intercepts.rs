// SPDX-License-Identifier: GPL-2.0

//! What a guest may access of Intel's PMU without an exit.
//!
//! | register | free when |
//! | --- | --- |
//! | RDPMC | the guest sees all counters of the host, at the host's width |
//! | IA32_PERF_GLOBAL_CTRL | the same |
//! | IA32_PERF_GLOBAL_STATUS, _STATUS_RESET | the same, and hardware's status is the guest's: see [`crate::switch`] |
//! | IA32_PMCx | the guest has counter x, at the host's width |
//! | IA32_A_PMCx | the same, and full-width writes |
//! | IA32_FIXED_CTRx | the guest has fixed counter x, at the host's width |
//! | IA32_PERF_METRICS | the guest has it |
//! | IA32_PERFEVTSELx, IA32_FIXED_CTR_CTRL | never: the event filter has its say |
//! | anything else of the PMU | never: the guest does not have it |
//!
//! RDPMC and the global registers are all or nothing in hardware: no control makes them cover some
//! of the counters only. Free access to them is right just when hardware's valid bits and faults
//! are the guest's. One difference is left, for an exit with each PMI would be its price:
//! hardware's IA32_PERF_GLOBAL_STATUS_RESET takes the bits of version 4 and later (58, 59, 61), on
//! which a guest of version 2 should fault. That guest's status never has them set, so that nothing
//! is cleared.

use crate::{
    counter::{Counter, MAX_FIXED, MAX_GP},
    intercepts::{Access, Passthrough},
    msr::Msr,
};

/// The registers of Intel's PMU, each with what the guest may do with it freely.
///
/// The registers that no guest ever has, or that are intercepted whatever the configuration, are
/// listed too: the table is complete.
pub(super) fn table(free: Passthrough) -> impl Iterator<Item = (Msr, Access)> {
    let gp = move |n: usize| free.counters.has_gp(n);
    let fixed = move |n: usize| Counter::fixed(n).is_some_and(|c| free.counters.contains(c));

    let pmc = (0..MAX_GP).map(move |n| (Msr::IA32_PMC0.nth(n as u32), gp(n)));
    let full_width =
        (0..MAX_GP).map(move |n| (Msr::IA32_A_PMC0.nth(n as u32), free.full_width && gp(n)));
    let fixed = (0..MAX_FIXED).map(move |n| (Msr::IA32_FIXED_CTR0.nth(n as u32), fixed(n)));
    let selectors = (0..MAX_GP).map(|n| (Msr::IA32_PERFEVTSEL0.nth(n as u32), false));
    let others = [
        (Msr::IA32_PERF_GLOBAL_CTRL, free.global_ctrl),
        (Msr::IA32_PERF_GLOBAL_STATUS, free.global_status),
        (Msr::IA32_PERF_GLOBAL_STATUS_RESET, free.global_status),
        (Msr::IA32_PERF_GLOBAL_STATUS_SET, false),
        (Msr::IA32_PERF_GLOBAL_INUSE, false),
    ];

    pmc.chain(full_width)
        .chain(fixed)
        .chain(selectors)
        .chain(others)
        .map(|(msr, free)| (msr, Access::all_if(free)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::CounterSet;

    fn free(free: Passthrough) -> Vec<u32> {
        let mut msrs: Vec<u32> = table(free)
            .filter(|(_, free)| free.writes)
            .map(|(msr, _)| msr.address())
            .collect();
        msrs.sort_unstable();
        msrs
    }

    #[test]
    fn nothing_is_free_by_default() {
        assert!(free(Passthrough::default()).is_empty());
    }

    #[test]
    fn a_guest_with_the_whole_pmu() {
        let all = Passthrough {
            rdpmc: true,
            global_ctrl: true,
            global_status: true,
            counters: CounterSet::first(8, 4),
            full_width: true,
        };
        let mut expected: Vec<u32> = (0xc1..0xc9).collect();
        expected.extend(0x309..0x30d);
        expected.extend(0x38e..0x391);
        expected.extend(0x4c1..0x4c9);
        assert_eq!(free(all), expected);
    }

    #[test]
    fn a_guest_with_a_part_of_it() {
        let some = Passthrough {
            rdpmc: false,
            global_ctrl: false,
            global_status: false,
            counters: CounterSet::first(2, 1),
            full_width: false,
        };
        assert_eq!(free(some), [0xc1, 0xc2, 0x309]);
    }

    #[test]
    fn every_register_is_listed_once() {
        let mut msrs: Vec<_> = table(Passthrough::default()).map(|(msr, _)| msr).collect();
        let listed = msrs.len();
        msrs.sort_unstable();
        msrs.dedup();
        assert_eq!(msrs.len(), listed);
    }
}
