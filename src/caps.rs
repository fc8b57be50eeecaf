// SPDX-License-Identifier: GPL-2.0

//! Capabilities: what the host has, what a mediated PMU needs of it, and what guests are offered.

use crate::counter::{CounterSet, Width, FIXED_BASE};
use core::fmt;

/// Whose PMU and virtualization extension the host has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum HostVendor {
    /// No vendor module of KVM is loaded, or it has no PMU to offer.
    #[default]
    None,
    /// Architectural performance monitoring with VMX.
    Intel,
    /// Core performance counters with SVM.
    Amd,
}

/// The counters of a host, whether or not a guest can have them.
///
/// Bits are those of the global registers: general-purpose counter _n_ is bit _n_, up to 31, fixed
/// counter _n_ is bit 32 + _n_, up to 15. There may be gaps (CPUID leaves 0AH, ECX, and 23H). A
/// guest's counters are a [`CounterSet`], which has neither gaps nor more counters than there are
/// MSR addresses for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostCounters(u64);

impl HostCounters {
    /// Bits that are a counter's; above them are other things that the global registers enable.
    const VALID: u64 = 0x0000_ffff_ffff_ffff;

    /// The counters whose bits are set.
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits & Self::VALID)
    }

    /// The bits as they stand in the global registers.
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// How many general-purpose counters follow each other from 0 on.
    pub(crate) const fn first_gp(self) -> u32 {
        (self.0 as u32).trailing_ones()
    }

    /// How many fixed counters follow each other from 0 on.
    pub(crate) const fn first_fixed(self) -> u32 {
        (self.0 >> FIXED_BASE).trailing_ones()
    }

    /// Are these the counters of `set`, all of them and no others?
    pub(crate) const fn are(self, set: CounterSet) -> bool {
        self.0 == set.bits()
    }

    /// Those that a guest lacks even if it has all of `offer`.
    pub(crate) fn not_in(self, offer: &PmuCaps) -> Self {
        let offered = CounterSet::first(offer.gp as usize, offer.fixed as usize);
        Self(self.0 & !offered.bits())
    }

    /// Is there no counter among these?
    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Numbers separated by commas; those of fixed counters have the word before them.
impl fmt::Display for HostCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = (0..u64::BITS).filter(|bit| self.0 & (1 << bit) != 0);
        for (n, bit) in bits.enumerate() {
            if n > 0 {
                f.write_str(", ")?;
            }
            if bit < FIXED_BASE {
                write!(f, "{bit}")?;
            } else {
                write!(f, "fixed {}", bit - FIXED_BASE)?;
            }
        }
        Ok(())
    }
}

/// What guests may have at most.
///
/// KVM reports it to user space, and checks IA32_PERF_CAPABILITIES against it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PmuCaps {
    /// Version of architectural performance monitoring.
    pub(crate) version: u32,
    /// Number of general-purpose counters, from 0 on.
    pub(crate) gp: u32,
    /// Number of fixed counters, from 0 on.
    pub(crate) fixed: u32,
    /// Width of the general-purpose counters.
    pub(crate) gp_width: Width,
    /// Width of the fixed counters.
    pub(crate) fixed_width: Width,
    /// CPUID.0AH:EAX\[31:24\], the number of architectural events that EBX tells about.
    pub(crate) events_mask_len: u32,
    /// CPUID.0AH:EBX, a bit for each architectural event that is missing.
    pub(crate) events_mask: u32,
    /// IA32_PERF_CAPABILITIES, 0 where there is no such register.
    pub(crate) perf_capabilities: u64,
}

/// The host's PMU and the controls of its virtualization extension, as perf and KVM have them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HostPmu {
    /// Which rules apply.
    pub(crate) vendor: HostVendor,
    /// perf can hand the PMU over to guests.
    pub(crate) mediated: bool,
    /// KVM offers PMUs to guests at all: its parameter `enable_pmu`.
    pub(crate) pmu_enabled: bool,
    /// VM-entry can load IA32_PERF_GLOBAL_CTRL.
    pub(crate) entry_load_global_ctrl: bool,
    /// VM-exit can load IA32_PERF_GLOBAL_CTRL.
    pub(crate) exit_load_global_ctrl: bool,
    /// VM-exit can save IA32_PERF_GLOBAL_CTRL.
    pub(crate) exit_save_global_ctrl: bool,
    /// MSR accesses can be intercepted one by one.
    pub(crate) msr_bitmap: bool,
    /// RDPMC can be intercepted.
    pub(crate) rdpmc_exiting: bool,
    /// The processor has transactions (HLE or RTM), so selectors have IN_TX and IN_TXCP.
    pub(crate) transactions: bool,
    /// RDPMC reads counters that are not a core's, too, but a cache's or a bus's.
    pub(crate) rdpmc_beyond_core: bool,
    /// Version of architectural performance monitoring.
    pub(crate) version: u32,
    /// The counters that exist.
    pub(crate) counters: HostCounters,
    /// Width of the general-purpose counters.
    pub(crate) gp_width: Width,
    /// Width of the fixed counters.
    pub(crate) fixed_width: Width,
    /// CPUID.0AH:EAX\[31:24\], the number of architectural events that EBX tells about.
    pub(crate) events_mask_len: u32,
    /// CPUID.0AH:EBX, a bit for each architectural event that is missing.
    pub(crate) events_mask: u32,
    /// IA32_PERF_CAPABILITIES, 0 where there is no such register.
    pub(crate) perf_capabilities: u64,
}

