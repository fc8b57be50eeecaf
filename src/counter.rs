// SPDX-License-Identifier: GPL-2.0

//! Performance counters: which one, how wide, and sets of them.
//!
//! A counter is known by three numbers, as in KVM's own C code:
//!
//! - the address of the MSR that holds it,
//! - the ECX of the RDPMC instruction that reads it,
//! - its bit in the global control and status: general-purpose counter _n_ is bit _n_, fixed
//!   counter _n_ is bit 32 + _n_.
//!
//! The first two are a vendor's matter. [`Counter`] is the number free of these encodings,
//! [`CounterSet`] the third of them.

use core::ops::{BitAnd, BitOr, BitOrAssign, BitXor, Not};

/// General-purpose counters that a guest can have: as many as KVM has MSR indices for.
pub(crate) const MAX_GP: usize = 8;

/// Fixed-function counters that a guest can have: 0 to 3.
pub(crate) const MAX_FIXED: usize = 4;

/// Counters of both kinds.
pub(crate) const MAX_COUNTERS: usize = MAX_GP + MAX_FIXED;

/// The bit of fixed counter 0 in the global registers.
pub(crate) const FIXED_BASE: u32 = 32;

/// One counter, general-purpose or fixed.
///
/// # Invariants
///
/// The index is below [`MAX_GP`] or [`MAX_FIXED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counter(Kind);

/// What kind of counter, and its index within the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// General-purpose: what it counts is chosen by an event selector.
    Gp(u8),
    /// Fixed-function: counts one event.
    Fixed(u8),
}

impl Counter {
    /// General-purpose counter `index`, or `None` from [`MAX_GP`] on.
    pub(crate) const fn gp(index: usize) -> Option<Self> {
        if index < MAX_GP {
            // INVARIANT: just checked.
            Some(Self(Kind::Gp(index as u8)))
        } else {
            None
        }
    }

    /// Fixed-function counter `index`, or `None` from [`MAX_FIXED`] on.
    pub(crate) const fn fixed(index: usize) -> Option<Self> {
        if index < MAX_FIXED {
            // INVARIANT: just checked.
            Some(Self(Kind::Fixed(index as u8)))
        } else {
            None
        }
    }

    /// General-purpose or fixed, and the index within the kind.
    pub(crate) const fn kind(self) -> Kind {
        self.0
    }

    /// Where this counter lives in an array of [`MAX_COUNTERS`] entries.
    ///
    /// The index within the kind is masked although it is in range: a guest chooses it, and a
    /// processor that mispredicts the range check must not read beyond the array (Spectre v1).
    #[inline(always)]
    pub(crate) const fn slot(self) -> usize {
        match self.0 {
            Kind::Gp(n) => n as usize & (MAX_GP - 1),
            Kind::Fixed(n) => MAX_GP + (n as usize & (MAX_FIXED - 1)),
        }
    }

    /// This counter's bit in the global registers.
    #[inline(always)]
    pub(crate) const fn bit(self) -> CounterSet {
        match self.0 {
            Kind::Gp(n) => CounterSet(1 << n),
            Kind::Fixed(n) => CounterSet(1 << (FIXED_BASE + n as u32)),
        }
    }
}

/// A set of counters in the layout of the global registers.
///
/// Bits that belong to no counter are never set: [`CounterSet::from_bits`] drops them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CounterSet(u64);

impl CounterSet {
    /// No counter.
    pub(crate) const EMPTY: Self = Self(0);

    /// Every counter that a guest could ever have.
    pub(crate) const ALL: Self = Self::first(MAX_GP, MAX_FIXED);

    /// Of these the general-purpose ones.
    pub(crate) const ALL_GP: Self = Self::first(MAX_GP, 0);

    /// The first `gp` general-purpose and the first `fixed` fixed counters.
    ///
    /// Numbers above [`MAX_GP`] and [`MAX_FIXED`] are taken as these.
    pub(crate) const fn first(gp: usize, fixed: usize) -> Self {
        let gp = if gp < MAX_GP { gp } else { MAX_GP };
        let fixed = if fixed < MAX_FIXED { fixed } else { MAX_FIXED };
        Self(((1 << gp) - 1) | (((1 << fixed) - 1) << FIXED_BASE))
    }

    /// The counters whose bits are set in the value of a global register.
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// The bits as they stand in a global register.
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// Is there no counter in the set?
    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Is `counter` in the set?
    pub(crate) const fn contains(self, counter: Counter) -> bool {
        self.0 & counter.bit().0 != 0
    }

    /// Is general-purpose counter `index` in the set?
    pub(crate) fn has_gp(self, index: usize) -> bool {
        Counter::gp(index).is_some_and(|counter| self.contains(counter))
    }

    /// Puts `counter` into the set, or takes it out.
    pub(crate) fn set(&mut self, counter: Counter, member: bool) {
        if member {
            self.0 |= counter.bit().0;
        } else {
            self.0 &= !counter.bit().0;
        }
    }

