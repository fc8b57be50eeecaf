// SPDX-License-Identifier: GPL-2.0

//! What a hypervisor and a guest, or whoever owns the bare machine, want of a processor.

use super::vmm::Deny;
use crate::{
    caps::HostPmu,
    counter::CounterSet,
    guest::GuestPmu,
    in_place::Written,
    model::GuestConfig,
    pmi::{Lvtpc, Overflow},
    register::Register,
    retired::Retired,
    switch::{Claim, Hw},
    unit::SwitchUnit,
    vendor::Vendor,
};
use std::{
    fmt::Debug,
    sync::atomic::{AtomicU64, Ordering},
};

/// A processor with a PMU, as the vendor's manual describes it.
pub(super) trait Cpu: Hw + Sized {
    /// The rules under test.
    type V: Vendor<Units = Self::Units>;
    /// Their units.
    type Units: SwitchUnit<Self>;
    /// What user space makes of a guest's PMU.
    type Config: GuestConfig + Copy + Debug;

    /// A guest that has everything.
    const FULL: Self::Config;

    /// The guest's entry counts as an instruction does.
    const ENTRIES_COUNT: bool;

    /// Register writes that have all counters of a full guest count, the first instruction raise a
    /// PMI, and no value left alone that the guest is to lose nothing of.
    const EVERYTHING: &'static [(u32, u64)];

    /// The bits of `value` that `register` of a full guest has.
    fn existing(guest: &GuestPmu<Self::V>, register: Register, value: u64) -> u64;

    /// What the guest with `config` runs on, were it a machine.
    fn bare(config: &Self::Config) -> Self;

    /// A processor of a host that can have such guests, as it is when KVM is loaded: nothing
    /// counts.
    fn host(config: &Self::Config) -> Self;

    /// The PMU of that host.
    fn host_pmu(config: &Self::Config) -> HostPmu;

    fn lapic(&mut self) -> &mut Lapic;

    /// Keeps what `filter` denies from counting: what becomes of a guest's counters by it.
    fn deny(&mut self, filter: Deny);

    /// RDMSR; `None` is #GP.
    fn rdmsr(&self, msr: u32) -> Option<u64>;

    /// WRMSR; `None` is #GP.
    fn wrmsr(&mut self, msr: u32, value: u64) -> Option<()>;

    /// What a guest's register holds by KVM_SET_MSRS, for registers whose rules are others then.
    fn set_guest_msr(&mut self, msr: u32, value: u64) -> Option<()> {
        self.wrmsr(msr, value)
    }

    /// RDPMC; `None` is #GP.
    fn rdpmc(&self, ecx: u32) -> Option<u64>;

    /// Is there an intercept of `msr` for this stay in the guest?
    fn is_hidden(&self, _msr: u32) -> bool {
        false
    }

    /// Is there one of RDPMC?
    fn hides_rdpmc(&self) -> bool {
        false
    }

    /// What the switch did to the guest's intercepts.
    fn intercepts(&mut self) -> &mut Intercepts;

    /// Is `msr` the status, or what clears it?
    fn is_status(msr: u32) -> bool;

    /// The guest's CPL is 3, or 0.
    fn set_user(&mut self, user: bool);

    /// The guest is entered: its counters are on.
    fn vm_entry(&mut self);

    /// The same, right after an instruction was completed in place.
    fn vm_reentry(&mut self) {
        self.vm_entry();
    }

    /// The guest is left: its counters are off.
    fn vm_exit(&mut self);

    /// One instruction of the guest retires.
    fn retire(&mut self, branch: bool);

    /// One is completed, by whomever.
    fn complete(&mut self, branch: bool);

    /// Has the guest write `value` to `register` in place, if it can.
    fn write_in_place(
        &mut self,
        _pmu: &mut GuestPmu<Self::V>,
        _register: Register,
        _value: u64,
        _filter: &Deny,
    ) -> Written {
        Written::No
    }

    /// Counts an instruction in place, if it can. Is the guest owed a PMI?
    fn retire_in_place(&mut self, _pmu: &mut GuestPmu<Self::V>, _user: bool) -> Option<bool> {
        None
    }

    /// Leaves the guest's state where it is when the guest is left, if that is possible.
    fn park(&mut self, _pmu: &mut GuestPmu<Self::V>) -> Option<Overflow> {
        None
    }

    /// Enters the guest again with what [`Cpu::park`] has left. Is it owed a PMI?
    fn resume(&mut self, _pmu: &mut GuestPmu<Self::V>, _lvtpc: Lvtpc) -> bool {
        false
    }

