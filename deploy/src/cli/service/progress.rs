//! Waits until a service is as its spec says, and shows how far it is.
//!
//! As docker does: polls the service and its up-to-date tasks, draws one bar a task (up to 20), and watches for the update's
//! monitor period after all tasks run. Unlike docker it says why a task waits and fails when an update was rolled back.

mod bars;
mod judge;

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::cli::client::Filters;
use crate::cli::context::Context;
use crate::cli::exit::fail;
use crate::cli::look::Look as _;
use crate::cli::output;

use judge::Verdict;

const POLL: Duration = Duration::from_millis(200);
const DEFAULT_MONITOR_NS: i64 = 5_000_000_000;

/// Waits for a service that was created or updated.
pub(crate) async fn wait(context: &Context, service: &str, quiet: bool) -> anyhow::Result<()> {
    follow(context, service, quiet, false).await
}

/// Waits for a service that was told to roll back.
pub(crate) async fn wait_for_rollback(context: &Context, service: &str, quiet: bool) -> anyhow::Result<()> {
    follow(context, service, quiet, true).await
}

async fn follow(context: &Context, id: &str, quiet: bool, rolling_back: bool) -> anyhow::Result<()> {
    let mut screen = bars::Screen::new(quiet);
    let watch = async {
        let mut converged_at: Option<Instant> = None;
        loop {
            let service = context.object("services", id).await?;
            let verdict = judge::status(&service, rolling_back);
            if let Verdict::Failed(reason) = verdict {
                return Err(fail(1, reason));
            }
            let monitor = Duration::from_nanos(u64::try_from(monitor_ns(&service)).unwrap_or_default());
            if converged_at.is_some_and(|since| since.elapsed() >= monitor) {
                screen.verify(&format!("Service {id} converged"));
                return Ok(());
            }
            let state = observe(context, &service).await?;
            screen.show(&state.lines());
            if state.converged() {
                if state.is_job() {
                    return Ok(());
                }
                // The update has watched its own tasks for the monitor period.
                if verdict == Verdict::Done && converged_at.is_none() {
                    screen.verify(&format!("Service {id} converged"));
                    return Ok(());
                }
                let since = *converged_at.get_or_insert_with(Instant::now);
                let left = monitor.saturating_sub(since.elapsed()).as_secs() + 1;
                screen.verify(&format!("Waiting {left} seconds to verify that tasks are stable..."));
            } else if converged_at.take().is_some() {
                screen.verify("Detected task failure");
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let interrupted = tokio::signal::ctrl_c();
    let result = tokio::select! {
        result = watch => result,
        _ = interrupted => {
            output::note(format!("\nOperation continuing in background. Use 'shoal service ps {id}' to check progress."));
            Ok(())
        }
    };
    screen.finish();
    result
}

fn monitor_ns(service: &Value) -> i64 {
    match service.number("Spec.UpdateConfig.Monitor") {
        0 => DEFAULT_MONITOR_NS,
        monitor => monitor,
    }
}

async fn observe(context: &Context, service: &Value) -> anyhow::Result<judge::State> {
    let filters = Filters::default().with("service", service.text("ID")).with("_up-to-date", "true");
    let tasks = context.client.get("/tasks").filters(&filters).json().await?;
    let nodes = context.client.fetch("/nodes").await?;
    Ok(judge::State::new(service, tasks.items(""), nodes.items("")))
}