/// What no guest can have of `host`, where guests are offered `offer`; displays as the end of a
/// line that tells the administrator what guests get, empty if they can have all of it.
pub(crate) struct Unoffered<'a> {
    /// The host.
    pub(crate) host: &'a HostPmu,
    /// What its guests may have at most.
    pub(crate) offer: &'a PmuCaps,
}

impl fmt::Display for Unoffered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counters = self.host.counters.not_in(self.offer);
        if counters.is_empty() {
            return Ok(());
        }
        write!(
            f,
            "; RDPMC and GLOBAL_CTRL exit in every guest, for none can have the host's counters: {counters}"
        )
    }
}

/// Something that the host must have for a mediated PMU.
pub(crate) struct Requirement {
    /// How a refusal calls it.
    pub(crate) name: &'static str,
    /// Has this host got it?
    met: fn(&HostPmu) -> bool,
}

impl Requirement {
    /// KVM gives guests PMUs.
    pub(crate) const KVM_PMU: Self =
        Self::new("KVM's PMU support (kvm.enable_pmu=1)", |h| h.pmu_enabled);

    /// What a refusal calls `name`, and which a host has if it is `met`.
    pub(crate) const fn new(name: &'static str, met: fn(&HostPmu) -> bool) -> Self {
        Self { name, met }
    }
}

/// What a host lacks; displays as the names of all unmet requirements, separated by commas.
pub(crate) struct Missing<'a> {
    /// The host.
    host: &'a HostPmu,
    /// What it was held against.
    requirements: &'static [Requirement],
}

/// Holds a host against a vendor's requirements.
///
/// # Errors
///
/// The requirements that are not met, all of them, for a message to the administrator.
pub(crate) fn check<'a>(
    host: &'a HostPmu,
    requirements: &'static [Requirement],
) -> Result<(), Missing<'a>> {
    if requirements.iter().all(|r| (r.met)(host)) {
        return Ok(());
    }
    Err(Missing { host, requirements })
}

impl fmt::Display for Missing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unmet = self.requirements.iter().filter(|r| !(r.met)(self.host));
        for (n, requirement) in unmet.enumerate() {
            if n > 0 {
                f.write_str(", ")?;
            }
            f.write_str(requirement.name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &[Requirement] = &[
        Requirement::new("first", |h| h.mediated),
        Requirement::new("second", |h| h.version >= 4),
        Requirement::new("third", |h| h.msr_bitmap),
    ];

    #[test]
    fn all_that_is_missing_is_named_and_nothing_else() {
        let host = HostPmu {
            version: 5,
            ..HostPmu::default()
        };
        let missing = check(&host, RULES).map_err(|m| m.to_string());
        assert_eq!(missing, Err("first, third".to_string()));
    }

    #[test]
    fn a_host_with_everything_passes() {
        let host = HostPmu {
            version: 4,
            mediated: true,
            msr_bitmap: true,
            ..HostPmu::default()
        };
        assert!(check(&host, RULES).is_ok());
    }
    /// The end of the line of a host with counters `host`, whose guests get `gp` and `fixed` of
    /// them.
    fn unoffered(host: u64, gp: u32, fixed: u32) -> String {
        let host = HostPmu {
            counters: HostCounters::from_bits(host),
            ..HostPmu::default()
        };
        let offer = PmuCaps {
            gp,
            fixed,
            ..PmuCaps::default()
        };
        let (host, offer) = (&host, &offer);
        Unoffered { host, offer }.to_string()
    }

    #[test]
    fn counters_that_no_guest_can_have_are_named() {
        assert_eq!(unoffered(0xf_0000_00ff, 8, 4), "");
        assert_eq!(unoffered(0x3f, 6, 0), "");
        assert_eq!(
            unoffered(0x77_0000_00ff, 8, 3),
            "; RDPMC and GLOBAL_CTRL exit in every guest, \
             for none can have the host's counters: fixed 4, fixed 5, fixed 6"
        );
        let more = unoffered(0x1f_0000_03ff, 8, 4);
        assert!(more.ends_with(": 8, 9, fixed 4"), "{more}");
    }

    #[test]
    fn counters_are_contiguous_up_to_the_first_gap() {
        let runs = |bits| {
            let counters = HostCounters::from_bits(bits);
            (counters.first_gp(), counters.first_fixed())
        };
        assert_eq!(runs(0xf_0000_00ff), (8, 4));
        assert_eq!(runs(0x77_0000_00ff), (8, 3));
        assert_eq!(runs(0xf_0000_03ff), (10, 4));
        assert_eq!(runs(0x3f), (6, 0));
        assert_eq!(runs(0xe_0000_000d), (1, 0));
        assert_eq!(runs(u64::MAX), (32, 16));
        assert_eq!(runs(0), (0, 0));
    }
}
