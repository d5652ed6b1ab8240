//! The body of a request.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use shoal_proto::error::{Failure, chain};

use crate::error::ApiError;
use crate::server::BodyWatch;

/// What is read of a body that its handler did not want, so that the client comes to read the answer.
const DRAIN_LIMIT_BYTES: usize = 256 << 20;
/// How long that may take.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The body of a request. What is left of it when it is dropped is read and thrown away: a connection that is closed
/// while its client still sends is reset, and the client never sees the answer that says why. It may be dropped on any
/// thread: those that unpack archives are none of the runtime's.
pub(crate) struct RequestBody {
    watched: Option<Watched>,
    runtime: tokio::runtime::Handle,
}

/// The body itself, and the connection's interest in whether more of it is waited for.
struct Watched {
    body: Incoming,
    watch: BodyWatch,
}

impl RequestBody {
    /// Wraps a body. Must be called on a runtime.
    pub(crate) fn new(body: Incoming, watch: BodyWatch) -> Self {
        Self { watched: Some(Watched { body, watch }), runtime: tokio::runtime::Handle::current() }
    }

    /// Reads all of it, up to a limit.
    pub(crate) async fn read(&mut self, limit_bytes: usize) -> Result<Bytes, ApiError> {
        let mut out = BytesMut::new();
        while let Some(frame) = self.frame().await {
            if let Ok(data) = frame.map_err(|error| cut_short(&error))?.into_data() {
                if out.len() + data.len() > limit_bytes {
                    return Err(ApiError::too_large(limit_bytes));
                }
                out.extend_from_slice(&data);
            }
        }
        Ok(out.freeze())
    }
}

/// The client stopped in the middle of its request.
pub(crate) fn cut_short(error: &hyper::Error) -> Failure {
    Failure::invalid(format!("the request body was cut short: {}", chain(error)))
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.watched {
            Some(watched) => Pin::new(watched).poll_frame(task),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.watched.as_ref().is_none_or(|watched| watched.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.watched.as_ref().map_or_else(SizeHint::default, |watched| watched.body.size_hint())
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(task);
        self.watch.polled(polled.is_pending());
        polled
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let Some(body) = self.watched.take().filter(|watched| !watched.body.is_end_stream()) else { return };
        // Nobody waits for it: the answer is on its way meanwhile. Made in the task: its timer needs the runtime, too.
        drop(self.runtime.spawn(async { tokio::time::timeout(DRAIN_TIMEOUT, drain(body)).await }));
    }
}

async fn drain(mut body: Watched) {
    let mut left = DRAIN_LIMIT_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(length) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
