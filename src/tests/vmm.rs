// SPDX-License-Identifier: GPL-2.0

//! A hypervisor that gives one guest a mediated PMU, on two processors.

use super::cpu::Cpu;
use crate::{
    caps::{HostPmu, HostVendor, PmuCaps},
    counter::Width,
    filter::EventFilter,
    guest::{GuestPmu, Initiator},
    intercepts::Free,
    model::{CpuidLeaf, GuestConfig},
    msr::{EventSelector, Msr},
    pmi::{Lvtpc, Pmi},
    retired::Retired,
    switch,
    vendor::Vendor,
};

/// What user space makes of a guest's PMU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Config {
    pub(super) version: u32,
    pub(super) gp: u32,
    pub(super) fixed: u32,
    pub(super) width: u32,
    pub(super) full_width: bool,
    /// The guest has PERF_METRICS, if the host has them.
    pub(super) metrics: bool,
    /// The host has PERF_METRICS.
    pub(super) host_metrics: bool,
}

impl GuestConfig for Config {
    fn cpuid(&self, leaf: u32, _index: u32) -> Option<CpuidLeaf> {
        (leaf == 0x0a).then_some(CpuidLeaf {
            eax: (self.width << 16) | (self.gp << 8) | self.version,
            edx: (self.width << 5) | self.fixed,
            ..CpuidLeaf::default()
        })
    }

    fn perf_capabilities(&self) -> u64 {
        (u64::from(self.full_width) << 13) | (u64::from(self.metrics) << 15)
    }
}

/// A guest that has everything.
pub(super) const FULL: Config = Config {
    version: 2,
    gp: 8,
    fixed: 4,
    width: 48,
    full_width: true,
    metrics: true,
    host_metrics: true,
};

/// An event filter that denies one event, if any.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deny(pub(super) Option<u64>);

impl EventFilter for Deny {
    fn allows(&self, selector: EventSelector) -> bool {
        self.0 != Some(u64::from(selector.event()))
    }

    fn allows_fixed(&self, _index: u8) -> bool {
        true
    }
}

/// A Sapphire Rapids.
pub(super) fn host() -> HostPmu {
    let pmu = PmuCaps {
        version: 5,
        gp: 8,
        fixed: 4,
        gp_width: Width::new(48),
        fixed_width: Width::new(48),
        events_mask_len: 8,
        events_mask: 0,
        perf_capabilities: (1 << 13) | (1 << 15),
    };
    HostPmu {
        vendor: HostVendor::Intel,
        mediated: true,
        pmu_enabled: true,
        entry_load_global_ctrl: true,
        exit_load_global_ctrl: true,
        exit_save_global_ctrl: true,
        msr_bitmap: true,
        rdpmc_exiting: true,
        transactions: false,
        rdpmc_beyond_core: false,
        pmu,
    }
}

/// One that lacks PERF_METRICS.
pub(super) fn host_without_metrics() -> HostPmu {
    let mut host = host();
    host.pmu.perf_capabilities &= !(1 << 15);
    host
}

pub(super) struct Vmm<C: Cpu> {
    host: HostPmu,
    cpus: [C; 2],
    cpu: usize,
    pub(super) pmu: GuestPmu,
    filter: Deny,
    free: Vec<(u32, Free)>,
    /// The guest's CPL is 3, or 0.
    user: bool,
    lvtpc_masked: bool,
    pmi_requested: bool,
    /// PMIs that the guest's local APIC has accepted.
    pub(super) pmis: u32,
    pub(super) exits: u32,
}

impl<C: Cpu> Vmm<C> {
    /// A guest that is about to execute its first instruction.
    pub(super) fn new(config: &C::Config, filter: Deny) -> Self {
        let host = C::host_pmu(config);
        let model = C::V::model(&host, config);
        let mut pmu = GuestPmu::default();
        pmu.refresh(model);
        let mut vmm = Self {
            cpus: [(); 2].map(|()| C::host(config)),
            host,
            cpu: 0,
            pmu,
            filter,
            free: C::V::intercepts(model.passthrough)
                .map(|(msr, free)| (msr.address(), free))
                .collect(),
            user: false,
            lvtpc_masked: true,
            pmi_requested: false,
            pmis: 0,
            exits: 0,
        };
        vmm.enter();
        vmm
    }

