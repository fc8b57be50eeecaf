// SPDX-License-Identifier: GPL-2.0

//! A hypervisor that gives one guest a mediated PMU, on two processors.

use super::cpu::Cpu;
use crate::{
    caps::{HostCounters, HostPmu, HostVendor},
    counter::Width,
    filter::EventFilter,
    guest::GuestPmu,
    in_place::{self, Written},
    intercepts::Access,
    model::{CpuidLeaf, GuestConfig},
    msr::{EventSelector, Msr},
    park,
    pmi::{Lvtpc, Overflow},
    register::{Initiator, Register},
    rest::Rest,
    retired::Retired,
    switch,
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
    /// The host's counters, by their bits in the global registers.
    pub(super) host_counters: u64,
}

impl GuestConfig for Config {
    fn cpuid(&self, leaf: u32) -> Option<CpuidLeaf> {
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
    host_counters: 0xf_0000_00ff,
};

/// One that has not got its host's PERF_METRICS.
pub(super) const HIDDEN_METRICS: Config = Config {
    metrics: false,
    ..FULL
};

/// An event filter that denies one event, if any, and some fixed counters.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deny {
    pub(super) event: Option<u64>,
    /// A bit for each.
    pub(super) fixed: u8,
}

impl Deny {
    pub(super) const NOTHING: Self = Self {
        event: None,
        fixed: 0,
    };

    pub(super) fn event(event: u64) -> Self {
        Self {
            event: Some(event),
            fixed: 0,
        }
    }
}

impl EventFilter for Deny {
    fn allows(&self, selector: EventSelector) -> bool {
        self.event != Some(u64::from(selector.event()))
    }

    fn allows_fixed(&self, index: u8) -> bool {
        self.fixed & (1 << index) == 0
    }
}

/// A Sapphire Rapids.
pub(super) fn host() -> HostPmu {
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
        version: 5,
        counters: HostCounters::from_bits(0xf_0000_00ff),
        gp_width: Width::new(48),
        fixed_width: Width::new(48),
        events_mask_len: 8,
        events_mask: 0,
        perf_capabilities: (1 << 13) | (1 << 15),
    }
}

/// One that lacks PERF_METRICS.
pub(super) fn host_without_metrics() -> HostPmu {
    let mut host = host();
    host.perf_capabilities &= !(1 << 15);
    host
}

/// How often a guest that measures nothing is left before its PMU goes to rest: rarely enough that
/// programs meet idle PMUs in hardware, and often enough that they meet them at rest.
const IMPATIENCE: u32 = 3;

/// What follows what was done in place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The guest is entered, if nothing else keeps the hypervisor from it.
    Enter,
    /// Its state leaves the hardware before.
    Leave,
    /// The same, and it gets a PMI.
    Pmi,
}

pub(super) struct Vmm<C: Cpu> {
    host: HostPmu,
    cpus: [C; 2],
    cpu: usize,
    pub(super) pmu: GuestPmu<C::V>,
    filter: Deny,
    free: Vec<(u32, Access)>,
    rdpmc_is_free: bool,
    /// The guest's PMU is in hardware.
    loaded: bool,
    /// The status is intercepted until intercepts are set anew.
    status_intercepted: bool,
    /// They are to be.
    renew_intercepts: bool,
    /// The guest's CPL is 3, or 0.
    user: bool,
    lvtpc_masked: bool,
    pub(super) pmi_requested: bool,
    /// What is known of the last stay in the guest.
    pub(super) overflow: Overflow,
    /// PMIs that the guest's local APIC has accepted.
    pub(super) pmis: u32,
    pub(super) exits: u32,
    /// The guest was left, and its state is in hardware still.
    outside: bool,
    /// What the hypervisor can do in place it does there the next time.
    fast: bool,
    /// How often it has.
    pub(super) in_place: u32,
    /// How often the guest was left with its state in hardware, or could have been.
    parks: u32,
    /// How often it was to be entered again at once.
    brief_exits: u32,
    /// How often its state was there still when it was.
    pub(super) parked: u32,
    /// It never is.
    keeps_nothing: bool,
    /// It always is, if it can be.
    pub(super) keeps_always: bool,
    /// It is entered again with another VMCS.
    pub(super) forget_vmcs: bool,
}

