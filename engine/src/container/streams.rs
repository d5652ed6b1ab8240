//! Connecting clients to a process's streams, before or after it was started.

use std::sync::Arc;

use futures::stream::{self, StreamExt};
use shoal_proto::error::Failure;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::api::{AttachOptions, AttachStreams, LogOptions, OutputFrame, OutputKind, OutputStream};
use super::attach::{AttachInput, Input};
use super::detach::DetachScanner;
use super::instance::Container;
use super::lifecycle::Phase;
use super::log_stream;
use super::spool::spool;
use crate::engine::Inner;
use crate::shim::client::{self as shim, AttachEvent, AttachOutput, Attachment, Shim};

/// A client that attached before the start.
#[derive(Debug)]
pub(crate) struct WaitingClient {
    options: shim::AttachOptions,
    output: oneshot::Sender<AttachOutput>,
    input: oneshot::Sender<shim::AttachInput>,
}

/// Attaches a client to a container.
pub(crate) async fn attach(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    options: AttachOptions,
) -> Result<AttachStreams, Failure> {
    let (phase, tty, takes_input) = {
        let record = container.record();
        (record.state.phase, record.config.tty, record.config.open_stdin)
    };
    match phase {
        Phase::Paused => {
            return Err(Failure::conflict(format!(
                "container {} is paused, unpause the container before attach",
                container.id
            )));
        }
        Phase::Restarting => {
            return Err(Failure::conflict(format!(
                "container {} is restarting, wait until the container is running",
                container.id
            )));
        }
        _ => {}
    }
    let scanner = DetachScanner::parse(&options.detach_keys)?;
    let wants_input = options.stdin && options.stream && takes_input;
    let live = match options.stream {
        true => {
            let wanted = shim::AttachOptions { stdin: wants_input, stdout: options.stdout, stderr: options.stderr };
            let (output, input) = connect(container, wanted).await?;
            let scanner = tty.then_some(scanner);
            Some(streams(inner, output, input, wants_input, scanner, None))
        }
        false => None,
    };
    let (output, input) = live.unwrap_or_else(|| (stream::empty().boxed(), None));
    let output = match options.logs {
        true => past(inner, container, &options).await?.chain(output).boxed(),
        false => output,
    };
    Ok(AttachStreams { tty, output, input })
}

type Promised = (oneshot::Receiver<AttachOutput>, oneshot::Receiver<shim::AttachInput>);

async fn connect(container: &Arc<Container>, wanted: shim::AttachOptions) -> Result<Promised, Failure> {
    let (output, output_promise) = oneshot::channel();
    let (input, input_promise) = oneshot::channel();
    let client = WaitingClient { options: wanted, output, input };
    let started = {
        // Under this lock a start takes the waiting clients over, after the shim was set.
        let mut waiting = container.waiting_clients.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match container.shim() {
            Some(shim) => Some((shim, client)),
            None => {
                waiting.push(client);
                None
            }
        }
    };
    if let Some((shim, client)) = started {
        hand_over(&shim, client).await.map_err(|error| Failure::internal(&error))?;
    }
    Ok((output_promise, input_promise))
}

async fn hand_over(shim: &Shim, client: WaitingClient) -> Result<(), shim::ShimError> {
    let Attachment { output, input } = shim.attach(client.options).await?;
    // A client that has left wants neither.
    let _left = client.output.send(output);
    let _left = client.input.send(input);
    Ok(())
}

/// Connects the clients that attached before the start. Called when the shim has created the container and before its
/// program runs, so that nothing of its output is missed.
pub(crate) async fn connect_waiting(container: &Container, shim: &Shim) -> Result<(), shim::ShimError> {
    let waiting = {
        let mut waiting = container.waiting_clients.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        container.set_shim(Some(shim.clone()));
        std::mem::take(&mut *waiting)
    };
    for client in waiting {
        hand_over(shim, client).await?;
    }
    Ok(())
}

/// Lets the clients go that wait for a start: it failed, or the container is removed.
pub(crate) fn drop_waiting(container: &Container) {
    container.waiting_clients.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
}

