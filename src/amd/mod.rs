// SPDX-License-Identifier: GPL-2.0

//! AMD's rules: core performance counters, APM Vol. 2 chapter 13.
//!
//! The host needs PerfMonV2: before it there is neither a way to stop all counters at once nor a
//! status that tells which of them overflowed. Guests have what user space gives them by CPUID:
//!
//! | CPUID of the guest | counters | their registers |
//! | --- | --- | --- |
//! | PerfCtrExtCore (8000_0001H:ECX\[23\]) | 6 | C001_0000H to C001_0007H, of the first four; C001_0200H to C001_020BH |
//! | PerfMonV2 (8000_0022H:EAX\[0\]) | 8000_0022H:EBX\[3:0\] | the first of the above, with PerfCtrExtCore all of them, and the global ones at C000_0300H |
//! | neither | none | none |
//!
//! All counters are alike; there are no fixed ones. A guest with neither has four counters on a
//! machine, at the legacy addresses, that no CPUID tells of. It has no mediated PMU: a guest whose
//! user space wants it to have none looks the same, and would be in the way of the host's events.
//!
//! # HostOnly and GuestOnly
//!
//! SVM has no fields that switch the global control with the guest. What keeps a guest's counters
//! from counting the host is in each selector that reaches hardware, whatever the guest wrote:
//! GuestOnly set and HostOnly clear, for a processor that runs with EFER.SVME set. The guest reads
//! back what it wrote.
//!
//! To a guest with EFER.SVME its own two bits tell itself from its guests ([`Mode`]); without,
//! they keep a counter from counting:
//!
//! | GuestOnly | HostOnly | counts |
//! | --- | --- | --- |
//! | 0 | 0 | in L1 and L2 |
//! | 1 | 0 | in L2, with EFER.SVME |
//! | 0 | 1 | in L1, with EFER.SVME |
//! | 1 | 1 | in L1 and L2, with EFER.SVME |
//!
//! A guest that has not got SVM has not got these bits: they are dropped when it writes them.

pub(crate) mod entry;
mod msr;

use crate::{
    caps::{HostPmu, PmuCaps, Requirement},
    counter::{Counter, CounterSet, Width},
    intercepts::{Access, Passthrough},
    model::{CounterWidth, GuestConfig, Mode, Model},
    msr::{EventSelector, Msr},
    register::{Register, WriteWidth},
    retired::{Event, Retired},
    vendor::Vendor,
};
use entry::Entry;

/// AMD's implementation of [`Vendor`].
pub(crate) struct Amd;

/// CPUID leaf of extended features, with SVM and PerfCtrExtCore in ECX.
const LEAF_FEATURES: u32 = 0x8000_0001;
/// SVM in CPUID.8000_0001H:ECX.
const FEATURE_SVM: u32 = 1 << 2;
/// PerfCtrExtCore in CPUID.8000_0001H:ECX.
const FEATURE_CORE: u32 = 1 << 23;
/// CPUID leaf of extended performance monitoring, with PerfMonV2 in EAX.
const LEAF_PERFMON: u32 = 0x8000_0022;
/// PerfMonV2 in CPUID.8000_0022H:EAX.
const FEATURE_V2: u32 = 1 << 0;
/// NumPerfCtrCore in CPUID.8000_0022H:EBX.
const NR_CORE: u32 = 0xf;

/// Counters of processors that have none but the legacy registers.
pub(crate) const LEGACY_COUNTERS: usize = 4;
/// Counters that PerfCtrExtCore stands for, and that KVM knows registers of.
pub(crate) const CORE_COUNTERS: usize = 6;

/// What events count of retired instructions: EX_RET_INSTR, _BRN, _BRN_TKN, _BRN_FAR, _NEAR_RET,
/// _IND_BRCH_INSTR and _COND (PPR, core performance monitor counters). They have no unit masks, and
/// disregard them.
const EVENTS: &[(u64, Event)] = &[
    (0xc0, Event::of(Retired::INSTRUCTION)),
    (0xc2, Event::of(Retired::BRANCH)),
    (0xc4, Event::of(Retired::TAKEN)),
    (0xc6, Event::of(Retired::FAR)),
    (0xc8, Event::of(Retired::NEAR_RETURN)),
    (0xcc, Event::of(Retired::INDIRECT)),
    (0xd1, Event::of(Retired::CONDITIONAL)),
];

/// LbrFreeze and PmcFreeze of PERF_CNTR_GLOBAL_STATUS: LBRs or counters are frozen. No guest has
/// them, but a counter does not count while they are set.
const STATUS_FROZEN: u64 = (1 << 58) | (1 << 59);

/// Bits of PERF_CTL that exist.
const SELECTOR_VALID: u64 = EventSelector::EVENT
    | EventSelector::EVENT_HIGH
    | EventSelector::USR
    | EventSelector::OS
    | EventSelector::EDGE
    | EventSelector::INT
    | EventSelector::EN
    | EventSelector::INV
    | EventSelector::CMASK;
