// SPDX-License-Identifier: GPL-2.0

//! The mediated PMU as a backend of KVM, and the module that registers it.

use crate::{
    amd::{entry, Amd},
    caps::{self, HostPmu, HostVendor, PmuCaps, Unoffered},
    guest::GuestPmu,
    in_place::{self, Written},
    intel::Intel,
    model::Mode,
    msr::Msr,
    park::{self, Resumed},
    pmi::{Lvtpc, Overflow},
    register::{GeneralProtection, Initiator, Register},
    rest::Rest,
    retired::Retired,
    switch::{self, Elided},
    sys::{
        kvm::{
            self, BackendModule, Config, HeldVcpu, Intercepts, LoadedVcpu, OwnerVcpu, Provider,
            Public, State, Vcpu, Vtable,
        },
        params,
        pmu::{AmdPmu, Evicted, EvictedPmu, IntelPmu},
    },
    vendor::Vendor,
};
use core::marker::PhantomData;
use kernel::{c_str, prelude::*, str::CStr};

/// The module: while it is loaded, new virtual machines get a mediated PMU.
pub(crate) type Module = BackendModule<MediatedPmus>;

/// The host, and what its guests get.
pub(crate) struct MediatedPmus {
    /// The host.
    host: HostPmu,
    /// What guests may have at most.
    offer: PmuCaps,
    /// How the vendor is called.
    vendor: &'static str,
    /// The callbacks of the backend with the vendor's rules.
    vtable: fn() -> Vtable,
}

impl MediatedPmus {
    /// Holds `host` against the rules of vendor `V`.
    fn on<V: Platform>(host: HostPmu) -> Result<Self> {
        if let Err(missing) = caps::check(&host, V::REQUIREMENTS) {
            pr_err!("not loaded: this host lacks {missing}\n");
            return Err(kvm::not_supported());
        }
        Ok(Self {
            offer: V::offer(&host),
            host,
            vendor: V::NAME,
            vtable: Vtable::of::<Mediated<V>>,
        })
    }
}

impl Provider for MediatedPmus {
    fn find() -> Result<Option<Self>> {
        if !params::enable_mediated_pmu() {
            pr_info!(
                "disabled by enable_mediated_pmu=0; virtual machines keep KVM's emulated PMU\n"
            );
            return Ok(None);
        }
        let host = kvm::host_pmu();
        let found = match host.vendor {
            HostVendor::Intel => Self::on::<Intel>(host)?,
            HostVendor::Amd => Self::on::<Amd>(host)?,
            HostVendor::None => {
                pr_err!("not loaded: KVM has no vendor module; load kvm_intel or kvm_amd first\n");
                return Err(ENODEV);
            }
        };
        Ok(Some(found))
    }

    fn vtable(&self) -> Vtable {
        (self.vtable)()
    }

    fn host(&self) -> &HostPmu {
        &self.host
    }

    fn caps(&self) -> PmuCaps {
        self.offer
    }

    fn tell(&self, registered: Result) {
        let Self { host, offer, .. } = self;
        match registered {
            Ok(()) => pr_info!(
                "{} mediated vPMU enabled: {} general-purpose and {} fixed counters of {} bits, host PMU version {}{}\n",
                self.vendor,
                offer.gp,
                offer.fixed,
                offer.gp_width.bits(),
                host.version,
                Unoffered { host, offer },
            ),
            Err(EBUSY) => pr_err!("not loaded: KVM has another vPMU backend\n"),
            Err(error) => pr_err!(
                "not loaded: KVM refuses the backend, error {}\n",
                error.to_errno()
            ),
        }
    }
}

/// The backend with the rules of vendor `V`.
pub(crate) struct Mediated<V>(PhantomData<V>);

/// Where a vendor's rules meet the vendor's hardware and virtualization extension.
pub(crate) trait Platform: Vendor {
    /// VM-entry and VM-exit can switch the global control ([`kvm::Intercepts::set_controls`]).
    const SWITCHES_GLOBAL_CTRL: bool;

