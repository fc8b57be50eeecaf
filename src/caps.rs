// SPDX-License-Identifier: GPL-2.0

//! Capabilities: what the host has, what a mediated PMU needs of it, and what guests are offered.

#![forbid(unsafe_code)]

use crate::counter::Width;
use core::fmt;

/// Whose PMU and virtualization extension the host has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostVendor {
    /// No vendor module of KVM is loaded, or it has no PMU to offer.
    #[default]
    None,
    /// Architectural performance monitoring with VMX.
    Intel,
    /// Core performance counters with SVM.
    Amd,
}

/// What a PMU can do: the host's, or what guests may have at most.
///
/// The latter KVM reports to user space, and checks IA32_PERF_CAPABILITIES against it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PmuCaps {
    /// Version of architectural performance monitoring.
    pub version: u32,
    /// Number of general-purpose counters.
    pub gp: u32,
    /// Number of fixed counters.
    pub fixed: u32,
    /// Width of the general-purpose counters.
    pub gp_width: Width,
    /// Width of the fixed counters.
    pub fixed_width: Width,
    /// CPUID.0AH:EAX\[31:24\], the number of architectural events that EBX tells about.
    pub events_mask_len: u32,
    /// CPUID.0AH:EBX, a bit for each architectural event that is missing.
    pub events_mask: u32,
    /// IA32_PERF_CAPABILITIES, 0 where there is no such register.
    pub perf_capabilities: u64,
}

/// The host's PMU and the controls of its virtualization extension, as perf and KVM have them.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostPmu {
    /// Which rules apply.
    pub vendor: HostVendor,
    /// perf can hand the PMU over to guests.
    pub mediated: bool,
    /// KVM offers PMUs to guests at all: its parameter `enable_pmu`.
    pub pmu_enabled: bool,
    /// VM-entry can load IA32_PERF_GLOBAL_CTRL.
    pub entry_load_global_ctrl: bool,
    /// VM-exit can load IA32_PERF_GLOBAL_CTRL.
    pub exit_load_global_ctrl: bool,
    /// VM-exit can save IA32_PERF_GLOBAL_CTRL.
    pub exit_save_global_ctrl: bool,
    /// MSR accesses can be intercepted one by one.
    pub msr_bitmap: bool,
    /// RDPMC can be intercepted.
    pub rdpmc_exiting: bool,
    /// The processor has transactions (HLE or RTM), so selectors have IN_TX and IN_TXCP.
    pub transactions: bool,
    /// RDPMC reads counters that are not a core's, too (AMD: the data fabric's, the L3 cache's).
    pub rdpmc_beyond_core: bool,
    /// What its PMU can do.
    pub pmu: PmuCaps,
}

/// Something that the host must have for a mediated PMU.
pub struct Requirement {
    /// How a refusal calls it.
    pub name: &'static str,
    met: fn(&HostPmu) -> bool,
}

impl Requirement {
    /// KVM gives guests PMUs.
    pub const KVM_PMU: Self = Self::new("KVM's PMU support (kvm.enable_pmu=1)", |h| h.pmu_enabled);

    /// What a refusal calls `name`, and which a host has if it is `met`.
    pub const fn new(name: &'static str, met: fn(&HostPmu) -> bool) -> Self {
        Self { name, met }
    }
}

/// What a host lacks; displays as the names of all unmet requirements, separated by commas.
pub struct Missing<'a> {
    host: &'a HostPmu,
    requirements: &'static [Requirement],
}

/// Holds a host against a vendor's requirements.
///
/// # Errors
///
/// The requirements that are not met, all of them, for a message to the administrator.
pub fn check<'a>(
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
        Requirement::new("second", |h| h.pmu.version >= 4),
        Requirement::new("third", |h| h.msr_bitmap),
    ];

    #[test]
    fn all_that_is_missing_is_named_and_nothing_else() {
        let pmu = PmuCaps {
            version: 5,
            ..PmuCaps::default()
        };
        let host = HostPmu {
            pmu,
            ..HostPmu::default()
        };
        let missing = check(&host, RULES).map_err(|m| m.to_string());
        assert_eq!(missing, Err("first, third".to_string()));
    }

    #[test]
    fn a_host_with_everything_passes() {
        let pmu = PmuCaps {
            version: 4,
            ..PmuCaps::default()
        };
        let host = HostPmu {
            pmu,
            mediated: true,
            msr_bitmap: true,
            ..HostPmu::default()
        };
        assert!(check(&host, RULES).is_ok());
    }
}
