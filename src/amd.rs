// SPDX-License-Identifier: GPL-2.0

//! AMD's rules: core performance counters, APM Vol. 2 chapter 13.
//!
//! The host needs PerfMonV2: before it there is neither a way to stop all counters at once nor a
//! status that tells which of them overflowed. Guests have what user space gives them by CPUID:
//!
//! | CPUID of the guest | counters | their registers |
//! | --- | --- | --- |
//! | nothing | 4 | C001_0000H to C001_0007H |
//! | PerfCtrExtCore (8000_0001H:ECX\[23\]) | 6 | the same, of the first four, and C001_0200H to C001_020BH |
//! | PerfMonV2 (8000_0022H:EAX\[0\]) | 8000_0022H:EBX\[3:0\] | the same, and the global ones at C000_0300H |
//!
//! All counters are alike; there are no fixed ones.
//!
//! # HostOnly and GuestOnly
//!
//! SVM has no fields that switch the global control with the guest. What keeps a guest's counters from
//! counting the host is in each selector that reaches hardware, whatever the guest wrote: GuestOnly
//! set and HostOnly clear, for a processor that runs with EFER.SVME set. The guest reads back what it
//! wrote.
//!
//! To a guest with EFER.SVME its own two bits tell itself from its guests ([`crate::nested`]); without,
//! they keep a counter from counting:
//!
//! | GuestOnly | HostOnly | counts |
//! | --- | --- | --- |
//! | 0 | 0 | in L1 and L2 |
//! | 1 | 0 | in L2, with EFER.SVME |
//! | 0 | 1 | in L1, with EFER.SVME |
//! | 1 | 1 | in L1 and L2, with EFER.SVME |
//!
//! # VMRUN
//!
//! What changes the mode is counted in the mode that it changes to: VMRUN is a far control transfer,
//! the first instruction and the first branch of the guest, which is taken. A guest that counts any of
//! these would count its hypervisor, see [`crate::switch`].

#![forbid(unsafe_code)]

use crate::{
    caps::{HostPmu, HostVendor, PmuCaps, Requirement},
    counter::{CounterSet, Width},
    guest::{Register, WriteWidth},
    intercepts::{Free, Passthrough},
    model::{CounterWidth, GuestConfig, Model},
    msr::{EventSelector, Msr},
    nested::Mode,
    rdpmc::Operand,
    retired::Retired,
    vendor::Vendor,
};

/// AMD's implementation of [`Vendor`].
pub struct Amd;

/// CPUID leaf of extended features, with PerfCtrExtCore in ECX.
const LEAF_FEATURES: u32 = 0x8000_0001;
/// PerfCtrExtCore in CPUID.8000_0001H:ECX.
const FEATURE_CORE: u32 = 1 << 23;
/// CPUID leaf of extended performance monitoring, with PerfMonV2 in EAX.
const LEAF_PERFMON: u32 = 0x8000_0022;
/// PerfMonV2 in CPUID.8000_0022H:EAX.
const FEATURE_V2: u32 = 1 << 0;
/// NumPerfCtrCore in CPUID.8000_0022H:EBX.
const NR_CORE: u32 = 0xf;

/// Counters of processors that have none but the legacy registers.
const LEGACY_COUNTERS: usize = 4;
/// Counters that PerfCtrExtCore stands for, and that KVM knows registers of.
const CORE_COUNTERS: usize = 6;

/// EX_RET_INSTR, retired instructions.
const EVENT_INSTRUCTIONS: u64 = 0xc0;
/// EX_RET_BRN, retired branches, taken or not. Of other events of branches KVM does not tell whether
/// an emulated one is among them.
const EVENT_BRANCHES: u64 = 0xc2;
/// EX_RET_BRN_TKN, retired branches that are taken.
const EVENT_TAKEN: u64 = 0xc4;
/// EX_RET_BRN_FAR, retired far control transfers.
const EVENT_FAR: u64 = 0xc6;

/// MSR addresses of the APM, appendix A.8.
impl Msr {
    /// Event selector of core counter 0 at its legacy address, the others follow.
    pub const LEGACY_PERF_CTL0: Self = Self::new(0xc001_0000);
    /// Core counter 0 at its legacy address, the others follow.
    pub const LEGACY_PERF_CTR0: Self = Self::new(0xc001_0004);
    /// Event selector of core counter 0; the others follow at every second address.
    pub const PERF_CTL0: Self = Self::new(0xc001_0200);
    /// Core counter 0; the others follow at every second address.
    pub const PERF_CTR0: Self = Self::new(0xc001_0201);
    /// Overflows, read only.
    pub const PERF_CNTR_GLOBAL_STATUS: Self = Self::new(0xc000_0300);
    /// Enables of all counters.
    pub const PERF_CNTR_GLOBAL_CTL: Self = Self::new(0xc000_0301);
    /// Clears bits of the status.
    pub const PERF_CNTR_GLOBAL_STATUS_CLR: Self = Self::new(0xc000_0302);
    /// Sets bits of the status.
    pub const PERF_CNTR_GLOBAL_STATUS_SET: Self = Self::new(0xc000_0303);