impl<C: Cpu> Vmm<C> {
    /// A guest that is about to execute its first instruction.
    pub(super) fn new(config: &C::Config, filter: Deny) -> Self {
        let host = C::host_pmu(config);
        let mut pmu = GuestPmu::<C::V> {
            rest: Rest::new(IMPATIENCE),
            ..GuestPmu::default()
        };
        pmu.refresh(&host, config);
        let mut vmm = Self {
            cpus: [(); 2].map(|()| C::host(config)),
            host,
            cpu: 0,
            free: Vec::new(),
            rdpmc_is_free: false,
            loaded: false,
            status_intercepted: false,
            renew_intercepts: true,
            pmu,
            filter,
            user: false,
            lvtpc_masked: true,
            pmi_requested: false,
            overflow: Overflow::None,
            pmis: 0,
            exits: 0,
            outside: false,
            fast: true,
            in_place: 0,
            parks: 0,
            brief_exits: 0,
            parked: 0,
            keeps_nothing: false,
            keeps_always: false,
            forget_vmcs: false,
        };
        vmm.enter();
        vmm
    }

    /// From now on the guest's PMU is in hardware, whether or not anything can count.
    pub(super) fn stay_awake(&mut self) {
        self.exit(|vmm| {
            vmm.pmu.rest = Rest::new(0);
            vmm.pmu.rest.written(true);
        });
    }

