// SPDX-License-Identifier: GPL-2.0

//! Intel's rules: architectural performance monitoring, SDM Vol. 3B.
//!
//! The host needs version 4, for IA32_PERF_GLOBAL_STATUS_SET: without it a saved status could not
//! be restored. Guests get version 2 whatever user space asks for, so that version 4's own
//! registers do not exist for them.

pub(crate) mod fixed;
mod intercepts;
pub(crate) mod metrics;
pub(crate) mod msr;
pub(crate) mod rdpmc;

use crate::{
    caps::{HostPmu, PmuCaps, Requirement},
    counter::{Counter, CounterSet, Width, MAX_FIXED, MAX_GP},
    intercepts::{Access, Passthrough},
    model::{CounterWidth, CpuidLeaf, GuestConfig, Mode, Model},
    msr::{EventSelector, Msr},
    register::{Register, WriteWidth},
    retired::{Event, Retired},
    vendor::Vendor,
};
use fixed::FixedControl;
use metrics::Metrics;
use msr::{global_status, perf_capabilities};

/// Intel's implementation of [`Vendor`].
pub(crate) struct Intel;

/// CPUID leaf of architectural performance monitoring.
const LEAF_PERFMON: u32 = 0x0a;
/// CPUID leaf of extended features, with HLE and RTM in EBX.
const LEAF_FEATURES: u32 = 7;
/// HLE and RTM in CPUID.(EAX=7,ECX=0):EBX.
const FEATURE_TRANSACTIONS: u32 = (1 << 4) | (1 << 11);

/// Highest version that guests get.
const GUEST_VERSION: u32 = 2;

/// Bits of IA32_PERF_CAPABILITIES that guests may have.
const GUEST_PERF_CAPABILITIES: u64 = perf_capabilities::FW_WRITE | perf_capabilities::PERF_METRICS;

/// Bits of a selector that every guest can set: all of 31:0 but AnyThread, a version 3 bit.
const SELECTOR_VALID: u64 = 0xffff_ffff & !EventSelector::ANY_THREAD;

/// Conditional branches that are not taken.
const NOT_TAKEN: Event = Event::of(Retired::CONDITIONAL).but_not(Retired::TAKEN);
/// Near branches that are.
const NEAR_TAKEN: Event = Event::of(Retired::TAKEN).but_not(Retired::FAR);

/// What events count of retired instructions, by event select and unit mask.
const EVENTS: &[(u16, Event)] = &[
    // INST_RETIRED.ANY_P
    (0x00c0, Event::of(Retired::INSTRUCTION)),
    // BR_INST_RETIRED: .ALL_BRANCHES, .COND_TAKEN, .NEAR_CALL, .NEAR_RETURN, .COND_NTAKEN, .COND,
    // .NEAR_TAKEN, .FAR_BRANCH, .INDIRECT
    (0x00c4, Event::of(Retired::BRANCH)),
    (0x01c4, Event::of(Retired::CONDITIONAL.and(Retired::TAKEN))),
    (0x02c4, Event::of(Retired::NEAR_CALL)),
    (0x08c4, Event::of(Retired::NEAR_RETURN)),
    (0x10c4, NOT_TAKEN),
    (0x11c4, Event::of(Retired::CONDITIONAL)),
    (0x20c4, NEAR_TAKEN),
    (0x40c4, Event::of(Retired::FAR)),
    (0x80c4, Event::of(Retired::INDIRECT)),
];