    pub(super) fn cpu(&mut self) -> &mut C {
        &mut self.cpus[self.cpu]
    }

    /// WRMSRs that the hypervisor has done so far.
    pub(super) fn writes(&self) -> u32 {
        self.cpus.iter().map(C::writes).sum()
    }

    /// RDPMCs that the hypervisor has done so far.
    pub(super) fn reads(&self) -> u32 {
        self.cpus.iter().map(C::reads).sum()
    }

    fn enter(&mut self) {
        if core::mem::take(&mut self.pmi_requested) && !self.lvtpc_masked {
            self.lvtpc_masked = self.cpu().lapic().masks_itself;
            self.pmis += 1;
        }
        let cpu = &mut self.cpus[self.cpu];
        cpu.set_user(self.user);
        cpu.lapic().lvtpc_masked = self.lvtpc_masked;
        cpu.lapic().lvtpc_is_hosts = !self.pmu.can_interrupt();
        let lvtpc = Lvtpc::new(if self.lvtpc_masked { 1 << 16 } else { 0 });
        let writes = cpu.writes();
        let elided = switch::load::<C::V>(&mut self.pmu, cpu, lvtpc);
        let counters = self.pmu.model().counters.len();
        assert!(elided <= counters && counters - elided <= cpu.writes() - writes);
        cpu.assert_ready_to_switch();
        cpu.vm_entry();
    }

    fn leave(&mut self) {
        self.exits += 1;
        let cpu = &mut self.cpus[self.cpu];
        cpu.vm_exit();
        let pmi = switch::put::<C::V>(&mut self.pmu, cpu);
        // Hardware's own vector comes when interrupts go on, which is after `put`.
        let vector = core::mem::take(&mut cpu.lapic().pmis) > 0;
        self.pmi_requested |= vector || pmi == Pmi::Owed;
        cpu.assert_host_finds_it_clean();
    }

    /// An exit that the guest does not notice.
    pub(super) fn exit(&mut self, host: impl FnOnce(&mut Self)) {
        self.leave();
        host(self);
        self.enter();
    }

    pub(super) fn migrate(&mut self) {
        self.exit(|vmm| vmm.cpu ^= 1);
    }

    pub(super) fn host_uses_pmu(&mut self, noise: u64) {
        self.exit(|vmm| vmm.cpus[vmm.cpu].used_by_host(noise));
    }

    /// Another guest with all counters on, and with a PMI that it takes along, runs meanwhile.
    pub(super) fn other_guest_runs(&mut self) {
        self.exit(|vmm| {
            let mut other = GuestPmu::default();
            other.refresh(C::V::model(&vmm.host, &C::FULL));
            for &(msr, value) in C::EVERYTHING {
                let register = C::V::register(other.model(), Msr::new(msr)).unwrap();
                let by = Initiator::Guest;
                let written = other.write::<C::V>(register, value, by, &Deny::default());
                written.unwrap();
            }
            let cpu = &mut vmm.cpus[vmm.cpu];
            cpu.set_user(false);
            cpu.lapic().lvtpc_masked = false;
            cpu.lapic().lvtpc_is_hosts = !other.can_interrupt();
            let _ = switch::load::<C::V>(&mut other, cpu, Lvtpc::new(0));
            cpu.vm_entry();
            cpu.retire(false);
            cpu.vm_exit();
            assert_eq!(switch::put::<C::V>(&mut other, cpu), Pmi::Owed);
            assert_eq!(core::mem::take(&mut cpu.lapic().pmis), 1);
            cpu.assert_host_finds_it_clean();
        });
    }

