// SPDX-License-Identifier: GPL-2.0

//! Rest: a PMU of which nothing can count is not in hardware.
//!
//! Most guests measure nothing most of the time, and should cost what a guest without a PMU costs.
//! While a PMU is at rest the truth is in memory alone. Every access of it exits, perf is not asked
//! for the hardware, and the host's events go on in the guest as they would without a PMU.
//!
//! It wakes up with the write that lets a counter count, which exits, before the guest goes on. It
//! goes to rest when the guest has been left so many times in a row without anything that could
//! count, or that has counted since the guest was entered, see [`PATIENCE`]. Either way the guest's
//! intercepts have to be set anew.

/// How often a guest that measures nothing is left before its PMU goes to rest.
///
/// A guest that switches its counters from one set to another exits for each selector, of which
/// there are eight at most, with nothing on in between, and at rest for each counter, too. So it
/// should not find its PMU at rest then. `perf stat` of ten events in a Linux guest on Intel exits
/// 700 times if the PMU never rests, 728 times with this number, 969 with 8 and 1,158 with 1. On
/// AMD it is 3,022 and 3,035, 3,347 and 3,432. Whoever ceases to measure pays for so many exits
/// what an idle PMU costs.
pub(crate) const PATIENCE: u32 = 16;

/// Whether a PMU is at rest, and what it takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rest {
    /// It is.
    at_rest: bool,
    /// How often the guest was left since it counted last.
    idle: u32,
    /// How often it may be; 0: a PMU that is awake stays awake.
    patience: u32,
}

/// A PMU begins at rest.
impl Default for Rest {
    fn default() -> Self {
        Self::new(PATIENCE)
    }
}

impl Rest {
    /// A PMU that rests when the guest was left `patience` times with nothing that could count, or
    /// never again if that is 0.
    pub(crate) const fn new(patience: u32) -> Self {
        Self {
            at_rest: true,
            idle: 0,
            patience,
        }
    }

    /// The same of a PMU that has just been made.
    pub(crate) const fn anew(self) -> Self {
        Self::new(self.patience)
    }

    /// Is the PMU at rest?
    #[inline(always)]
    pub(crate) const fn is(self) -> bool {
        self.at_rest
    }

    /// Is it going to rest if the guest is left once more with nothing that could count?
    #[inline(always)]
    pub(crate) const fn is_due(self) -> bool {
        // Without patience it never is.
        matches!(self.idle.checked_add(1), Some(idle) if idle == self.patience)
    }

    /// A register was written, and now something can count or not.
    pub(crate) fn written(&mut self, can_count: bool) {
        if can_count {
            self.at_rest = false;
            self.idle = 0;
        }
    }

    /// The guest was left, which counts, or has counted since it was entered, or not.
    #[inline(always)]
    pub(crate) fn left(&mut self, counts: bool) {
        if counts {
            self.idle = 0;
            return;
        }
        if self.is_due() {
            self.at_rest = true;
            self.idle = 0;
        } else {
            self.idle = self.idle.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_at_rest_and_wakes_up_when_something_can_count() {
        let mut rest = Rest::new(3);
        assert!(rest.is());
        rest.written(false);
        assert!(rest.is());
        rest.written(true);
        assert!(!rest.is());
    }

    #[test]
    fn it_rests_when_nothing_could_count_for_long_enough() {
        let mut rest = Rest::new(3);
        rest.written(true);
        let seen: Vec<bool> = [true, false, false, true, false, false, false]
            .into_iter()
            .map(|counts| {
                rest.left(counts);
                rest.is()
            })
            .collect();
        assert_eq!(seen, [false, false, false, false, false, false, true]);
        rest.written(true);
        rest.left(false);
        assert!(!rest.is(), "it has its patience back");
    }

    #[test]
    fn without_patience_it_never_rests_again() {
        let mut rest = Rest::new(0);
        rest.written(true);
        for _ in 0..1000 {
            rest.left(false);
        }
        assert!(!rest.is());
    }
}
