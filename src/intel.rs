// SPDX-License-Identifier: GPL-2.0

//! Intel's rules: architectural performance monitoring, SDM Vol. 3B.
//!
//! The host needs version 4, for IA32_PERF_GLOBAL_STATUS_SET: without it a saved status could not be
//! restored. Guests get version 2 whatever user space asks for, so that version 4's own registers do
//! not exist for them.

#![forbid(unsafe_code)]

use crate::{
    caps::{HostPmu, HostVendor, PmuCaps, Requirement},
    counter::{Counter, CounterSet, Kind, Width, MAX_FIXED, MAX_GP},
    guest::{Register, WriteWidth},
    intercepts::{self, Free, Passthrough},
    model::{CounterWidth, CpuidLeaf, GuestConfig, Model},
    msr::{global_ctrl, global_status, perf_capabilities, EventSelector, FixedCtrCtrl, Msr},
    rdpmc::{self, Operand},
    retired::Retired,
    vendor::Vendor,
};

/// Intel's implementation of [`Vendor`].
pub struct Intel;

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

/// INST_RETIRED.ANY_P.
const EVENT_INSTRUCTIONS: u16 = 0x00c0;
/// BR_INST_RETIRED.ALL_BRANCHES.
const EVENT_BRANCHES: u16 = 0x00c4;
/// The fixed counter of INST_RETIRED.ANY.
const FIXED_INSTRUCTIONS: u8 = 0;

