// SPDX-License-Identifier: GPL-2.0

//! The operand of RDPMC on processors with architectural performance monitoring.
//!
//! ECX\[31:16\] is the type of counter, ECX\[15:0\] its index within the type (SDM Vol. 2B, RDPMC).
//! The "fast" reads of older processors, ECX\[31\] set, are a type that does not exist here.

use crate::{
    counter::{Counter, Kind},
    model::Model,
};

/// Type of general-purpose counters.
const TYPE_GP: u32 = 0;
/// Type of fixed-function counters.
const TYPE_FIXED: u32 = 0x4000;

/// Type of IA32_PERF_METRICS, of which there is one.
const TYPE_METRICS: u32 = 0x2000;

/// The ECX that reads IA32_PERF_METRICS.
pub(crate) const METRICS: u32 = TYPE_METRICS << 16;

/// The counter that RDPMC with this `ecx` reads, `None` if it is no counter.
pub(crate) fn decode(model: &Model, ecx: u32) -> Option<Counter> {
    let index = (ecx & 0xffff) as usize;
    match ecx >> 16 {
        TYPE_GP => model.gp(index),
        TYPE_FIXED => model.fixed(index),
        _ => None,
    }
}

/// The ECX that reads `counter`.
#[inline(always)]
pub(crate) const fn encode(counter: Counter) -> u32 {
    match counter.kind() {
        Kind::Gp(index) => index as u32,
        Kind::Fixed(index) => (TYPE_FIXED << 16) | index as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::CounterSet;

    fn model() -> Model {
        Model {
            version: 2,
            counters: CounterSet::first(3, 2),
            ..Model::default()
        }
    }

    #[test]
    fn decodes_what_it_encodes() {
        for counter in model().counters.iter() {
            assert_eq!(decode(&model(), encode(counter)), Some(counter));
        }
    }

    #[test]
    fn faults_on_what_the_guest_does_not_have() {
        for ecx in [
            3,
            7,
            8,
            0xffff,
            0x4000_0002,
            0x4000_ffff,
            0x2000_0000,
            0x8000_0000,
            0x8000_0001,
            0xc000_0000,
            0x0001_0000,
            u32::MAX,
        ] {
            assert_eq!(decode(&model(), ecx), None, "{ecx:#x}");
        }
    }
}
