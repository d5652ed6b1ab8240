//! What the benchmarks share: the clock, and how a figure is printed.

use std::time::Duration;

use anyhow::Context;
use shoal_tests::command::Said;
use shoal_tests::wait::now;

/// The docker CLI, talking to one side.
pub(crate) type Docker<'a> = &'a dyn Fn(&[&str]) -> anyhow::Result<Said>;

pub(crate) fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

pub(crate) fn row(what: &str, ours: f64, peer: f64, unit: &str) {
    println!("{what:<44} {ours:>9.3} {unit}   dockerd {peer:>9.3} {unit}   ratio {:>6.1}x", peer / ours);
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

pub(crate) fn time(docker: Docker<'_>, args: &[&str]) -> anyhow::Result<f64> {
    let begin = now();
    docker(args)?.ok().with_context(|| args.join(" "))?;
    Ok(seconds(begin.elapsed()))
}
