// SPDX-License-Identifier: GPL-2.0

//! A mediated vPMU for KVM x86: the part that knows neither the kernel nor the hardware.
//!
//! The kernel module consists of the same files; [`switch::Hw`], [`model::GuestConfig`] and
//! [`filter::EventFilter`] are where the kernel comes in there, and fakes in the tests.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod amd;
pub mod caps;
pub mod counter;
pub mod filter;
pub mod guest;
pub mod intel;
pub mod intercepts;
pub mod model;
pub mod msr;
pub mod nested;
pub mod pmi;
pub mod rdpmc;
pub mod retired;
pub mod switch;
pub mod vendor;

#[cfg(test)]
mod tests;