/// Those that come with SVM.
const SELECTOR_WORLDS: u64 = EventSelector::GUEST_ONLY | EventSelector::HOST_ONLY;

/// What a host must have.
const REQUIREMENTS: &[Requirement] = &[
    Requirement::KVM_PMU,
    Requirement::new(
        "perf's mediated PMU support (CONFIG_PERF_GUEST_MEDIATED_PMU)",
        |h| h.mediated,
    ),
    Requirement::new("PerfMonV2", |h| h.version >= 2),
    Requirement::new("six core performance counters", |h| {
        h.counters.first_gp() as usize >= CORE_COUNTERS
    }),
    Requirement::new("MSR permission maps", |h| h.msr_bitmap),
    Requirement::new("the RDPMC intercept", |h| h.rdpmc_exiting),
];

impl Vendor for Amd {
    const NAME: &'static str = "AMD";
    const REQUIREMENTS: &'static [Requirement] = REQUIREMENTS;
    const COUNTERS: CounterSet = CounterSet::first(CORE_COUNTERS, 0);
    const RDPMC_FAULTS_FIRST: bool = true;
    const ENTRIES_COUNT: bool = true;

    type Units = Entry;

    fn offer(host: &HostPmu) -> PmuCaps {
        PmuCaps {
            version: host.version.min(2),
            gp: host.counters.first_gp().min(CORE_COUNTERS as u32),
            gp_width: host.gp_width,
            ..PmuCaps::default()
        }
    }

    fn model(host: &HostPmu, config: &impl GuestConfig) -> Model {
        let core = has_feature(config, FEATURE_CORE);
        let Some((version, gp)) = enumerated(config, core) else {
            return Model::default();
        };
        let counters = CounterSet::first(gp, 0) & Self::COUNTERS;
        let mut model = Model {
            version,
            counters,
            number_of_counters: counters.len(),
            // CPUID has no width to give.
            gp_width: CounterWidth::new(Width::new(64), host.gp_width),
            full_width_writes: core,
            status_lent: host.counters.bits() | STATUS_FROZEN,
            ignores_reserved: true,
            selector_valid: SELECTOR_VALID,
            selector_hardware: SELECTOR_VALID,
            selector_forced: EventSelector::GUEST_ONLY,
            ..Model::default()
        };
        if has_feature(config, FEATURE_SVM) {
            model.selector_valid |= SELECTOR_WORLDS;
        }
        if model.has_global_registers() {
            model.global_ctrl_valid = counters.bits();
            model.global_status_valid = counters.bits();
        }
        model.passthrough = passthrough(host, &model);
        model
    }

    fn register(model: &Model, msr: Msr) -> Option<Register> {
        core_register(model, msr)
            .or_else(|| legacy_register(model, msr))
            .or_else(|| global_register(model, msr))
    }

    /// KVM's ABI: the legacy addresses are all there as soon as there is a PMU. Else KVM would let
    /// the guest write to one whose counter it does not have.
    fn claims(model: &Model, msr: Msr) -> bool {
        let legacy = msr.index_from(Msr::LEGACY_PERF_CTL0, 2 * LEGACY_COUNTERS);
        model.exists() && legacy.is_some()
    }

    /// ECX is the number of the counter. The ones that follow those of the core are the data
    /// fabric's and the L3 cache's, which no guest has.
    fn rdpmc(model: &Model, ecx: u32) -> Option<Counter> {
        model.gp(ecx as usize)
    }

    fn intercepts(free: Passthrough) -> impl Iterator<Item = (Msr, Access)> {
        let legacy = (0..LEGACY_COUNTERS).map(|n| Msr::LEGACY_PERF_CTL0.nth(n as u32));
        let core = (0..CORE_COUNTERS).map(|n| Msr::PERF_CTL0.of_core_counter(n as u8));
        let selectors = legacy.chain(core).map(|msr| (msr, Access::NONE));
        let status = Access::all_if(free.global_status);
        let others = [
            (Msr::PERF_CNTR_GLOBAL_STATUS, status.without_writes()),
            (Msr::PERF_CNTR_GLOBAL_CTL, Access::all_if(free.global_ctrl)),
            (Msr::PERF_CNTR_GLOBAL_STATUS_CLR, status),
            (Msr::PERF_CNTR_GLOBAL_STATUS_SET, Access::NONE),
        ];
        selectors
            .chain(counter_intercepts(Self::COUNTERS, free))
            .chain(others)
    }

    fn counts_in(selector: EventSelector, mode: Mode) -> bool {
        let everywhere =
            !selector.has(EventSelector::GUEST_ONLY) && !selector.has(EventSelector::HOST_ONLY);
        let here = if mode.l2 {
            EventSelector::GUEST_ONLY
        } else {
            EventSelector::HOST_ONLY
        };
        everywhere || (mode.svme && selector.has(here))
    }

