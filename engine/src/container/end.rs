//! The end of a container's process, and what follows from it.

use std::sync::Arc;
use std::time::Duration;

use super::instance::Container;
use super::launch;
use super::lifecycle::{Command, Input};
use super::{network, remove, start};
use crate::engine::Inner;
use crate::shim::client::Shim;
use crate::shim::config::ExitRecord;
use crate::{exec, health};

/// Exit status of a process that nobody saw end, as dockerd gives it.
pub(crate) const UNKNOWN_EXIT: i32 = 255;

/// Watches for the end of a container's process.
pub(crate) fn watch(inner: &Arc<Inner>, container: &Arc<Container>, shim: Shim) {
    let (inner, container) = (Arc::clone(inner), Arc::clone(container));
    let tracker = inner.tasks.clone();
    tracker.spawn(async move {
        let exit = tokio::select! {
            () = inner.stopping.cancelled() => return,
            exit = shim.wait() => exit,
        };
        let exit = exit.unwrap_or_else(|error| {
            tracing::error!(container = %container.id, %error, "the shim was lost; its processes are killed");
            lost(&inner)
        });
        ended(&inner, &container, &exit).await;
    });
}

/// What is recorded of an end that nobody saw.
pub(crate) fn lost(inner: &Arc<Inner>) -> ExitRecord {
    ExitRecord {
        code: UNKNOWN_EXIT,
        signal: None,
        oom_killed: false,
        finished_at: inner.now(),
        error: Some("the shim was lost".to_owned()),
    }
}

/// Carries out what follows from an end.
#[tracing::instrument(level = "debug", skip_all, fields(container = %container.id, code = exit.code))]
pub(crate) async fn ended(inner: &Arc<Inner>, container: &Arc<Container>, exit: &ExitRecord) {
    // A start that is still at work comes first.
    let turn = container.operation.lock().await;
    let input = Input::Ended { exit_code: exit.code, oom_killed: exit.oom_killed, at: exit.finished_at };
    let commands = match container.step(input) {
        Ok(commands) => commands,
        Err(refusal) => {
            tracing::warn!(%refusal, "an end that was not expected");
            return;
        }
    };
    health::end(container);
    exec::container_ended(inner, container).await;
    if exit.error.is_some() && exit.code == UNKNOWN_EXIT {
        launch::destroy_without_shim(inner.shim_folder(&container.id)).await;
    }
    container.set_shim(None);
    let ran = {
        let state = &container.record().state;
        state.finished_at.since(state.started_at)
    };
    let removes = commands.contains(&Command::Remove);
    let mut saved = true;
    for command in commands {
        match command {
            Command::Release => release(inner, container).await,
            // The removal that follows would take the record away again.
            Command::Persist if removes => {}
            Command::Persist => saved = container.store().await,
            Command::TellDie => tell_end(inner, container, exit, ran),
            Command::RestartAfter(pause) => start::restart_after(inner, container, pause),
            Command::CancelRestart => container.set_restart_timer(None),
            Command::Remove | Command::TellStart => {}
        }
    }
    // Only now: until the record is safe, the shim's own is the only one.
    let folder = inner.shim_folder(&container.id);
    if removes {
        container.tell(true);
        let _logged = remove::finish(inner, container, &turn, true).await;
    } else {
        // Who waits need not wait for this; the next start does, since this has the turn.
        container.tell(true);
        // On a full disk the shim's record stays the only one: for the next daemon, or until the next start.
        if saved {
            remove::remove_folder_soon(inner, folder).await;
        }
    }
}

async fn release(inner: &Arc<Inner>, container: &Arc<Container>) {
    network::detach(inner, container);
    if !container.has_volumes() {
        return;
    }
    let released = {
        let (inner, container) = (Arc::clone(inner), Arc::clone(container));
        tokio::task::spawn_blocking(move || launch::release_disk(&inner, &container))
    };
    if let Err(error) = released.await {
        tracing::error!(container = %container.id, %error, "cleaning up failed");
    }
}

fn tell_end(inner: &Arc<Inner>, container: &Arc<Container>, exit: &ExitRecord, ran: Duration) {
    if exit.oom_killed {
        super::tell(inner, container, "oom", &[]);
    }
    let (code, seconds) = (exit.code.to_string(), ran.as_secs().to_string());
    super::tell(inner, container, "die", &[("execDuration", &seconds), ("exitCode", &code)]);
}
