// SPDX-License-Identifier: GPL-2.0

//! Tests of the whole: a guest with a mediated PMU against a bare machine.
//!
//! [`machine`] is an Intel processor's PMU and [`amd`] an AMD one's as the manuals describe them,
//! written without a look at the code under test. [`vmm`] runs a guest on two such processors with
//! that code, as KVM would. The same operations go to a guest there and to a machine of its own,
//! and everything that they can tell must agree: values, faults, and PMIs.

mod amd;
mod cpu;
mod exactness;
mod in_place;
mod machine;
mod park;
mod random;
mod registers;
mod vmm;