    /// Calls `visit` for each counter of the set, in the order of [`Self::iter`]. The set has no
    /// counter but those of `possible`, which is a constant.
    ///
    /// `visit` is compiled once for each counter there can be, with everything that depends on
    /// which it is as a constant, and once for a set of one. For the world switch; elsewhere
    /// [`Self::iter`] is as good and smaller.
    #[inline(always)]
    pub(crate) fn unrolled(self, possible: Self, mut visit: impl FnMut(Counter)) {
        macro_rules! visit_if {
            ($is_member:expr) => {
                visit_if!($is_member, Gp(0) Gp(1) Gp(2) Gp(3) Gp(4) Gp(5) Gp(6) Gp(7));
                visit_if!($is_member, Fixed(0) Fixed(1) Fixed(2) Fixed(3));
            };
            // INVARIANT: the indices are in range.
            ($is_member:expr, $($kind:ident($index:literal))*) => {$(
                let counter = Counter(Kind::$kind($index));
                if possible.contains(counter) && $is_member(counter) {
                    visit(counter);
                }
            )*};
        }
        // Most guests have all counters, or use one: no need to ask for each.
        if self.0 == possible.0 {
            visit_if!(|_| true);
        } else if self.0.is_power_of_two() {
            self.iter().for_each(visit);
        } else {
            visit_if!(|counter| self.contains(counter));
        }
    }

    /// How many counters there are in the set.
    pub(crate) const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// The counters of the set, general-purpose before fixed, in ascending order.
    #[inline(always)]
    pub(crate) fn iter(self) -> Iter {
        Iter(self.0)
    }
}

impl BitAnd for CounterSet {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for CounterSet {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitXor for CounterSet {
    type Output = Self;

    fn bitxor(self, other: Self) -> Self {
        Self(self.0 ^ other.0)
    }
}

impl BitOrAssign for CounterSet {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl Not for CounterSet {
    type Output = Self;

    fn not(self) -> Self {
        Self(!self.0 & Self::ALL.0)
    }
}

/// Iterator over the counters of a [`CounterSet`].
pub(crate) struct Iter(u64);

impl Iterator for Iter {
    type Item = Counter;

    #[inline(always)]
    fn next(&mut self) -> Option<Counter> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros();
        self.0 &= self.0 - 1;
        // INVARIANT: a set has no bits but those of counters in range.
        Some(Counter(if bit < FIXED_BASE {
            Kind::Gp(bit as u8)
        } else {
            Kind::Fixed((bit - FIXED_BASE) as u8)
        }))
    }
}

/// The width of a counter in bits, 0 to 64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Width(u8);

impl Width {
    /// A width of `bits`; above 64 it is 64.
    pub(crate) const fn new(bits: u32) -> Self {
        Self(if bits < 64 { bits as u8 } else { 64 })
    }

    /// The width in bits.
    pub(crate) const fn bits(self) -> u32 {
        self.0 as u32
    }

    /// A value with all bits set that a counter of this width has.
    pub(crate) const fn mask(self) -> u64 {
        match self.0 {
            0 => 0,
            n => u64::MAX >> (64 - n as u32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_laid_out_like_global_ctrl() {
        // SDM Vol. 3B, figure "Layout of IA32_PERF_GLOBAL_CTRL MSR".
        assert_eq!(CounterSet::first(8, 4).bits(), 0x0000_000f_0000_00ff);
        assert_eq!(CounterSet::first(0, 0).bits(), 0);
        assert_eq!(CounterSet::first(3, 1).bits(), 0x0000_0001_0000_0007);
        assert_eq!(CounterSet::first(100, 100), CounterSet::ALL);
        assert_eq!(CounterSet::from_bits(u64::MAX), CounterSet::ALL);
    }

    #[test]
    fn iteration_visits_each_counter_once() {
        let mut slots = [0; MAX_COUNTERS];
        for counter in CounterSet::ALL.iter() {
            slots[counter.slot()] += 1;
            assert!(CounterSet::ALL.contains(counter));
        }
        assert_eq!(slots, [1; MAX_COUNTERS]);

        let some = CounterSet::from_bits(0x5_0000_0093);
        let (mut visited, mut iterated) = (Vec::new(), Vec::new());
        some.unrolled(CounterSet::ALL, |counter| visited.push(counter));
        iterated.extend(some.iter());
        assert_eq!(visited, iterated);
        CounterSet::ALL.unrolled(CounterSet::ALL, |counter| slots[counter.slot()] += 1);
        assert_eq!(slots, [2; MAX_COUNTERS]);

        let possible = CounterSet::first(6, 0);
        for set in [possible, CounterSet::from_bits(0x15)] {
            visited.clear();
            set.unrolled(possible, |counter| visited.push(counter));
            iterated.clear();
            iterated.extend(set.iter());
            assert_eq!(visited, iterated);
        }
    }

    #[test]
    fn counters_out_of_range_do_not_exist() {
        assert!(Counter::gp(MAX_GP - 1).is_some());
        assert!(Counter::gp(MAX_GP).is_none());
        assert!(Counter::fixed(MAX_FIXED - 1).is_some());
        assert!(Counter::fixed(MAX_FIXED).is_none());
    }

    #[test]
    fn set_and_not() {
        let mut set = CounterSet::EMPTY;
        let counter = Counter::fixed(2).unwrap();
        set.set(counter, true);
        assert!(set.contains(counter) && !(!set).contains(counter));
        set.set(counter, false);
        assert!(set.is_empty());
    }

    #[test]
    fn width_masks() {
        assert_eq!(Width::new(0).mask(), 0);
        assert_eq!(Width::new(1).mask(), 1);
        assert_eq!(Width::new(48).mask(), 0xffff_ffff_ffff);
        assert_eq!(Width::new(64).mask(), u64::MAX);
        assert_eq!(Width::new(200).mask(), u64::MAX);
    }
}
