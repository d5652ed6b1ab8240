//! Connections that turn into the streams of a container: attach and exec.

use std::future::Future;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use http::{HeaderValue, StatusCode, header};
use hyper::ext::ReasonPhrase;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use shoal_engine::container::{AttachInput, AttachStreams, InputState, OutputFrame, OutputKind, OutputStream};
use shoal_proto::error::{Failure, chain};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tracing::{debug, warn};

use crate::response::{self, Response};
use crate::server::ConnectionIo;
use crate::stdcopy::{self, Channel};
use crate::version::ApiVersion;

/// Bytes as the program wrote them.
pub(crate) const RAW_STREAM: &str = "application/vnd.docker.raw-stream";
/// Pieces of output behind headers that tell stdout from stderr.
pub(crate) const MULTIPLEXED_STREAM: &str = "application/vnd.docker.multiplexed-stream";
/// How long a client may take to close its side after the output has ended.
const LINGER: Duration = Duration::from_secs(2);

/// The content type of a container's output. Before API 1.42 both kinds of stream had the same name.
pub(crate) fn content_type(version: ApiVersion, tty: bool) -> &'static str {
    if tty || !version.at_least(42) { RAW_STREAM } else { MULTIPLEXED_STREAM }
}

/// Answers with the streams: over the connection itself when the client asked for that, else the output as a body.
pub(crate) fn respond(version: ApiVersion, upgrade: Option<OnUpgrade>, streams: AttachStreams) -> Response {
    let content_type = content_type(version, streams.tty);
    match upgrade {
        Some(upgrade) => take_over(content_type, upgrade, |io| pump(io, streams)),
        None => {
            let multiplexed = !streams.tty;
            response::stream(content_type, streams.output.map_ok(move |frame| encode(multiplexed, frame)))
        }
    }
}

/// The answer that hands the connection over, and what happens on it then.
pub(crate) fn take_over<F: Future<Output = ()> + Send>(
    content_type: &'static str,
    upgrade: OnUpgrade,
    session: impl FnOnce(ConnectionIo) -> F + Send + 'static,
) -> Response {
    hand_over(upgrade, |mut io| async move {
        io.hold_output();
        session(io).await;
    });
    let mut answer = response::empty(StatusCode::SWITCHING_PROTOCOLS);
    answer.extensions_mut().insert(ReasonPhrase::from_static(b"UPGRADED"));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
    answer
}

/// What happens on a connection once its answer, a `101`, is out.
pub(crate) fn hand_over<F: Future<Output = ()> + Send>(
    upgrade: OnUpgrade,
    session: impl FnOnce(ConnectionIo) -> F + Send + 'static,
) {
    tokio::spawn(async move {
        match upgrade.await.map(|upgraded| upgraded.downcast::<TokioIo<ConnectionIo>>()) {
            Ok(Ok(parts)) => {
                let mut io = parts.io.into_inner();
                io.take_over(parts.read_buf);
                session(io).await;
            }
            Ok(Err(_)) => warn!("a connection that was taken over is not one of this server"),
            Err(error) => debug!(error = chain(&error), "API client left before its connection was taken over"),
        }
    });
}

/// Carries bytes until the output ends, the client leaves, or it types the detach keys.
async fn pump<IO: AsyncRead + AsyncWrite>(io: IO, streams: AttachStreams) {
    let (mut reader, mut writer) = tokio::io::split(io);
    let output_ended = {
        let output = carry_output(streams.output, !streams.tty, &mut writer);
        let input = carry_input(&mut reader, streams.input);
        tokio::select! {
            () = output => true,
            () = input => false,
        }
    };
    let _ = writer.shutdown().await;
    if output_ended {
        // Closing with unread input would reset the connection before the client has read the last output.
        let _ = tokio::time::timeout(LINGER, tokio::io::copy(&mut reader, &mut tokio::io::sink())).await;
    }
}

async fn carry_output(mut output: OutputStream, multiplexed: bool, writer: &mut (impl AsyncWrite + Unpin)) {
    while let Some(frame) = output.next().await {
        let data = match frame {
            Ok(frame) => encode(multiplexed, frame),
            Err(failure) => stdcopy::frame_if(multiplexed, Channel::SystemError, error_line(&failure)),
        };
        if writer.write_all(&data).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
}

/// Returns when the client is gone or has detached; the end of its input alone is not the end of the session.
async fn carry_input(reader: &mut (impl AsyncRead + Unpin), mut input: Option<AttachInput>) {
    let mut buffer = BytesMut::with_capacity(32 << 10);
    let mut ended = false;
    loop {
        match reader.read_buf(&mut buffer).await {
            // The read after the end waits until the client is gone (see `ConnectionIo::take_over`).
            Ok(0) if ended => std::future::pending().await,
            Ok(0) => {
                ended = true;
                if let Some(open) = input.take() {
                    open.close().await;
                }
            }
            Ok(_) => {
                let data = buffer.split().freeze();
                let state = match &mut input {
                    Some(open) => open.write(data).await,
                    None => Ok(InputState::Closed),
                };
                match state {
                    Ok(InputState::Open) => {}
                    Ok(InputState::Closed) => input = None,
                    Ok(InputState::Detached) => return,
                    Err(failure) => {
                        debug!(error = failure.message, "cannot pass input on");
                        input = None;
                    }
                }
                buffer.reserve(32 << 10);
            }
            Err(_) => return,
        }
    }
}

fn encode(multiplexed: bool, frame: OutputFrame) -> Bytes {
    stdcopy::frame_if(multiplexed, channel(frame.output), frame.data)
}

/// The channel of an output.
pub(crate) fn channel(output: OutputKind) -> Channel {
    match output {
        OutputKind::Stdout => Channel::Stdout,
        OutputKind::Stderr => Channel::Stderr,
    }
}

/// A failure as a line of output, for streams whose status is long sent.
pub(crate) fn error_line(failure: &Failure) -> Bytes {
    Bytes::from(format!("Error: {}\n", failure.message))
}