const REQUIREMENTS: &[Requirement] = &[
    Requirement::KVM_PMU,
    Requirement::new(
        "perf's mediated PMU support (CONFIG_PERF_GUEST_MEDIATED_PMU, not a hybrid processor)",
        |h| h.mediated,
    ),
    Requirement::new("architectural performance monitoring version 4", |h| {
        h.pmu.version >= 4
    }),
    Requirement::new(
        "full-width counter writes (PERF_CAPABILITIES.FW_WRITE)",
        |h| h.pmu.perf_capabilities & perf_capabilities::FW_WRITE != 0,
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
    const VENDOR: HostVendor = HostVendor::Intel;
    const NAME: &'static str = "Intel";
    const REQUIREMENTS: &'static [Requirement] = REQUIREMENTS;
    const COUNTERS: CounterSet = CounterSet::ALL;
    const ENTRY_RETIRES: bool = false;

    fn offer(host: &HostPmu) -> PmuCaps {
        let pmu = &host.pmu;
        PmuCaps {
            version: pmu.version.min(GUEST_VERSION),
            gp: pmu.gp.min(MAX_GP as u32),
            fixed: pmu.fixed.min(MAX_FIXED as u32),
            perf_capabilities: pmu.perf_capabilities & GUEST_PERF_CAPABILITIES,
            ..*pmu
        }
    }

    fn model(host: &HostPmu, config: &impl GuestConfig) -> Model {
        let Some(leaf) = config.cpuid(LEAF_PERFMON, 0).map(Perfmon) else {
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
            selector_valid: SELECTOR_VALID,
            selector_hardware: SELECTOR_VALID & !EventSelector::PIN_CONTROL,
            ..Model::default()
        };
        if host.transactions && has_transactions(config) {
            model.selector_valid |= EventSelector::IN_TX;
            model.selector2_valid |= EventSelector::IN_TXCP;
            model.selector_hardware |= EventSelector::IN_TX | EventSelector::IN_TXCP;
        }
        model.metrics = has_metrics(&caps, config) && counters.contains(Counter::SLOTS);
        add_controls(&mut model);
        model.passthrough = passthrough(host, &model);
        model
    }

    fn register(model: &Model, msr: Msr) -> Option<Register> {
        let global = model.has_global_registers();
        match msr {
            Msr::IA32_PERF_METRICS if model.metrics => Some(Register::Metrics),
            Msr::IA32_FIXED_CTR_CTRL if global => Some(Register::FixedCtrCtrl),
            Msr::IA32_PERF_GLOBAL_CTRL if global => Some(Register::GlobalCtrl),
            Msr::IA32_PERF_GLOBAL_STATUS if global => Some(Register::GlobalStatus),
            Msr::IA32_PERF_GLOBAL_STATUS_RESET if global => Some(Register::GlobalStatusReset),
            _ => counter_register(model, msr),
        }
    }

    fn rdpmc(model: &Model, ecx: u32) -> Option<Operand> {
        rdpmc::decode(model, ecx)
    }

    fn intercepts(free: Passthrough) -> impl Iterator<Item = (Msr, Free)> {
        intercepts::table(free)
    }

    fn selects(selector: EventSelector, retired: Retired) -> bool {
        let event = match retired {
            Retired::Instruction => EVENT_INSTRUCTIONS,
            Retired::Branch => EVENT_BRANCHES,
        };
        // KVM does not emulate inside of a transaction.
        selector.event() == event
            && !selector.has(EventSelector::IN_TX)
            && selector.counts_lone_event()
    }

    fn fixed_counts(index: u8, retired: Retired) -> bool {
        index == FIXED_INSTRUCTIONS && retired == Retired::Instruction
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

/// Which bits IA32_FIXED_CTR_CTRL and the global registers have, where there are any.
fn add_controls(model: &mut Model) {
    let counters = model.counters;
    if model.has_global_registers() {
        model.fixed_ctrl_valid = fixed_ctrl_valid(counters);
        model.global_ctrl_valid = counters.bits();
        model.global_status_valid =
            counters.bits() | global_status::OVF_DS_BUFFER | global_status::COND_CHGD;
    }
    if model.metrics {
        model.global_ctrl_valid |= global_ctrl::PERF_METRICS;
        model.global_status_valid |= global_status::OVF_PERF_METRICS;
    }
}

/// Has the guest HLE or RTM?
fn has_transactions(config: &impl GuestConfig) -> bool {
    config
        .cpuid(LEAF_FEATURES, 0)
        .is_some_and(|leaf| leaf.ebx & FEATURE_TRANSACTIONS != 0)
}

/// Have both the host, of which `offer` tells, and the guest PERF_METRICS?
fn has_metrics(offer: &PmuCaps, config: &impl GuestConfig) -> bool {
    let both = offer.perf_capabilities & config.perf_capabilities();
    both & perf_capabilities::PERF_METRICS != 0
}

/// Valid bits of IA32_FIXED_CTR_CTRL: all of a counter's field but AnyThread, a version 3 bit.
fn fixed_ctrl_valid(counters: CounterSet) -> u64 {
    let field = FixedCtrCtrl::OS | FixedCtrCtrl::USR | FixedCtrCtrl::PMI;
    counters
        .iter()
        .map(|counter| match counter.kind() {
            Kind::Gp(_) => 0,
            Kind::Fixed(index) => FixedCtrCtrl::place(index, field),
        })
        .fold(0, |valid, field| valid | field)
}

/// What the guest may access without an exit; [`crate::intercepts`] has the reasons.
fn passthrough(host: &HostPmu, model: &Model) -> Passthrough {
    let host_metrics = host.pmu.perf_capabilities & perf_capabilities::PERF_METRICS != 0;
    let gp_native = model.gp_width.is_native();
    let fixed_native = model.fixed_width.is_native();

    // A host with more counters than a guest can have is never seen whole.
    let (gp, fixed) = (host.pmu.gp as usize, host.pmu.fixed as usize);
    let all_counters =
        gp <= MAX_GP && fixed <= MAX_FIXED && model.counters == CounterSet::first(gp, fixed);
    let whole = model.has_global_registers()
        && all_counters
        && gp_native
        && fixed_native
        && host_metrics == model.metrics;

    let free_gp = if gp_native { MAX_GP } else { 0 };
    let free_fixed = if fixed_native { MAX_FIXED } else { 0 };
    Passthrough {
        rdpmc: whole,
        global: whole,
        counters: model.counters & CounterSet::first(free_gp, free_fixed),
        full_width: model.full_width_writes,
        metrics: model.metrics,
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
        return Some(Register::Counter(counter, WriteWidth::Truncated));
    }
    if let Some(register) = gp(Msr::IA32_PMC0, WriteWidth::SignExtended) {
        return Some(register);
    }
    if model.full_width_writes {
        return gp(Msr::IA32_A_PMC0, WriteWidth::Full);
    }
    None
}