    /// From now on the guest's state leaves the hardware whenever the guest is left.
    pub(super) fn keep_nothing(&mut self) {
        self.keeps_nothing = true;
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

    pub(super) fn cpus(&self) -> &[C] {
        &self.cpus
    }

    /// Delivers the PMI that is requested, if one is.
    fn deliver_pmi(&mut self) {
        if core::mem::take(&mut self.pmi_requested) && !self.lvtpc_masked {
            self.lvtpc_masked = self.cpu().lapic().masks_itself;
            self.pmis += 1;
        }
    }

    fn lvtpc(&self) -> Lvtpc {
        Lvtpc::new(if self.lvtpc_masked { 1 << 16 } else { 0 })
    }

    fn enter(&mut self) {
        self.deliver_pmi();
        // KVM learns of it by the PMU's state.
        let at_rest = self.pmu.rest.is();
        if core::mem::take(&mut self.renew_intercepts) || at_rest == self.loaded {
            let rows = self.pmu.intercepts();
            self.free = rows.map(|(msr, free)| (msr.address(), free)).collect();
            self.rdpmc_is_free = self.pmu.passthrough().rdpmc;
            self.status_intercepted = false;
        }
        self.loaded = !at_rest;
        let lvtpc = self.lvtpc();
        let cpu = &mut self.cpus[self.cpu];
        cpu.set_user(self.user);
        cpu.lapic().lvtpc_masked = self.lvtpc_masked;
        cpu.lapic().lvtpc_is_hosts = at_rest || !self.pmu.can_interrupt();
        if at_rest {
            assert!(!self.rdpmc_is_free && self.free.iter().all(|row| row.1 == Access::NONE));
            return;
        }
        let writes = cpu.writes();
        let elided = switch::load(&mut self.pmu, cpu, lvtpc);
        let counters = self.pmu.model().counters.len();
        assert!(elided <= counters && counters - elided <= cpu.writes() - writes);
        self.take_intercepts();
        let cpu = &mut self.cpus[self.cpu];
        cpu.assert_ready_to_switch(&self.pmu);
        cpu.vm_entry();
    }

    /// What the switch has done to the guest's intercepts.
    fn take_intercepts(&mut self) {
        let intercepts = core::mem::take(self.cpu().intercepts());
        self.status_intercepted |= intercepts.status;
        self.renew_intercepts |= intercepts.renewed;
    }

    fn leave(&mut self) {
        self.leave_with(false);
    }

    /// If something was `completed` in place there was no entry after it.
    fn leave_with(&mut self, completed: bool) {
        if !completed {
            in_place::entered(&mut self.pmu);
        }
        self.exits += 1;
        if !self.loaded {
            return;
        }
        let cpu = &mut self.cpus[self.cpu];
        if !core::mem::take(&mut self.outside) {
            cpu.vm_exit();
        }
        // One time in three, whatever may be parked isn't.
        self.parks += 1;
        match self.parks % 3 {
            1 | 2 if self.park() => self.evict(),
            _ => {
                let cpu = &mut self.cpus[self.cpu];
                self.overflow = switch::put(&mut self.pmu, cpu);
                self.take_pmi(self.overflow);
            }
        }
        let cpu = &mut self.cpus[self.cpu];
        self.renew_intercepts |= core::mem::take(cpu.intercepts()).renewed;
        cpu.assert_host_finds_it_clean();
    }

    /// Hardware's own vector comes when interrupts go on, which is after what is known of overflows
    /// was told. A late one comes as an NMI, which perf makes the guest's if it was not.
    fn take_pmi(&mut self, overflow: Overflow) {
        let lapic = self.cpu().lapic();
        let was_late = core::mem::take(&mut lapic.late_pmi) && overflow != Overflow::New;
        let vector = core::mem::take(&mut lapic.pmis) > 0 || was_late;
        self.pmi_requested |= vector || overflow == Overflow::New;
    }

    /// The guest was left: leaves its state where it is, if that is possible.
    fn park(&mut self) -> bool {
        if self.keeps_nothing || !park::may(&self.pmu) {
            return false;
        }
        let Some(overflow) = self.cpus[self.cpu].park(&mut self.pmu) else {
            return false;
        };
        self.overflow = overflow;
        self.take_pmi(overflow);
        true
    }

    /// perf takes the state out, for itself or for who needs it in memory.
    fn evict(&mut self) {
        let mut evicted = self.cpus[self.cpu].evict();
        let again = switch::save(&mut self.pmu, &mut evicted);
        assert_ne!(again, Overflow::New, "told twice");
        self.pmi_requested |= in_place::end(&mut self.pmu);
    }

    /// An exit after which the state stays in hardware, if it can, until the guest is entered again.
    /// `what` is completed in between.
    pub(super) fn brief_exit(&mut self, what: &[Retired]) {
        self.brief_exit_to(what, |_| {});
    }

    /// The same, and the `host` does something that is not about what memory has of the PMU.
    pub(super) fn brief_exit_to(&mut self, what: &[Retired], host: impl FnOnce(&mut Self)) {
        if !self.stays_parked() {
            return self.exit(|vmm| {
                vmm.complete(what);
                host(vmm);
            });
        }
        self.exits += 1;
        self.parked += 1;
        let (cpu, user) = (&mut self.cpus[self.cpu], self.user);
        for what in what {
            self.pmi_requested |= cpu.retire_parked(&mut self.pmu, *what, user);
        }
        host(self);
        self.deliver_pmi();
        let lvtpc = self.lvtpc();
        let cpu = &mut self.cpus[self.cpu];
        cpu.lapic().lvtpc_masked = self.lvtpc_masked;
        if self.forget_vmcs {
            cpu.forget_vmcs();
        }
        let completes = self.pmu.left_to_entry.is_some();
        self.pmi_requested |= cpu.resume(&mut self.pmu, lvtpc);
        self.take_intercepts();
        let cpu = &mut self.cpus[self.cpu];
        cpu.assert_ready_to_switch(&self.pmu);
        if completes {
            cpu.vm_reentry();
            if cpu.lapic().pmis > 0 {
                self.exit(|_| {});
            }
        } else {
            cpu.vm_entry();
        }
    }

    /// The guest exits, if it is not outside already. Does its state stay in hardware until it is
    /// entered again? Every other time it does, if it can.
    fn stays_parked(&mut self) -> bool {
        if !self.loaded || self.renew_intercepts {
            return false;
        }
        self.brief_exits += 1;
        in_place::entered(&mut self.pmu);
        if !core::mem::replace(&mut self.outside, true) {
            self.cpu().vm_exit();
        }
        let stays = (self.keeps_always || self.brief_exits % 2 == 1) && self.park();
        self.outside = !stays;
        stays
    }

    /// Instructions are completed, in memory.
    fn complete(&mut self, what: &[Retired]) {
        let user = self.user;
        for what in what {
            self.pmi_requested |= self.pmu.retire(*what, || user);
        }
    }

    /// The next exit of that kind is handled in place, if it can be.
    pub(super) fn be_fast(&mut self) {
        self.fast = false;
        self.in_place = 0;
    }

    /// An exit for something that is done every other time in place, if it can be: `what` tells
    /// whether it was, and what is next. If it was not, an exit follows.
    fn in_place(&mut self, what: impl FnOnce(&mut GuestPmu<C::V>, &mut C) -> Option<Next>) -> bool {
        self.fast = !self.fast;
        if !self.loaded || !self.fast {
            return false;
        }
        let cpu = &mut self.cpus[self.cpu];
        cpu.vm_exit();
        let Some(next) = what(&mut self.pmu, cpu) else {
            self.outside = true;
            return false;
        };
        self.in_place += 1;
        // Now and then something else keeps the hypervisor from entering the guest at once.
        if next != Next::Enter || self.in_place % 2 == 0 {
            self.outside = true;
            self.leave_with(true);
            self.pmi_requested |= next == Next::Pmi;
            self.pmi_requested |= in_place::end(&mut self.pmu);
            self.enter();
            return true;
        }
        cpu.vm_reentry();
        if cpu.lapic().pmis > 0 {
            self.exit(|_| {});
        }
        true
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
            let mut other = GuestPmu::<C::V>::default();
            other.refresh(&vmm.host, &C::FULL);
            for &(msr, value) in C::EVERYTHING {
                // Of a host that has less the guest has less, too.
                let Some(register) = other.register(Msr::new(msr)) else {
                    continue;
                };
                let value = C::existing(&other, register, value);
                let by = Initiator::Guest;
                let written = other.write(register, value, by, &Deny::NOTHING);
                written.unwrap();
            }
            let cpu = &mut vmm.cpus[vmm.cpu];
            cpu.set_user(false);
            cpu.lapic().lvtpc_masked = false;
            cpu.lapic().lvtpc_is_hosts = !other.can_interrupt();
            let _ = switch::load(&mut other, cpu, Lvtpc::new(0));
            *cpu.intercepts() = Default::default();
            cpu.vm_entry();
            cpu.retire(false);
            cpu.vm_exit();
            assert_eq!(switch::put(&mut other, cpu), Overflow::New);
            *cpu.intercepts() = Default::default();
            assert_eq!(core::mem::take(&mut cpu.lapic().pmis), 1);
            cpu.assert_host_finds_it_clean();
        });
    }

    /// Which accesses of `msr` do not exit.
    pub(super) fn free(&mut self, msr: u32) -> Access {
        if self.cpu().is_hidden(msr) || (self.status_intercepted && C::is_status(msr)) {
            return Access::NONE;
        }
        let row = self.free.iter().find(|row| row.0 == msr);
        row.map_or(Access::NONE, |row| row.1)
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
        let (register, filter) = (self.pmu.register(Msr::new(msr)), self.filter);
        let user = self.user;
        let written_in_place = self.in_place(|pmu, cpu| {
            let written = cpu.write_in_place(pmu, register?, value, &filter);
            if written == Written::No {
                return None;
            }
            // WRMSR itself does not count here, nor does it on the bare machine, but for an entry
            // that counts as it does.
            let owed = if C::ENTRIES_COUNT {
                cpu.retire_in_place(pmu, user)?
            } else {
                pmu.wrmsr = None;
                false
            };
            Some(match written {
                _ if owed => Next::Pmi,
                Written::Yes => Next::Enter,
                _ => Next::Leave,
            })
        });
        if written_in_place {
            return Some(());
        }
        let mut written = None;
        self.exit(|vmm| written = vmm.emulate_wrmsr(msr, value, Initiator::Guest));
        written
    }

    /// Is `msr` an event selector?
    pub(super) fn is_selector(&self, msr: u32) -> bool {
        let register = self.pmu.register(Msr::new(msr));
        matches!(register, Some(Register::Selector(_)))
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
            let register = vmm.pmu.register(Msr::new(msr));
            value = register.map(|register| vmm.pmu.read(register));
        });
        value
    }

    fn emulate_wrmsr(&mut self, msr: u32, value: u64, by: Initiator) -> Option<()> {
        let register = self.pmu.register(Msr::new(msr))?;
        self.pmu.write(register, value, by, &self.filter).ok()
    }

    pub(super) fn rdpmc(&mut self, ecx: u32) -> Option<u64> {
        if self.rdpmc_is_free && !self.cpu().hides_rdpmc() {
            return self.cpu().rdpmc(ecx);
        }
        let parked = self.parked;
        let mut value = None;
        self.brief_exit_to(&[], |vmm| {
            value = if vmm.parked == parked {
                vmm.pmu.rdpmc(ecx)
            } else {
                park::rdpmc(&vmm.pmu, &vmm.cpus[vmm.cpu], ecx)
            };
        });
        if value.is_none() {
            self.exit(|vmm| value = vmm.pmu.rdpmc(ecx));
        }
        value
    }

    pub(super) fn set_user(&mut self, user: bool) {
        self.user = user;
        self.cpu().set_user(user);
    }

    /// The guest retires an instruction in hardware.
    pub(super) fn run(&mut self, user: bool, branch: bool) {
        self.set_user(user);
        self.cpu().retire(branch);
        if self.cpu().lapic().pmis > 0 {
            self.brief_exit(&[]);
        }
    }

    /// As above, and a PMI is on its way when the guest exits next.
    pub(super) fn run_late(&mut self, branch: bool) {
        self.cpu().lapic().pmi_is_late = true;
        self.cpu().retire(branch);
        self.cpu().lapic().pmi_is_late = false;
    }

    /// As above, and the guest exits: a PMI is too late to arrive as the guest's.
    pub(super) fn run_and_exit(&mut self, user: bool, branch: bool) {
        self.set_user(user);
        self.run_late(branch);
        self.brief_exit(&[]);
    }

    /// The guest's instruction exits, and is completed by the hypervisor.
    pub(super) fn emulate(&mut self, user: bool, branch: bool) {
        self.set_user(user);
        let retire = |pmu: &mut GuestPmu<C::V>, cpu: &mut C| {
            let owed = cpu.retire_in_place(pmu, user)?;
            Some(if owed { Next::Pmi } else { Next::Enter })
        };
        if !branch && self.in_place(retire) {
            return;
        }
        let both = [Retired::INSTRUCTION, Retired::BRANCH];
        self.brief_exit(&both[..if branch { 2 } else { 1 }]);
    }

    /// The guest writes its LVTPC.
    pub(super) fn set_lvtpc(&mut self, masked: bool) {
        self.brief_exit_to(&[], |vmm| vmm.lvtpc_masked = masked);
    }

    /// User space changes the event filter, and the hypervisor does not know it yet.
    pub(super) fn set_filter_untold(&mut self, filter: Deny) {
        self.filter = filter;
    }

    /// User space changes the event filter.
    pub(super) fn set_filter(&mut self, filter: Deny) {
        self.filter = filter;
        self.exit(|vmm| vmm.pmu.refilter(&filter));
    }
}