    /// The register of core counter `index` whose sibling of counter 0 this is.
    pub const fn of_core_counter(self, index: u8) -> Self {
        self.nth(2 * index as u32)
    }
}

/// Fields of PERF_CTL that IA32_PERFEVTSEL does not have.
impl EventSelector {
    /// EventSelect\[11:8\].
    pub const EVENT_HIGH: u64 = 0xf << 32;
    /// GuestOnly: count in guests; with HostOnly, everywhere. It takes EFER.SVME to count at all.
    pub const GUEST_ONLY: u64 = 1 << 40;
    /// HostOnly: count outside of guests.
    pub const HOST_ONLY: u64 = 1 << 41;
}

/// Bits of PERF_CTL that exist.
const SELECTOR_VALID: u64 = EventSelector::EVENT
    | EventSelector::EVENT_HIGH
    | EventSelector::USR
    | EventSelector::OS
    | EventSelector::EDGE
    | EventSelector::INT
    | EventSelector::EN
    | EventSelector::INV
    | EventSelector::CMASK
    | EventSelector::GUEST_ONLY
    | EventSelector::HOST_ONLY;

const REQUIREMENTS: &[Requirement] = &[
    Requirement::KVM_PMU,
    Requirement::new(
        "perf's mediated PMU support (CONFIG_PERF_GUEST_MEDIATED_PMU)",
        |h| h.mediated,
    ),
    Requirement::new("PerfMonV2", |h| h.pmu.version >= 2),
    Requirement::new("six core performance counters", |h| {
        h.pmu.gp as usize >= CORE_COUNTERS
    }),
    Requirement::new("MSR permission maps", |h| h.msr_bitmap),
    Requirement::new("the RDPMC intercept", |h| h.rdpmc_exiting),
];

impl Vendor for Amd {
    const VENDOR: HostVendor = HostVendor::Amd;
    const NAME: &'static str = "AMD";
    const REQUIREMENTS: &'static [Requirement] = REQUIREMENTS;
    const COUNTERS: CounterSet = CounterSet::first(CORE_COUNTERS, 0);
    const ENTRY_RETIRES: bool = true;

    fn offer(host: &HostPmu) -> PmuCaps {
        PmuCaps {
            version: host.pmu.version.min(2),
            gp: host.pmu.gp.min(CORE_COUNTERS as u32),
            gp_width: host.pmu.gp_width,
            ..PmuCaps::default()
        }
    }

    fn model(host: &HostPmu, config: &impl GuestConfig) -> Model {
        let (version, gp, core) = enumerated(config);
        let counters = CounterSet::first(gp, 0) & Self::COUNTERS;
        let mut model = Model {
            version,
            counters,
            number_of_counters: counters.len(),
            // CPUID has no width to give.
            gp_width: CounterWidth::new(Width::new(64), host.pmu.gp_width),
            full_width_writes: core,
            ignores_reserved: true,
            selector_valid: SELECTOR_VALID,
            selector_hardware: SELECTOR_VALID & !EventSelector::HOST_ONLY,
            selector_forced: EventSelector::GUEST_ONLY,
            ..Model::default()
        };
        if model.has_global_registers() {
            model.global_ctrl_valid = counters.bits();
            model.global_status_valid = counters.bits();
        }
        model.passthrough = passthrough(host, &model);
        model
    }

    fn register(model: &Model, msr: Msr) -> Option<Register> {
        let global = model.has_global_registers();
        match msr {
            Msr::PERF_CNTR_GLOBAL_STATUS if global => Some(Register::GlobalStatus),
            Msr::PERF_CNTR_GLOBAL_CTL if global => Some(Register::GlobalCtrl),
            Msr::PERF_CNTR_GLOBAL_STATUS_CLR if global => Some(Register::GlobalStatusReset),
            Msr::PERF_CNTR_GLOBAL_STATUS_SET if global => Some(Register::GlobalStatusSet),
            _ => legacy_register(model, msr).or_else(|| core_register(model, msr)),
        }
    }

    /// KVM's ABI: the legacy addresses are all there as soon as there is a PMU. Else KVM would let
    /// the guest write to one whose counter it does not have.
    fn is_valid(model: &Model, msr: Msr) -> bool {
        let is_legacy = msr
            .index_from(Msr::LEGACY_PERF_CTL0, 2 * LEGACY_COUNTERS)
            .is_some();
        (is_legacy && model.exists()) || Self::register(model, msr).is_some()
    }

    /// ECX is the number of the counter. The ones that follow those of the core are the data fabric's
    /// and the L3 cache's, which no guest has.
    fn rdpmc(model: &Model, ecx: u32) -> Option<Operand> {
        model.gp(ecx as usize).map(Operand::Counter)
    }

