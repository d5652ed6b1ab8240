//! The own test-suite of a client library of the Docker API, run against a daemon of this tree: its authors knew dockerd,
//! not Shoal.
//!
//! Usage: `shoal-clients [--peer] [part of a test's name…]`; with `--peer` the daemon is Debian's dockerd. The suite comes
//! from crates.io, by cargo; nothing of it is in this tree. Every test runs alone, on the stand-in images of [`images`].
//! The run fails when a test fails that is not in [`exceptions`], and when one passes that is.

mod exceptions;
mod images;
mod suite;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::ensure;
use shoal_tests::lab::Lab;
use shoal_tests::wait;

use crate::exceptions::Side;
use crate::suite::{Suite, Test};

/// It asks for events and pulls an image at the same time, on two connections. Where a pull takes no time, it may be over
/// before anybody listens: then another one has to be heard.
const HEARS_A_PULL: &str = "system_test::integration_test_events";
/// The only host of the lab.
const HOST: &str = "m1";

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (flags, wanted): (Vec<_>, Vec<_>) = words.into_iter().partition(|word| word.starts_with('-'));
    ensure!(flags.iter().all(|flag| flag == "--peer"), "usage: shoal-clients [--peer] [part of a test's name…]");
    let side = if flags.is_empty() { Side::Here } else { Side::Peer };
    let suite = Suite::build()?;
    let mut tests = suite.tests()?;
    let unknown = exceptions::unknown(&tests);
    ensure!(unknown.is_empty(), "exceptions of tests that the suite does not have: {}", unknown.join(", "));
    tests.retain(|test| wanted.is_empty() || wanted.iter().any(|word| test.to_string().contains(word)));
    ensure!(!tests.is_empty(), "no test has such a name");
    // It makes a cluster of its own, where the others find one.
    tests.sort_by_key(Test::makes_a_cluster);
    let lab = match side {
        Side::Here => Lab::up("clients", 1, 0)?,
        Side::Peer => Lab::up_with("clients-peer", 1, 0, &["--engine", "dockerd"])?,
    };
    images::make(&lab)?;
    let registry = if side == Side::Peer { Some(images::serve(&lab)?) } else { None };
    let report = run(&suite, &tests, &lab, side)?;
    drop(registry);
    lab.down()?;
    report.tell(side)
}

fn run(suite: &Suite, tests: &[Test], lab: &Lab, side: Side) -> anyhow::Result<Report> {
    let mut report = Report::default();
    for test in tests {
        images::make(lab)?;
        if test.makes_a_cluster() {
            lab.ok(HOST, "swarm leave --force")?;
        }
        let begin = wait::now();
        let outcome = if test.to_string() == HEARS_A_PULL {
            while_pulling(lab, || suite.run(test, &lab.socket(HOST)))?
        } else {
            suite.run(test, &lab.socket(HOST))?
        };
        let reason = exceptions::reason(test, side);
        let word = match (&outcome, reason) {
            (Ok(()), None) => "passed",
            (Ok(()), Some(_)) => "PASSED, though excepted",
            (Err(_), Some(_)) => "excepted",
            (Err(_), None) => "FAILED",
        };
        println!("{:<68} {word} ({:.1} s)", test.to_string(), begin.elapsed().as_secs_f64());
        if let (Err(said), None) = (&outcome, reason) {
            println!("{}", said.trim_end());
        }
        images::clear(lab)?;
        report.outcomes.push((test.to_string(), outcome.is_ok(), reason));
    }
    Ok(report)
}

/// Works while an image is pulled every second.
fn while_pulling<T>(lab: &Lab, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                wait::pause(Duration::from_secs(1));
                // Whether the test hears of one is what it says itself.
                drop(lab.docker(HOST, &["pull", "-q", &images::hello()]));
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    })
}

/// What became of the tests: the name, whether it passed, and why it was not expected to.
#[derive(Default)]
struct Report {
    outcomes: Vec<(String, bool, Option<&'static str>)>,
}

impl Report {
    fn tell(&self, side: Side) -> anyhow::Result<()> {
        let named = |passed: bool, excepted: bool| -> Vec<&str> {
            let all = self.outcomes.iter();
            let same = all.filter(|(_, did, reason)| (*did, reason.is_some()) == (passed, excepted));
            same.map(|(name, ..)| name.as_str()).collect()
        };
        let (failed, surprising) = (named(false, false), named(true, true));
        println!(
            "\n{} {} on {side}: of {} tests {} passed, {} failed, {} are excepted",
            suite::CRATE,
            suite::VERSION,
            self.outcomes.len(),
            named(true, false).len(),
            failed.len(),
            named(false, true).len() + surprising.len(),
        );
        for (name, _, reason) in &self.outcomes {
            if let Some(reason) = reason {
                println!("excepted: {name}: {reason}");
            }
        }
        ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
        ensure!(surprising.is_empty(), "passed, so strike from the exceptions: {}", surprising.join(", "));
        Ok(())
    }
}