/// Streams over a connection to a shim that is there at once. After the process's end the output ends when it is noted:
/// a client that has read all asks for the exit status at once.
pub(crate) fn over(
    inner: &Inner,
    attachment: Attachment,
    tty: bool,
    wants_input: bool,
    detach_keys: &str,
    noted: CancellationToken,
) -> Result<AttachStreams, Failure> {
    let scanner = DetachScanner::parse(detach_keys)?;
    let (output, output_promise) = oneshot::channel();
    let (input, input_promise) = oneshot::channel();
    let _held = (output.send(attachment.output), input.send(attachment.input));
    let (output, input) =
        streams(inner, output_promise, input_promise, wants_input, tty.then_some(scanner), Some(noted));
    Ok(AttachStreams { tty, output, input })
}

fn streams(
    inner: &Inner,
    output: oneshot::Receiver<AttachOutput>,
    input: oneshot::Receiver<shim::AttachInput>,
    wants_input: bool,
    scanner: Option<DetachScanner>,
    noted: Option<CancellationToken>,
) -> (OutputStream, Option<AttachInput>) {
    let detached = CancellationToken::new();
    let over = CancellationToken::new();
    let (input, unused) = if wants_input {
        let (handle, from_client) = AttachInput::new(scanner, detached.clone());
        tokio::spawn(pump(input, from_client, over.clone()));
        (Some(handle), None)
    } else {
        // Kept with the output: to drop one direction of the connection is to leave.
        (None, Some(input))
    };
    let guard = (over.drop_guard(), unused);
    let output = stream::unfold((Output::Promised(output), guard), move |(mut output, guard)| {
        let (detached, noted) = (detached.clone(), noted.clone());
        async move {
            let next = async {
                let frame = output.next().await;
                if let (None, Some(noted)) = (&frame, &noted) {
                    noted.cancelled().await;
                }
                frame
            };
            tokio::select! {
                () = detached.cancelled() => None,
                frame = next => frame.map(|frame| (frame, (output, guard))),
            }
        }
    });
    (spool(output.boxed(), inner.options.data_root.clone()), input)
}

enum Output {
    Promised(oneshot::Receiver<AttachOutput>),
    Live(AttachOutput),
    Over,
}

impl Output {
    async fn next(&mut self) -> Option<Result<OutputFrame, Failure>> {
        if let Self::Promised(promise) = self {
            *self = match promise.await {
                Ok(output) => Self::Live(output),
                Err(_) => Self::Over,
            };
        }
        let Self::Live(output) = self else { return None };
        let frame = |output, data| Some(Ok(OutputFrame { output, data }));
        match output.next().await {
            Ok(Some(AttachEvent::Stdout(data))) => frame(OutputKind::Stdout, data),
            Ok(Some(AttachEvent::Stderr(data))) => frame(OutputKind::Stderr, data),
            Ok(Some(AttachEvent::Exited(_))) => {
                *self = Self::Over;
                None
            }
            Ok(None) => {
                *self = Self::Over;
                tracing::warn!("output was lost: the client was too far behind, or the shim was killed");
                Some(Err(Failure::unavailable("output was lost: it was read too slowly, or the shim was killed")))
            }
            Err(error) => {
                *self = Self::Over;
                Some(Err(Failure::internal(&error)))
            }
        }
    }
}

/// Carries a client's input to the shim. A client that leaves without closing leaves the process's input open. Both
/// directions are one connection, whose end means that the client has left: so this one is kept until the other is over.
async fn pump(
    promise: oneshot::Receiver<shim::AttachInput>,
    from_client: mpsc::Receiver<Input>,
    over: CancellationToken,
) {
    let Ok(mut to_process) = promise.await else { return };
    tokio::select! {
        () = over.cancelled() => {}
        () = carry(&mut to_process, from_client) => over.cancelled().await,
    }
}

async fn carry(to_process: &mut shim::AttachInput, mut from_client: mpsc::Receiver<Input>) {
    while let Some(input) = from_client.recv().await {
        let written = match input {
            Input::Data(data) => to_process.write(&data).await,
            Input::Close => to_process.close().await,
        };
        if let Err(error) = written {
            tracing::debug!(%error, "the process reads no more input");
            return;
        }
    }
}

async fn past(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    options: &AttachOptions,
) -> Result<OutputStream, Failure> {
    let wanted = LogOptions { stdout: options.stdout, stderr: options.stderr, ..LogOptions::default() };
    let log = log_stream::open(inner, container, wanted).await?;
    Ok(log.map(|frame| frame.map(|frame| OutputFrame { output: frame.output, data: frame.data })).boxed())
}
