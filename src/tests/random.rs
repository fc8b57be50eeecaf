// SPDX-License-Identifier: GPL-2.0

//! Random cases that come out the same every time.
//!
//! A failure in somebody's run is worth nothing if nobody else can have it. So the cases come from
//! a seed, which is a constant unless the environment says otherwise:
//!
//! | variable | value |
//! | --- | --- |
//! | `SEED` | a number, or `random` |
//! | `CASES` | how many cases each property is tried with |
//!
//! `SEED=random CASES=1000000 cargo test --release exactness` looks for what nobody has met yet.
//! What it finds is shrunk, and told with the seed that brings it back.

use proptest::{
    strategy::Strategy,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use std::{
    collections::hash_map::RandomState,
    env,
    hash::{BuildHasher, Hasher},
    panic::{catch_unwind, resume_unwind, AssertUnwindSafe},
};

/// The seed of every run that does not ask for another.
const SEED: u64 = 0x6d65_6469_6174_6564;

/// Tries `property` with random values of `strategy`, `cases` of them if the environment does not
/// say how many.
///
/// # Panics
///
/// If the property does.
pub(super) fn check<S: Strategy>(cases: u32, strategy: &S, property: impl Fn(S::Value)) {
    let cases = variable("CASES").map_or(cases, |text| parse("CASES", &text));
    let seed = match variable("SEED").as_deref() {
        None => SEED,
        Some("random") => RandomState::new().build_hasher().finish(),
        Some(text) => parse("SEED", text),
    };
    println!("SEED={seed} CASES={cases}");

    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, rng(seed));
    let result = runner.run(strategy, |value| {
        property(value);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("with SEED={seed} CASES={cases}: {failure}");
    }
}

fn rng(seed: u64) -> TestRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|text| !text.is_empty())
}

fn parse<T: core::str::FromStr>(name: &str, text: &str) -> T {
    text.parse()
        .unwrap_or_else(|_| panic!("{name}={text} is not a number in range"))
}

/// The first `count` numbers that a property is given.
fn drawn(count: u32) -> Vec<u64> {
    use std::cell::RefCell;

    let numbers = RefCell::new(Vec::new());
    check(count, &proptest::num::u64::ANY, |number| {
        numbers.borrow_mut().push(number);
    });
    numbers.into_inner()
}

#[test]
fn the_same_cases_come_again() {
    if variable("SEED").as_deref() != Some("random") {
        assert_eq!(drawn(20), drawn(20));
    }
}

#[test]
fn a_failure_is_told_with_its_seed() {
    let failure = catch_unwind(AssertUnwindSafe(|| {
        check(100, &(0..1000u32), |number| assert!(number < 2));
    }));
    let Err(message) = failure else {
        panic!("a property that does not hold passed");
    };
    match message.downcast_ref::<String>() {
        Some(text) => {
            assert!(text.contains("SEED="), "{text}");
            // Shrunk to the smallest number that fails.
            assert!(text.contains("minimal failing input: 2"), "{text}");
        }
        None => resume_unwind(message),
    }
}