    fn intercepts(free: Passthrough) -> impl Iterator<Item = (Msr, Free)> {
        let legacy = (0..LEGACY_COUNTERS).map(|n| Msr::LEGACY_PERF_CTL0.nth(n as u32));
        let core = (0..CORE_COUNTERS).map(|n| Msr::PERF_CTL0.of_core_counter(n as u8));
        let selectors = legacy.chain(core).map(|msr| (msr, Free::NOTHING));
        let global = Free::all_if(free.global);
        let others = [
            (Msr::PERF_CNTR_GLOBAL_STATUS, global.without_writes()),
            (Msr::PERF_CNTR_GLOBAL_CTL, global),
            (Msr::PERF_CNTR_GLOBAL_STATUS_CLR, global),
            (Msr::PERF_CNTR_GLOBAL_STATUS_SET, Free::NOTHING),
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

    /// The events of retired instructions and branches have no unit masks, and disregard them.
    fn selects(selector: EventSelector, retired: Retired) -> bool {
        let event = match retired {
            Retired::Instruction => EVENT_INSTRUCTIONS,
            Retired::Branch => EVENT_BRANCHES,
        };
        event_of(selector) == event && selector.counts_lone_event()
    }

    /// VMRUN is a far control transfer.
    fn counts_entry(selector: EventSelector) -> bool {
        let counts = matches!(
            event_of(selector),
            EVENT_INSTRUCTIONS | EVENT_BRANCHES | EVENT_TAKEN | EVENT_FAR
        );
        counts && selector.counts_lone_event()
    }

    fn fixed_counts(_index: u8, _retired: Retired) -> bool {
        false
    }
}

/// The addresses of `counters`, and what the guest may do with each freely: rows of the whole table.
pub fn counter_intercepts(
    counters: CounterSet,
    free: Passthrough,
) -> impl Iterator<Item = (Msr, Free)> {
    (0..CORE_COUNTERS)
        .filter(move |n| counters.has_gp(*n))
        .flat_map(move |n| {
            let is_free = free.counters.has_gp(n);
            let legacy = (Msr::LEGACY_PERF_CTR0.nth(n as u32), Free::all_if(is_free));
            let core = (
                Msr::PERF_CTR0.of_core_counter(n as u8),
                Free::all_if(free.full_width && is_free),
            );
            let has_legacy = n < LEGACY_COUNTERS;
            has_legacy.then_some(legacy).into_iter().chain([core])
        })
}

/// Version, number of counters, and whether there are registers beyond the legacy ones, as CPUID of
/// the guest has it.
fn enumerated(config: &impl GuestConfig) -> (u32, usize, bool) {
    let core = config
        .cpuid(LEAF_FEATURES, 0)
        .is_some_and(|leaf| leaf.ecx & FEATURE_CORE != 0);
    match config.cpuid(LEAF_PERFMON, 0) {
        Some(leaf) if leaf.eax & FEATURE_V2 != 0 => (2, (leaf.ebx & NR_CORE) as usize, core),
        _ if core => (1, CORE_COUNTERS, true),
        _ => (1, LEGACY_COUNTERS, false),
    }
}

/// EventSelect\[11:0\].
fn event_of(selector: EventSelector) -> u64 {
    let bits = selector.bits();
    (bits & 0xff) | ((bits & EventSelector::EVENT_HIGH) >> 24)
}

/// The counter or event selector at one of the legacy addresses.
fn legacy_register(model: &Model, msr: Msr) -> Option<Register> {
    if let Some(index) = msr.index_from(Msr::LEGACY_PERF_CTL0, LEGACY_COUNTERS) {
        return model.gp(index).map(Register::Selector);
    }
    let counter = model.gp(msr.index_from(Msr::LEGACY_PERF_CTR0, LEGACY_COUNTERS)?)?;
    Some(Register::Counter(counter, WriteWidth::Truncated))
}

/// The counter or event selector at one of the addresses that come with PerfCtrExtCore: selectors are
/// even, counters are odd.
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
/// | PerfCntrGlobalCtl, StatusClr, and reads of PerfCntrGlobalStatus | the guest has PerfMonV2 and all counters of the host |
/// | RDPMC | the guest has all counters of the host, which has none beyond the core's that RDPMC reads |
/// | counters | the guest has them, and the register |
/// | selectors | never: the event filter has its say, and GuestOnly is ours |
/// | PerfCntrGlobalStatusSet | never: a status bit that the guest set would look like an overflow |
/// | writes of PerfCntrGlobalStatus | never: KVM's ABI ignores them, and a processor need not |
fn passthrough(host: &HostPmu, model: &Model) -> Passthrough {
    let all_counters = host.pmu.gp == model.number_of_counters;
    let whole = model.has_global_registers() && all_counters;
    Passthrough {
        rdpmc: all_counters && !host.rdpmc_beyond_core,
        global: whole,
        counters: model.counters,
        full_width: model.full_width_writes,
        metrics: false,
    }
}
