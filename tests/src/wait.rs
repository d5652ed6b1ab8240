//! Waiting for a level, never for an edge or a fixed time.

use std::time::{Duration, Instant};

use anyhow::bail;

/// The stopwatch of tests and benchmarks.
#[expect(clippy::disallowed_methods, reason = "tests measure real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// Sleeps.
#[expect(clippy::disallowed_methods, reason = "tests poll from plain threads")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Asks every 20 ms until the answer is `Ok`, for at most `seconds`; returns how long it took.
///
/// # Errors
/// When the deadline passes; the last answer says why.
pub fn until(seconds: u64, what: &str, mut ask: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let begin = now();
    loop {
        let last = match ask() {
            Ok(()) => return Ok(begin.elapsed()),
            Err(error) => error,
        };
        if begin.elapsed() > Duration::from_secs(seconds) {
            bail!("not within {seconds} s: {what}: {last:#}");
        }
        pause(Duration::from_millis(20));
    }
}