    /// Counts an instruction in the meantime. Is the guest owed a PMI?
    fn retire_parked(&mut self, _pmu: &mut GuestPmu<Self::V>, _what: Retired, _user: bool) -> bool {
        false
    }

    /// The next entry is by another VMCS than the last one.
    fn forget_vmcs(&mut self) {}

    /// perf takes out what is parked. Returns what was there.
    fn evict(&mut self) -> Self;

    /// WRMSRs, but for the ones of the guest.
    fn writes(&self) -> u32;

    /// RDPMCs, but for the ones of the guest.
    fn reads(&self) -> u32;

    /// The host counts something of its own, and leaves traces of it.
    fn used_by_host(&mut self, noise: u64);

    /// Faults after a load of `pmu` that nobody would notice.
    fn assert_ready_to_switch(&self, pmu: &GuestPmu<Self::V>);

    /// Faults in the hand-over to the host that a guest would not notice.
    fn assert_host_finds_it_clean(&self);
}

/// What the switch has done to the intercepts of the guest that it put into hardware or took out.
#[derive(Clone, Debug, Default)]
pub(super) struct Intercepts {
    /// The status has been intercepted.
    pub(super) status: bool,
    /// All are to be set anew before the guest is entered again.
    pub(super) renewed: bool,
}

/// The local APIC, as far as LVTPC goes.
#[derive(Clone, Debug)]
pub(super) struct Lapic {
    pub(super) lvtpc_masked: bool,
    /// LVTPC is still the host's, although a guest runs: an interrupt would be the host's, too.
    pub(super) lvtpc_is_hosts: bool,
    /// LVTPC masks itself when it delivers an interrupt.
    pub(super) masks_itself: bool,
    /// PMIs that the local APIC has accepted.
    pub(super) pmis: u32,
    /// A PMI that is raised now is late: it arrives when LVTPC is somebody else's, and is dropped if
    /// the guest has been told of the overflow by then.
    pub(super) pmi_is_late: bool,
    /// One is on its way.
    pub(super) late_pmi: bool,
}

impl Lapic {
    pub(super) fn new(masks_itself: bool) -> Self {
        Self {
            lvtpc_masked: true,
            lvtpc_is_hosts: false,
            masks_itself,
            pmis: 0,
            pmi_is_late: false,
            late_pmi: false,
        }
    }

    /// These bits of the status were set with an interrupt.
    pub(super) fn interrupt(&mut self, bits: u64) {
        assert!(bits == 0 || !self.lvtpc_is_hosts, "an NMI of the host");
        if bits == 0 || self.lvtpc_masked {
            return;
        }
        if self.pmi_is_late {
            self.late_pmi = true;
            return;
        }
        self.lvtpc_masked = self.masks_itself;
        self.pmis += 1;
    }
}

/// Has the host leave something else in each register of which there is a bit in `which`, of the
/// bits in `mask`.
pub(super) fn scramble(registers: &mut [u64], which: u64, noise: u64, mask: u64) {
    for (n, register) in registers.iter_mut().enumerate() {
        if which & (1 << n) != 0 {
            *register = noise.rotate_left(n as u32) & mask;
        }
    }
}

/// The next claim on any machine's counters.
static NEXT_CLAIM: AtomicU64 = AtomicU64::new(1);

/// Who has had a machine's counters; the default is nobody that is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    /// The last guest's claim.
    last: u64,
    /// Counters that the host has used since.
    used: u64,
    /// Bits of the status that the host may get at any time.
    pub(super) host_status: u64,
}

impl Claims {
    /// The host uses counters: some, or all and maybe more than it knows of. Which ones, by their
    /// bits in the global registers?
    pub(super) fn used_by_host(&mut self, noise: u64) -> u64 {
        if noise & 8 == 0 {
            (self.last, self.used) = (0, 0);
            u64::MAX
        } else {
            let used = 1 | noise.rotate_left(20);
            self.used |= used;
            used
        }
    }

    /// See [`Hw::claim_counters`].
    pub(super) fn renew(&mut self, number: u64) -> Claim {
        if number == 0 || self.last != number {
            self.last = NEXT_CLAIM.fetch_add(1, Ordering::Relaxed);
            self.used = u64::MAX;
        }
        Claim {
            number: self.last,
            used: CounterSet::from_bits(core::mem::take(&mut self.used)),
            host_status: self.host_status,
            may_park: self.host_status == 0,
        }
    }
}
