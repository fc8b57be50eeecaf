// SPDX-License-Identifier: GPL-2.0

//! The mediated PMU as a backend of KVM, and the module that registers it.

#![forbid(unsafe_code)]

use crate::{
    amd::Amd,
    caps::{self, HostPmu, HostVendor},
    guest::{GeneralProtection, GuestPmu, Initiator},
    intel::Intel,
    msr::Msr,
    nested::Mode,
    platform::Platform,
    pmi::{Lvtpc, Pmi},
    retired::Retired,
    switch::{self, Elided},
    sys::{
        errno::not_supported,
        kvm::{self, HeldVcpu, InterceptedVcpu, OwnerVcpu, Public, Registration, Vcpu},
        params,
        perf::MediatedPmu,
    },
    vendor::Vendor,
};
use core::marker::PhantomData;
use kernel::{c_str, prelude::*, str::CStr};

/// The module: while it exists, new virtual machines get a mediated PMU.
pub struct Module {
    _backend: Backend,
}

/// Which backend is registered.
enum Backend {
    /// None: the parameter `enable_mediated_pmu` is off.
    None,
    /// Intel's.
    Intel(#[allow(dead_code)] Registration<Mediated<Intel>>),
    /// AMD's.
    Amd(#[allow(dead_code)] Registration<Mediated<Amd>>),
}

impl kernel::Module for Module {
    fn init(module: &'static ThisModule) -> Result<Self> {
        if !params::enable_mediated_pmu() {
            pr_info!(
                "disabled by enable_mediated_pmu=0; virtual machines keep KVM's emulated PMU\n"
            );
            return Ok(Self {
                _backend: Backend::None,
            });
        }
        let host = kvm::host_pmu();
        let backend = match host.vendor {
            HostVendor::Intel => Backend::Intel(register(module, &host)?),
            HostVendor::Amd => Backend::Amd(register(module, &host)?),
            HostVendor::None => {
                pr_err!("not loaded: KVM has no vendor module; load kvm_intel or kvm_amd first\n");
                return Err(ENODEV);
            }
        };
        Ok(Self { _backend: backend })
    }
}

/// Registers the backend of vendor `V` on `host`, and logs what came of it: one line.
fn register<V: Platform>(
    module: &'static ThisModule,
    host: &HostPmu,
) -> Result<Registration<Mediated<V>>> {
    if let Err(missing) = caps::check(host, V::REQUIREMENTS) {
        pr_err!("not loaded: this host lacks {missing}\n");
        return Err(not_supported());
    }
    let offer = V::offer(host);
    let registration = Registration::new(module, &offer).inspect_err(|error| {
        if *error == EBUSY {
            pr_err!("not loaded: KVM has another vPMU backend\n");
        } else {
            pr_err!(
                "not loaded: KVM refuses the backend, error {}\n",
                error.to_errno()
            );
        }
    })?;
    pr_info!(
        "{} mediated vPMU enabled: {} general-purpose and {} fixed counters of {} bits, host PMU version {}\n",
        V::NAME,
        offer.gp,
        offer.fixed,
        offer.gp_width.bits(),
        host.pmu.version,
    );
    Ok(registration)
}

/// The backend with the rules of vendor `V`.
pub struct Mediated<V>(PhantomData<V>);

/// What belongs to a vCPU.
pub struct VcpuPmu {
    host: HostPmu,
    pmu: GuestPmu,
}

impl<V: Platform> kvm::Backend for Mediated<V> {
    const NAME: &'static CStr = c_str!("mediated");

    type VmData = MediatedPmu;
    type VcpuData = VcpuPmu;

    fn vm_create() -> Result<MediatedPmu> {
        MediatedPmu::new().inspect_err(|error| kvm::warn_vm_refused(*error))
    }

    fn vcpu_create() -> Result<VcpuPmu> {
        Ok(VcpuPmu {
            host: kvm::host_pmu(),
            pmu: GuestPmu::default(),
        })
    }

    fn refresh(vcpu: &HeldVcpu<'_>, data: &mut VcpuPmu) {
        let model = V::model(&data.host, vcpu);
        data.pmu.refresh(model);
        vcpu.publish(Public {
            version: model.version,
            counts_instructions: data.pmu.counts_instructions::<V>(),
            global_ctrl_valid: model.global_ctrl_valid,
            global_status_valid: model.global_status_valid,
        });
    }

    fn is_valid_msr(data: &VcpuPmu, msr: Msr) -> bool {
        V::is_valid(data.pmu.model(), msr)
    }

    /// Where the guest faults user space reads 0, as of other registers that KVM lists and the vCPU
    /// does not have.
    fn get_msr(data: &VcpuPmu, msr: Msr, host_initiated: bool) -> Result<u64, GeneralProtection> {
        match V::register(data.pmu.model(), msr) {
            Some(register) => Ok(data.pmu.read(register)),
            None if host_initiated => Ok(0),
            None => Err(GeneralProtection),
        }
    }

    fn set_msr(
        vcpu: &HeldVcpu<'_>,
        data: &mut VcpuPmu,
        msr: Msr,
        value: u64,
        host_initiated: bool,
    ) -> Result<(), GeneralProtection> {
        let Some(register) = V::register(data.pmu.model(), msr) else {
            let restores = host_initiated && value == 0;
            return if restores { Ok(()) } else { Err(GeneralProtection) };
        };
        let by = if host_initiated {
            Initiator::Host
        } else {
            Initiator::Guest
        };
        publishing_counts_instructions::<V, _>(vcpu, &mut data.pmu, |pmu| {
            pmu.write::<V>(register, value, by, vcpu)
        })
    }

    fn rdpmc(data: &VcpuPmu, ecx: u32) -> Result<u64, GeneralProtection> {
        V::rdpmc(data.pmu.model(), ecx)
            .map(|operand| data.pmu.rdpmc(operand))
            .ok_or(GeneralProtection)
    }

    fn rdpmc_faults(data: &VcpuPmu, ecx: u32) -> bool {
        V::RDPMC_FAULTS_FIRST && V::rdpmc(data.pmu.model(), ecx).is_none()
    }

    fn filter_changed(vcpu: &HeldVcpu<'_>, data: &mut VcpuPmu) {
        publishing_counts_instructions::<V, _>(vcpu, &mut data.pmu, |pmu| {
            pmu.refilter::<V>(vcpu);
        });
    }

    fn instruction_retired(vcpu: &HeldVcpu<'_>, data: &mut VcpuPmu) {
        retired(vcpu, data, Retired::Instruction);
    }

    fn branch_retired(vcpu: &HeldVcpu<'_>, data: &mut VcpuPmu) {
        retired(vcpu, data, Retired::Branch);
    }

    fn set_intercepts(vcpu: &InterceptedVcpu<'_>, data: &VcpuPmu) {
        let model = data.pmu.model();
        for (msr, free) in V::intercepts(model.passthrough) {
            vcpu.intercept_msr(msr, free);
        }
        vcpu.intercept_rdpmc(!model.passthrough.rdpmc);
        V::set_controls(vcpu, model);
    }

    fn mode_changed(vcpu: &HeldVcpu<'_>, data: &mut VcpuPmu, mode: Mode) {
        publishing_counts_instructions::<V, _>(vcpu, &mut data.pmu, |pmu| {
            pmu.change_mode::<V>(mode);
        });
    }

    fn can_interrupt(data: &VcpuPmu) -> bool {
        data.pmu.can_interrupt()
    }

    fn load(vcpu: &OwnerVcpu<'_>, data: &mut VcpuPmu, lvtpc: u32) -> Elided {
        switch::load::<V>(&mut data.pmu, &mut V::pmu(vcpu), Lvtpc::new(lvtpc))
    }

    fn put(vcpu: &OwnerVcpu<'_>, data: &mut VcpuPmu) {
        deliver(vcpu, switch::put::<V>(&mut data.pmu, &mut V::pmu(vcpu)));
    }

    /// The vector comes from an overflow in the guest that has just left the processor.
    fn pmi(vcpu: &Vcpu) {
        vcpu.request_pmi();
    }
}

/// KVM completed an instruction of the guest, to be counted as `what`.
fn retired(vcpu: &HeldVcpu<'_>, data: &mut VcpuPmu, what: Retired) {
    deliver(vcpu, data.pmu.retire(what, || vcpu.is_in_user_mode()));
}

/// Asks KVM to deliver a PMI if one is owed.
fn deliver(vcpu: &Vcpu, pmi: Pmi) {
    match pmi {
        Pmi::None => {}
        Pmi::Owed => vcpu.request_pmi(),
    }
}

/// Does `change`, and tells KVM if the PMU began or ceased to count instructions by it.
fn publishing_counts_instructions<V: Vendor, R>(
    vcpu: &HeldVcpu<'_>,
    pmu: &mut GuestPmu,
    change: impl FnOnce(&mut GuestPmu) -> R,
) -> R {
    let before = pmu.counts_instructions::<V>();
    let result = change(pmu);
    let after = pmu.counts_instructions::<V>();
    if after != before {
        vcpu.set_counts_instructions(after);
    }
    result
}