    /// Which accesses of `msr` do not exit.
    fn free(&mut self, msr: u32) -> Free {
        if self.cpu().is_hidden(msr) {
            return Free::NOTHING;
        }
        let row = self.free.iter().find(|row| row.0 == msr);
        row.map_or(Free::NOTHING, |row| row.1)
    }

    pub(super) fn rdmsr(&mut self, msr: u32) -> Option<u64> {
        if self.free(msr).reads {
            return self.cpu().rdmsr(msr);
        }
        self.get_msr(msr)
    }

    pub(super) fn wrmsr(&mut self, msr: u32, value: u64) -> Option<()> {
        if self.free(msr).writes {
            return self.cpu().wrmsr(msr, value);
        }
        let mut written = None;
        self.exit(|vmm| written = vmm.emulate_wrmsr(msr, value, Initiator::Guest));
        written
    }

    /// KVM_SET_MSRS.
    pub(super) fn set_msr(&mut self, msr: u32, value: u64) -> Option<()> {
        let mut written = None;
        self.exit(|vmm| written = vmm.emulate_wrmsr(msr, value, Initiator::Host));
        written
    }

    /// User space reads a register.
    pub(super) fn get_msr(&mut self, msr: u32) -> Option<u64> {
        let mut value = None;
        self.exit(|vmm| {
            let register = C::V::register(vmm.pmu.model(), Msr::new(msr));
            value = register.map(|register| vmm.pmu.read(register));
        });
        value
    }

    fn emulate_wrmsr(&mut self, msr: u32, value: u64, by: Initiator) -> Option<()> {
        let register = C::V::register(self.pmu.model(), Msr::new(msr))?;
        self.pmu
            .write::<C::V>(register, value, by, &self.filter)
            .ok()
    }

    pub(super) fn rdpmc(&mut self, ecx: u32) -> Option<u64> {
        if self.pmu.model().passthrough.rdpmc && !self.cpu().hides_rdpmc() {
            return self.cpu().rdpmc(ecx);
        }
        let mut value = None;
        self.exit(|vmm| {
            let operand = C::V::rdpmc(vmm.pmu.model(), ecx);
            value = operand.map(|operand| vmm.pmu.rdpmc(operand));
        });
        value
    }

    fn set_user(&mut self, user: bool) {
        self.user = user;
        self.cpu().set_user(user);
    }

    /// The guest retires an instruction in hardware.
    pub(super) fn run(&mut self, user: bool, branch: bool) {
        self.set_user(user);
        self.cpu().retire(branch);
        if self.cpu().lapic().pmis > 0 {
            self.exit(|_| {});
        }
    }

    /// As above, but the guest exits, and a PMI is too late to arrive as the guest's.
    pub(super) fn run_and_exit(&mut self, user: bool, branch: bool) {
        self.set_user(user);
        self.cpu().lapic().pmi_is_late = true;
        self.cpu().retire(branch);
        self.cpu().lapic().pmi_is_late = false;
        self.exit(|_| {});
    }

    /// The guest's instruction exits, and is completed by the hypervisor.
    pub(super) fn emulate(&mut self, user: bool, branch: bool) {
        self.set_user(user);
        self.exit(|vmm| {
            let mut owed = vmm.pmu.retire(Retired::Instruction, || user) == Pmi::Owed;
            if branch {
                owed |= vmm.pmu.retire(Retired::Branch, || user) == Pmi::Owed;
            }
            vmm.pmi_requested |= owed;
        });
    }

    /// The guest writes its LVTPC.
    pub(super) fn set_lvtpc(&mut self, masked: bool) {
        self.exit(|vmm| vmm.lvtpc_masked = masked);
    }

    /// User space changes the event filter.
    pub(super) fn set_filter(&mut self, filter: Deny) {
        self.filter = filter;
        self.exit(|vmm| vmm.pmu.refilter::<C::V>(&filter));
    }
}