/// What a host must have.
const REQUIREMENTS: &[Requirement] = &[
    Requirement::KVM_PMU,
    Requirement::new(
        "perf's mediated PMU support (CONFIG_PERF_GUEST_MEDIATED_PMU, not a hybrid processor)",
        |h| h.mediated,
    ),
    Requirement::new("architectural performance monitoring version 4", |h| {
        h.version >= 4
    }),
    Requirement::new(
        "full-width counter writes (PERF_CAPABILITIES.FW_WRITE)",
        |h| h.perf_capabilities & perf_capabilities::FW_WRITE != 0,
    ),
    Requirement::new("VM-entry load of IA32_PERF_GLOBAL_CTRL", |h| {
        h.entry_load_global_ctrl
    }),
    Requirement::new("VM-exit load of IA32_PERF_GLOBAL_CTRL", |h| {
        h.exit_load_global_ctrl
    }),
    Requirement::new("VM-exit save of IA32_PERF_GLOBAL_CTRL", |h| {
        h.exit_save_global_ctrl
    }),
    Requirement::new("MSR bitmaps", |h| h.msr_bitmap),
    Requirement::new("RDPMC exiting", |h| h.rdpmc_exiting),
];

impl Vendor for Intel {
    const NAME: &'static str = "Intel";
    const REQUIREMENTS: &'static [Requirement] = REQUIREMENTS;
    const COUNTERS: CounterSet = CounterSet::ALL;
    const RDPMC_FAULTS_FIRST: bool = false;
    const ENTRIES_COUNT: bool = false;

    type Units = (FixedControl, Metrics);

    fn offer(host: &HostPmu) -> PmuCaps {
        // CPUID gives numbers of counters, so guests can have those before the first gap.
        PmuCaps {
            version: host.version.min(GUEST_VERSION),
            gp: host.counters.first_gp().min(MAX_GP as u32),
            fixed: host.counters.first_fixed().min(MAX_FIXED as u32),
            gp_width: host.gp_width,
            fixed_width: host.fixed_width,
            events_mask_len: host.events_mask_len,
            events_mask: host.events_mask,
            perf_capabilities: host.perf_capabilities & GUEST_PERF_CAPABILITIES,
        }
    }

    fn model(host: &HostPmu, config: &impl GuestConfig) -> Model {
        let Some(leaf) = config.cpuid(LEAF_PERFMON).map(Perfmon) else {
            return Model::default();
        };
        let caps = Self::offer(host);
        let version = leaf.version().min(caps.version);
        if version == 0 {
            return Model::default();
        }

        let counters = counters(&leaf, &caps, version);
        let mut model = Model {
            version,
            counters,
            number_of_counters: counters.len(),
            gp_width: CounterWidth::new(leaf.gp_width(), caps.gp_width),
            fixed_width: CounterWidth::new(leaf.fixed_width(), caps.fixed_width),
            full_width_writes: config.perf_capabilities() & perf_capabilities::FW_WRITE != 0,
            status_lent: host.counters.bits() | global_status::FROZEN,
            selector_valid: SELECTOR_VALID,
            selector_hardware: SELECTOR_VALID & !EventSelector::PIN_CONTROL,
            ..Model::default()
        };
        if host.transactions && has_transactions(config) {
            model.selector_valid |= EventSelector::IN_TX;
            model.selector2_valid |= EventSelector::IN_TXCP;
            model.selector_hardware |= EventSelector::IN_TX | EventSelector::IN_TXCP;
        }
        add_controls(&mut model);
        model.passthrough = passthrough(host, &model);
        model
    }

    fn register(model: &Model, msr: Msr) -> Option<Register> {
        let global = model.has_global_registers();
        match msr {
            Msr::IA32_PERF_GLOBAL_CTRL if global => Some(Register::GlobalCtrl),
            Msr::IA32_PERF_GLOBAL_STATUS if global => Some(Register::GlobalStatus),
            Msr::IA32_PERF_GLOBAL_STATUS_RESET if global => Some(Register::GlobalStatusReset),
            _ => counter_register(model, msr),
        }
    }

    fn claims(_model: &Model, _msr: Msr) -> bool {
        false
    }

    fn rdpmc(model: &Model, ecx: u32) -> Option<Counter> {
        rdpmc::decode(model, ecx)
    }

    fn intercepts(free: Passthrough) -> impl Iterator<Item = (Msr, Access)> {
        intercepts::table(free)
    }

    fn counts_in(_selector: EventSelector, _mode: Mode) -> bool {
        true
    }