    /// See [`switch::load`].
    fn load(vcpu: &OwnerVcpu<'_>, pmu: &mut GuestPmu<Self>, lvtpc: Lvtpc) -> Elided;

    /// See [`switch::put`].
    fn put(vcpu: &OwnerVcpu<'_>, pmu: &mut GuestPmu<Self>) -> Overflow;

    /// See [`in_place::write`], and of AMD [`entry::write_in_place`].
    fn write_in_place(
        vcpu: &OwnerVcpu<'_>,
        pmu: &mut GuestPmu<Self>,
        register: Register,
        data: u64,
    ) -> Written;

    /// See [`in_place::retire`], and of AMD [`entry::retire`].
    fn retire_in_place(
        vcpu: &OwnerVcpu<'_>,
        pmu: &mut GuestPmu<Self>,
        what: Retired,
        at_cpl0: bool,
    ) -> bool;

    /// See [`park::stop`].
    fn park(vcpu: &OwnerVcpu<'_>, pmu: &mut GuestPmu<Self>) -> Option<Overflow>;

    /// See [`park::resume`].
    fn resume(vcpu: &OwnerVcpu<'_>, pmu: &mut GuestPmu<Self>, lvtpc: Lvtpc) -> Resumed;

    /// See [`park::retire`], and of AMD [`entry::retire_parked`].
    fn retire_parked(
        vcpu: &OwnerVcpu<'_>,
        pmu: &mut GuestPmu<Self>,
        what: Retired,
        at_cpl0: bool,
    ) -> bool;

    /// See [`park::rdpmc`].
    fn rdpmc_parked(vcpu: &OwnerVcpu<'_>, pmu: &GuestPmu<Self>, ecx: u32) -> Option<u64>;

    /// See [`switch::save`].
    fn save(vcpu: &Vcpu, pmu: &mut GuestPmu<Self>, state: &Evicted<'_>) -> Overflow;
}

impl Platform for Intel {
    const SWITCHES_GLOBAL_CTRL: bool = true;

    #[inline(always)]
    fn load(vcpu: &OwnerVcpu<'_>, pmu: &mut GuestPmu<Self>, lvtpc: Lvtpc) -> Elided {
        switch::load(pmu, &mut IntelPmu::new(vcpu), lvtpc)
    }

    #[inline(always)]
    fn put(vcpu: &OwnerVcpu<'_>, pmu: &mut GuestPmu<Self>) -> Overflow {
        switch::put(pmu, &mut IntelPmu::new(vcpu))
    }

    fn write_in_place(
        vcpu: &OwnerVcpu<'_>,
        pmu: &mut GuestPmu<Self>,
        register: Register,
        data: u64,
    ) -> Written {
        in_place::write(pmu, &mut IntelPmu::new(vcpu), register, data, vcpu.filter())
    }

    fn retire_in_place(
        vcpu: &OwnerVcpu<'_>,
        pmu: &mut GuestPmu<Self>,
        what: Retired,
        at_cpl0: bool,
    ) -> bool {
        in_place::retire(pmu, &mut IntelPmu::new(vcpu), what, || {
            !at_cpl0 && vcpu.is_in_user_mode()
        })
    }

    #[inline(always)]
    fn park(vcpu: &OwnerVcpu<'_>, pmu: &mut GuestPmu<Self>) -> Option<Overflow> {
        park::stop(pmu, &mut IntelPmu::new(vcpu))
    }

    #[inline(always)]
    fn resume(vcpu: &OwnerVcpu<'_>, pmu: &mut GuestPmu<Self>, lvtpc: Lvtpc) -> Resumed {
        park::resume(pmu, &mut IntelPmu::new(vcpu), lvtpc)
    }

    fn retire_parked(
        vcpu: &OwnerVcpu<'_>,
        pmu: &mut GuestPmu<Self>,
        what: Retired,
        at_cpl0: bool,
    ) -> bool {
        park::retire(pmu, &mut IntelPmu::new(vcpu), what, || {
            !at_cpl0 && vcpu.is_in_user_mode()
        })
    }

    fn rdpmc_parked(vcpu: &OwnerVcpu<'_>, pmu: &GuestPmu<Self>, ecx: u32) -> Option<u64> {
        park::rdpmc(pmu, &IntelPmu::new(vcpu), ecx)
    }

    fn save(vcpu: &Vcpu, pmu: &mut GuestPmu<Self>, state: &Evicted<'_>) -> Overflow {
        switch::save(pmu, &mut EvictedPmu::new(vcpu, state))
    }
}

impl Platform for Amd {
    const SWITCHES_GLOBAL_CTRL: bool = false;

    #[inline(always)]
    fn load(vcpu: &OwnerVcpu<'_>, pmu: &mut GuestPmu<Self>, lvtpc: Lvtpc) -> Elided {
        switch::load(pmu, &mut AmdPmu::new(vcpu), lvtpc)
    }

    #[inline(always)]
    fn put(vcpu: &OwnerVcpu<'_>, pmu: &mut GuestPmu<Self>) -> Overflow {
        switch::put(pmu, &mut AmdPmu::new(vcpu))
    }

    fn write_in_place(
        vcpu: &OwnerVcpu<'_>,
        pmu: &mut GuestPmu<Self>,
        register: Register,
        data: u64,
    ) -> Written {
        in_place::entered(pmu);
        entry::write_in_place(pmu, &mut AmdPmu::new(vcpu), register, data, vcpu.filter())
    }

    fn retire_in_place(
        vcpu: &OwnerVcpu<'_>,
        pmu: &mut GuestPmu<Self>,
        what: Retired,
        at_cpl0: bool,
    ) -> bool {
        in_place::entered(pmu);
        entry::retire(pmu, &mut AmdPmu::new(vcpu), what, || {
            !at_cpl0 && vcpu.is_in_user_mode()
        })
    }

    #[inline(always)]
    fn park(vcpu: &OwnerVcpu<'_>, pmu: &mut GuestPmu<Self>) -> Option<Overflow> {
        park::stop(pmu, &mut AmdPmu::new(vcpu))
    }

    #[inline(always)]
    fn resume(vcpu: &OwnerVcpu<'_>, pmu: &mut GuestPmu<Self>, lvtpc: Lvtpc) -> Resumed {
        park::resume(pmu, &mut AmdPmu::new(vcpu), lvtpc)
    }

    fn retire_parked(
        vcpu: &OwnerVcpu<'_>,
        pmu: &mut GuestPmu<Self>,
        what: Retired,
        at_cpl0: bool,
    ) -> bool {
        entry::retire_parked(pmu, &mut AmdPmu::new(vcpu), what, || {
            !at_cpl0 && vcpu.is_in_user_mode()
        })
    }

    fn rdpmc_parked(vcpu: &OwnerVcpu<'_>, pmu: &GuestPmu<Self>, ecx: u32) -> Option<u64> {
        park::rdpmc(pmu, &AmdPmu::new(vcpu), ecx)
    }

    fn save(vcpu: &Vcpu, pmu: &mut GuestPmu<Self>, state: &Evicted<'_>) -> Overflow {
        switch::save(pmu, &mut EvictedPmu::new(vcpu, state))
    }
}

impl<V: Platform> kvm::Backend for Mediated<V> {
    const NAME: &'static CStr = c_str!("mediated");

    type VcpuData = GuestPmu<V>;

    fn vcpu_create() -> GuestPmu<V> {
        GuestPmu::default()
    }

    fn refresh(host: &HostPmu, config: &Config<'_>, pmu: &mut GuestPmu<V>) -> Public {
        pmu.rest = Rest::new(params::rest_after());
        pmu.refresh(host, config);
        let model = pmu.model();
        Public {
            version: model.version,
            global_ctrl_valid: model.global_ctrl_valid,
            global_status_valid: model.global_status_valid,
        }
    }

    fn state(pmu: &GuestPmu<V>) -> State {
        if pmu.rest.is() {
            State::AtRest
        } else {
            State::Awake
        }
    }

    fn is_valid_msr(pmu: &GuestPmu<V>, msr: Msr) -> bool {
        pmu.is_valid(msr)
    }

    /// Where the guest faults user space reads 0, as of other registers that KVM lists and the vCPU
    /// does not have.
    fn get_msr(
        pmu: &GuestPmu<V>,
        msr: Msr,
        host_initiated: bool,
    ) -> Result<u64, GeneralProtection> {
        match pmu.register(msr) {
            Some(register) => Ok(pmu.read(register)),
            None if host_initiated => Ok(0),
            None => Err(GeneralProtection),
        }
    }

    fn set_msr(
        vcpu: &HeldVcpu<'_>,
        pmu: &mut GuestPmu<V>,
        msr: Msr,
        value: u64,
        host_initiated: bool,
    ) -> Result<(), GeneralProtection> {
        let Some(register) = pmu.register(msr) else {
            let restores = host_initiated && value == 0;
            return if restores {
                Ok(())
            } else {
                Err(GeneralProtection)
            };
        };
        let by = if host_initiated {
            Initiator::Host
        } else {
            Initiator::Guest
        };
        pmu.write(register, value, by, vcpu.filter())
    }

    fn rdpmc(pmu: &GuestPmu<V>, ecx: u32) -> Result<u64, GeneralProtection> {
        pmu.rdpmc(ecx).ok_or(GeneralProtection)
    }

    fn rdpmc_faults(pmu: &GuestPmu<V>, ecx: u32) -> bool {
        V::RDPMC_FAULTS_FIRST && pmu.rdpmc(ecx).is_none()
    }

    fn filter_changed(vcpu: &HeldVcpu<'_>, pmu: &mut GuestPmu<V>) {
        pmu.refilter(vcpu.filter());
    }

    fn retired(vcpu: &LoadedVcpu<'_>, pmu: &mut GuestPmu<V>, what: Retired, at_cpl0: bool) {
        if pmu.retire(what, || !at_cpl0 && vcpu.is_in_user_mode()) {
            vcpu.request_pmi();
        }
    }

    fn set_msr_in_place(vcpu: &OwnerVcpu<'_>, pmu: &mut GuestPmu<V>, msr: Msr, value: u64) -> bool {
        let Some(register) = pmu.register(msr) else {
            return false;
        };
        let written = V::write_in_place(vcpu, pmu, register, value);
        if written == Written::Leave {
            // By a request, which KVM looks for before it enters the guest again.
            vcpu.request_intercepts();
        }
        written != Written::No
    }

    fn retired_in_place(vcpu: &OwnerVcpu<'_>, pmu: &mut GuestPmu<V>, what: Retired, at_cpl0: bool) {
        if V::retire_in_place(vcpu, pmu, what, at_cpl0) {
            vcpu.request_pmi();
        }
    }

    fn set_intercepts(vcpu: &Intercepts<'_>, pmu: Option<&GuestPmu<V>>) {
        let none = GuestPmu::default();
        let pmu = pmu.unwrap_or(&none);
        for (msr, free) in pmu.intercepts() {
            vcpu.intercept_msr(msr, free);
        }
        // At rest the global control is the host's.
        let switch_global_ctrl = V::SWITCHES_GLOBAL_CTRL && !pmu.rest.is();
        vcpu.set_controls(!pmu.passthrough().rdpmc, switch_global_ctrl);
    }

    fn mode_changed(pmu: &mut GuestPmu<V>, mode: Mode) {
        pmu.change_mode(mode);
    }

    fn can_interrupt(pmu: &GuestPmu<V>) -> bool {
        pmu.can_interrupt()
    }

    fn load(vcpu: &OwnerVcpu<'_>, pmu: &mut GuestPmu<V>, lvtpc: u32) -> Elided {
        V::load(vcpu, pmu, Lvtpc::new(lvtpc))
    }

    fn left(pmu: &mut GuestPmu<V>, completed: bool) {
        if V::ENTRIES_COUNT && !completed {
            in_place::entered(pmu);
        }
    }

    fn put(vcpu: &OwnerVcpu<'_>, pmu: &mut GuestPmu<V>) -> bool {
        tell(vcpu, V::put(vcpu, pmu));
        if V::ENTRIES_COUNT && in_place::end(pmu) {
            vcpu.request_pmi();
        }
        pmu.rest.is()
    }

    fn may_park(pmu: &GuestPmu<V>) -> bool {
        park::may(pmu)
    }

    fn park(vcpu: &OwnerVcpu<'_>, pmu: &mut GuestPmu<V>) -> bool {
        let Some(overflow) = V::park(vcpu, pmu) else {
            return false;
        };
        tell(vcpu, overflow);
        true
    }

    fn resume(vcpu: &OwnerVcpu<'_>, pmu: &mut GuestPmu<V>, lvtpc: u32) -> Elided {
        let resumed = V::resume(vcpu, pmu, Lvtpc::new(lvtpc));
        if resumed.owed {
            vcpu.request_pmi();
        }
        resumed.elided
    }

    fn retired_parked(vcpu: &OwnerVcpu<'_>, pmu: &mut GuestPmu<V>, what: Retired, at_cpl0: bool) {
        if V::retire_parked(vcpu, pmu, what, at_cpl0) {
            vcpu.request_pmi();
        }
    }

    fn rdpmc_parked(vcpu: &OwnerVcpu<'_>, pmu: &GuestPmu<V>, ecx: u32) -> Option<u64> {
        V::rdpmc_parked(vcpu, pmu, ecx)
    }

    fn save(vcpu: &Vcpu, pmu: &mut GuestPmu<V>, state: &Evicted<'_>) {
        let overflow = V::save(vcpu, pmu, state);
        let owed = in_place::end(pmu);
        if owed || overflow == Overflow::New || state.has_pmi() {
            vcpu.request_pmi();
        }
    }
}

/// Sees to it that the guest gets its PMI for what is known of overflows, once.
#[inline(always)]
fn tell(vcpu: &OwnerVcpu<'_>, overflow: Overflow) {
    match overflow {
        Overflow::None => {}
        Overflow::New => {
            vcpu.request_pmi();
            vcpu.wait_for_pmi(true);
        }
        Overflow::Unclear => vcpu.wait_for_pmi(false),
    }
}