    fn event(selector: EventSelector) -> Option<Event> {
        if !selector.counts_lone_event() {
            return None;
        }
        let event = EVENTS.iter().find(|row| row.0 == event_of(selector));
        event.map(|row| row.1)
    }
}

/// The addresses of `counters`, and what the guest may do with each freely: rows of the whole
/// table.
pub(crate) fn counter_intercepts(
    counters: CounterSet,
    free: Passthrough,
) -> impl Iterator<Item = (Msr, Access)> {
    (0..CORE_COUNTERS)
        .filter(move |n| counters.has_gp(*n))
        .flat_map(move |n| {
            let is_free = free.counters.has_gp(n);
            let legacy = (Msr::LEGACY_PERF_CTR0.nth(n as u32), Access::all_if(is_free));
            let core = (
                Msr::PERF_CTR0.of_core_counter(n as u8),
                Access::all_if(free.full_width && is_free),
            );
            let has_legacy = n < LEGACY_COUNTERS;
            has_legacy.then_some(legacy).into_iter().chain([core])
        })
}

/// Version and number of counters as CPUID of the guest has them, `None` if it has neither feature.
fn enumerated(config: &impl GuestConfig, core: bool) -> Option<(u32, usize)> {
    match config.cpuid(LEAF_PERFMON) {
        Some(leaf) if leaf.eax & FEATURE_V2 != 0 => Some((2, (leaf.ebx & NR_CORE) as usize)),
        _ => core.then_some((1, CORE_COUNTERS)),
    }
}

/// Has the guest this feature of [`LEAF_FEATURES`], ECX?
fn has_feature(config: &impl GuestConfig, feature: u32) -> bool {
    config
        .cpuid(LEAF_FEATURES)
        .is_some_and(|leaf| leaf.ecx & feature != 0)
}

/// EventSelect\[11:0\].
fn event_of(selector: EventSelector) -> u64 {
    let bits = selector.bits();
    (bits & 0xff) | ((bits & EventSelector::EVENT_HIGH) >> 24)
}

/// A global register, if the guest has them.
fn global_register(model: &Model, msr: Msr) -> Option<Register> {
    let register = match msr {
        Msr::PERF_CNTR_GLOBAL_STATUS => Register::GlobalStatus,
        Msr::PERF_CNTR_GLOBAL_CTL => Register::GlobalCtrl,
        Msr::PERF_CNTR_GLOBAL_STATUS_CLR => Register::GlobalStatusReset,
        Msr::PERF_CNTR_GLOBAL_STATUS_SET => Register::GlobalStatusSet,
        _ => return None,
    };
    model.has_global_registers().then_some(register)
}

/// The counter or event selector at one of the legacy addresses.
fn legacy_register(model: &Model, msr: Msr) -> Option<Register> {
    if let Some(index) = msr.index_from(Msr::LEGACY_PERF_CTL0, LEGACY_COUNTERS) {
        return model.gp(index).map(Register::Selector);
    }
    let counter = model.gp(msr.index_from(Msr::LEGACY_PERF_CTR0, LEGACY_COUNTERS)?)?;
    Some(Register::Counter(counter, WriteWidth::Truncated))
}

/// The counter or event selector at one of the addresses that come with PerfCtrExtCore: selectors
/// are even, counters are odd.
fn core_register(model: &Model, msr: Msr) -> Option<Register> {
    if !model.full_width_writes {
        return None;
    }
    let offset = msr.index_from(Msr::PERF_CTL0, 2 * CORE_COUNTERS)?;
    let counter = model.gp(offset / 2)?;
    Some(if offset % 2 == 0 {
        Register::Selector(counter)
    } else {
        Register::Counter(counter, WriteWidth::Truncated)
    })
}

/// What the guest may access without an exit.
///
/// | register | free when |
/// | --- | --- |
/// | PerfCntrGlobalCtl | the guest has PerfMonV2 and all counters of the host |
/// | PerfCntrGlobalStatusClr, and reads of PerfCntrGlobalStatus | the same, and hardware's status is the guest's: see [`crate::switch`] |
/// | RDPMC | the guest has all counters of the host, which has none beyond the core's that RDPMC reads |
/// | counters | the guest has them, and the register |
/// | selectors | never: the event filter has its say, and GuestOnly is ours |
/// | PerfCntrGlobalStatusSet | never: a status bit that the guest set would look like an overflow |
/// | writes of PerfCntrGlobalStatus | never: KVM's ABI ignores them, and a processor need not |
fn passthrough(host: &HostPmu, model: &Model) -> Passthrough {
    let all_counters = host.counters.are(model.counters);
    let whole = model.has_global_registers() && all_counters;
    Passthrough {
        rdpmc: all_counters && !host.rdpmc_beyond_core,
        global_ctrl: whole,
        global_status: whole,
        counters: model.counters,
        full_width: model.full_width_writes,
    }
}
