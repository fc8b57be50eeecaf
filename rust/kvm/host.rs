// SPDX-License-Identifier: GPL-2.0

//! What KVM knows of the host, and what the administrator is told.

use crate::{
    caps::{HostCounters, HostPmu, HostVendor},
    counter::Width,
    sys::bindings,
};
use kernel::error::Error;

/// Asks KVM for the host's PMU. May sleep.
///
/// Without a vendor module of KVM everything is 0, and the vendor is [`HostVendor::None`]. While a
/// backend is registered the answer does not change.
pub(crate) fn host_pmu() -> HostPmu {
    let mut caps = bindings::kvm_vpmu_host_caps::default();
    // SAFETY: The pointer is valid for writes of a `struct kvm_vpmu_host_caps`.
    unsafe { bindings::kvm_vpmu_get_host_caps(&mut caps) };

    let has = |flag: u32| caps.flags & flag != 0;
    HostPmu {
        vendor: match caps.vendor {
            bindings::kvm_vpmu_vendor_KVM_VPMU_VENDOR_INTEL => HostVendor::Intel,
            bindings::kvm_vpmu_vendor_KVM_VPMU_VENDOR_AMD => HostVendor::Amd,
            _ => HostVendor::None,
        },
        mediated: has(bindings::kvm_vpmu_host_flags_KVM_VPMU_HOST_MEDIATED),
        pmu_enabled: has(bindings::kvm_vpmu_host_flags_KVM_VPMU_HOST_ENABLE_PMU),
        entry_load_global_ctrl: has(
            bindings::kvm_vpmu_host_flags_KVM_VPMU_HOST_ENTRY_LOAD_GLOBAL_CTRL,
        ),
        exit_load_global_ctrl: has(
            bindings::kvm_vpmu_host_flags_KVM_VPMU_HOST_EXIT_LOAD_GLOBAL_CTRL,
        ),
        exit_save_global_ctrl: has(
            bindings::kvm_vpmu_host_flags_KVM_VPMU_HOST_EXIT_SAVE_GLOBAL_CTRL,
        ),
        msr_bitmap: has(bindings::kvm_vpmu_host_flags_KVM_VPMU_HOST_MSR_BITMAP),
        rdpmc_exiting: has(bindings::kvm_vpmu_host_flags_KVM_VPMU_HOST_RDPMC_EXITING),
        // SAFETY: The function only looks at the processor's feature bits.
        transactions: unsafe { bindings::kmp_host_has_transactions() },
        // SAFETY: The function only looks at the processor's feature bits.
        rdpmc_beyond_core: unsafe { bindings::kmp_host_has_rdpmc_beyond_core() },
        version: caps.version,
        counters: HostCounters::from_bits(caps.counters),
        gp_width: Width::new(caps.bit_width_gp),
        fixed_width: Width::new(caps.bit_width_fixed),
        events_mask_len: caps.events_mask_len,
        events_mask: caps.events_mask,
        perf_capabilities: caps.perf_capabilities,
    }
}

/// `EOPNOTSUPP`, which Linux 6.18's `kernel::error::code` does not name: the host cannot do what
/// was asked for.
pub(crate) fn not_supported() -> Error {
    Error::from_errno(-(bindings::EOPNOTSUPP as i32))
}
