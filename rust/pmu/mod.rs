// SPDX-License-Identifier: GPL-2.0

//! The registers of a PMU that a vCPU owns.
//!
//! # What writing them can do
//!
//! A counter, an event selector, the enables and the status of a PMU are numbers and switches. What
//! they count and what an overflow does is confined to the processor, with one exception: a counter
//! that has its bit in IA32_PEBS_ENABLE makes hardware write a record to where IA32_DS_AREA points,
//! as branch tracing does with its bits in IA32_DEBUGCTL. Both are off here. perf has switched them
//! off before it lent the PMU (`perf_load_guest_context()` disables the PMU, and with it PEBS,
//! stops all of its events, and pauses BTS), and KVM switches neither register with the guest then.
//! None of the methods below switches them on, and no guest can be let access those registers
//! (`GuestMsr` in `msr.rs`).
//!
//! So whatever is written, memory safety is not at stake. A value that a register does not take is
//! reported by the kernel and dropped. What has to hold is that the PMU is ours to change, which
//! [`OwnerVcpu`] proves.

mod amd;
mod evicted;
mod intel;

pub(crate) use super::perf::Evicted;
pub(crate) use amd::AmdPmu;
pub(crate) use evicted::EvictedPmu;
pub(crate) use intel::IntelPmu;

use super::{bindings, kvm::OwnerVcpu};
use crate::{counter::CounterSet, msr::Msr, switch::Claim};
use core::arch::asm;

/// An instruction that accesses a register by ECX, and by EDX:EAX.
///
/// Where it faults the kernel goes on behind it, as `$type` says. What the kernel offers is calls,
/// which are most of the cost where there are dozens.
macro_rules! access {
    ($instruction:literal, $type:literal, $($operands:tt)*) => {
        asm!(
            concat!("2: ", $instruction),
            "3:",
            ".pushsection \"__ex_table\", \"a\"",
            ".balign 4",
            ".long 2b - .",
            ".long 3b - .",
            concat!(".long ", $type),
            ".popsection",
            $($operands)*,
            options(nomem, nostack, preserves_flags)
        )
    };
}

/// Reads a register of the PMU.
///
/// The type in the exception table is EX_TYPE_RDMSR, which `rust/helpers.c` asserts to be this
/// number.
#[inline(always)]
fn read(msr: Msr) -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: RDMSR reads into EDX:EAX, clears the upper halves of both registers, and touches
    // neither memory nor flags. If it faults, the kernel says so once and clears both registers.
    unsafe {
        access!("rdmsr", "9", in("ecx") msr.address(), out("rax") low, out("rdx") high);
    }
    (high << 32) | low
}

/// Writes a register of the PMU.
///
/// The type in the exception table is EX_TYPE_WRMSR.
///
/// # Safety
///
/// A vCPU owns the PMU, and `msr` is a counter, a selector, an enable or the status of it: see
/// above for why the value does not matter.
#[inline(always)]
unsafe fn write(msr: Msr, value: u64) {
    // SAFETY: By the caller's promise this changes no memory, and WRMSR no flags. If it faults, the
    // kernel says so once.
    unsafe {
        access!("wrmsr", "8", in("ecx") msr.address(), in("eax") value as u32, in("edx") (value >> 32) as u32);
    }
}

/// Claims this processor's counters, see [`Hw::claim_counters`].
#[inline(always)]
fn claim_counters(_owner: &OwnerVcpu<'_>, number: u64) -> Claim {
    let (mut used, mut host_status, mut may_park) = (0, 0, false);
    // SAFETY: perf has lent the PMU to the vCPU, by the invariant of `OwnerVcpu`, and all of the
    // variables can be written.
    let number = unsafe {
        bindings::perf_claim_guest_counters(number, &mut used, &mut host_status, &mut may_park)
    };
    Claim {
        number,
        used: CounterSet::from_bits(used),
        host_status,
        may_park,
    }
}

/// Reads what RDPMC reads with this `ecx`.
///
/// It must be something that the host has. Were it not, the kernel would warn once and the result
/// be 0, as of an RDMSR that faults.
#[inline(always)]
fn read_pmc(ecx: u32) -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: As of RDMSR.
    unsafe {
        access!("rdpmc", "9", in("ecx") ecx, out("rax") low, out("rdx") high);
    }
    (high << 32) | low
}