    fn event(selector: EventSelector) -> Option<Event> {
        // KVM does not emulate inside of a transaction.
        if selector.has(EventSelector::IN_TX) || !selector.counts_lone_event() {
            return None;
        }
        let event = EVENTS.iter().find(|row| row.0 == selector.event());
        event.map(|row| row.1)
    }
}

/// CPUID leaf 0AH.
struct Perfmon(CpuidLeaf);

impl Perfmon {
    /// EAX\[7:0\].
    fn version(&self) -> u32 {
        self.0.eax & 0xff
    }

    /// EAX\[15:8\], number of general-purpose counters.
    fn gp(&self) -> u32 {
        (self.0.eax >> 8) & 0xff
    }

    /// EAX\[23:16\].
    fn gp_width(&self) -> Width {
        Width::new((self.0.eax >> 16) & 0xff)
    }

    /// EDX\[4:0\], number of contiguous fixed counters.
    fn fixed(&self) -> u32 {
        self.0.edx & 0x1f
    }

    /// EDX\[12:5\].
    fn fixed_width(&self) -> Width {
        Width::new((self.0.edx >> 5) & 0xff)
    }
}

/// The counters that both the guest's leaf and `offer` have.
fn counters(leaf: &Perfmon, offer: &PmuCaps, version: u32) -> CounterSet {
    let gp = leaf.gp().min(offer.gp);
    // Fixed counters come with version 2, and IA32_FIXED_CTR_CTRL with them.
    let fixed = if version > 1 {
        leaf.fixed().min(offer.fixed)
    } else {
        0
    };
    CounterSet::first(gp as usize, fixed as usize)
}

/// Which bits the global registers have, where there are any.
fn add_controls(model: &mut Model) {
    let counters = model.counters;
    if model.has_global_registers() {
        model.global_ctrl_valid = counters.bits();
        model.global_status_valid =
            counters.bits() | global_status::OVF_DS_BUFFER | global_status::COND_CHGD;
    }
}

/// Has the guest HLE or RTM?
fn has_transactions(config: &impl GuestConfig) -> bool {
    config
        .cpuid(LEAF_FEATURES)
        .is_some_and(|leaf| leaf.ebx & FEATURE_TRANSACTIONS != 0)
}

/// What the guest may access without an exit; the table in `intercepts.rs` has the reasons.
fn passthrough(host: &HostPmu, model: &Model) -> Passthrough {
    let gp_native = model.gp_width.is_native();
    let fixed_native = model.fixed_width.is_native();

    // A host with counters that no guest can have is never seen whole.
    let whole = model.has_global_registers()
        && host.counters.are(model.counters)
        && gp_native
        && fixed_native;

    let free_gp = if gp_native { MAX_GP } else { 0 };
    let free_fixed = if fixed_native { MAX_FIXED } else { 0 };
    Passthrough {
        rdpmc: whole,
        global_ctrl: whole,
        global_status: whole,
        counters: model.counters & CounterSet::first(free_gp, free_fixed),
        full_width: model.full_width_writes,
    }
}

/// The counter or event selector at `msr`.
fn counter_register(model: &Model, msr: Msr) -> Option<Register> {
    let gp = |base, width| {
        let counter = model.gp(msr.index_from(base, MAX_GP)?)?;
        Some(Register::Counter(counter, width))
    };
    if let Some(index) = msr.index_from(Msr::IA32_PERFEVTSEL0, MAX_GP) {
        return model.gp(index).map(Register::Selector);
    }
    if let Some(index) = msr.index_from(Msr::IA32_FIXED_CTR0, MAX_FIXED) {
        let counter = model.fixed(index)?;
        return Some(Register::Counter(counter, WriteWidth::FullByGuest));
    }
    if let Some(register) = gp(Msr::IA32_PMC0, WriteWidth::SignExtended) {
        return Some(register);
    }
    if model.full_width_writes {
        return gp(Msr::IA32_A_PMC0, WriteWidth::Full);
    }
    None
}
