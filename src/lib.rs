// SPDX-License-Identifier: GPL-2.0

//! A mediated vPMU for KVM x86: the part that knows neither the kernel nor the hardware.
//!
//! The kernel module consists of the same files; [`switch::Hw`], [`model::GuestConfig`] and
//! [`filter::EventFilter`] are where the kernel comes in there, and fakes in the tests.

#![cfg_attr(not(test), no_std)]
// By itself the library has no users; what the module does not use, the module's build finds.
#![allow(dead_code)]
#![allow(rustdoc::private_intra_doc_links)]
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::missing_docs_in_private_items))]

mod amd;
mod caps;
mod counter;
mod counters;
mod filter;
mod guest;
mod in_place;
mod intel;
mod intercepts;
mod model;
mod msr;
mod park;
mod pmi;
mod register;
mod rest;
mod retired;
mod switch;
mod unit;
mod vendor;

#[cfg(test)]
mod tests;
