//! A client's input into a container or an exec.

use bytes::Bytes;
use shoal_proto::error::Failure;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::detach::DetachScanner;

/// Pieces of input under way between a client and the shim.
const QUEUE: usize = 16;

/// Can more be written?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputState {
    /// Yes.
    Open,
    /// The client typed the detach keys: leave, and do not close the container's input.
    Detached,
    /// The process has ended, or its input was closed.
    Closed,
}

/// A client's input. Dropping it without [`AttachInput::close`] leaves the container's input open.
#[derive(Debug)]
pub struct AttachInput {
    to_process: mpsc::Sender<Input>,
    /// `None` without a terminal: keys have no meaning then, as in dockerd.
    scanner: Option<DetachScanner>,
    /// Ends the client's output when it detaches.
    detached: CancellationToken,
}

/// What goes to the pump.
#[derive(Debug)]
pub(crate) enum Input {
    Data(Bytes),
    Close,
}

impl AttachInput {
    pub(crate) fn new(scanner: Option<DetachScanner>, detached: CancellationToken) -> (Self, mpsc::Receiver<Input>) {
        let (to_process, from_client) = mpsc::channel(QUEUE);
        (Self { to_process, scanner, detached }, from_client)
    }

    /// Passes bytes on; waits while the process does not read.
    ///
    /// # Errors
    /// None at present: a process that ended is [`InputState::Closed`].
    pub async fn write(&mut self, data: Bytes) -> Result<InputState, Failure> {
        let (data, detached) = match &mut self.scanner {
            Some(scanner) => {
                let (passed, detached) = scanner.scan(&data);
                (Bytes::from(passed), detached)
            }
            None => (data, false),
        };
        if !data.is_empty() && self.to_process.send(Input::Data(data)).await.is_err() {
            return Ok(InputState::Closed);
        }
        if detached {
            self.detached.cancel();
            return Ok(InputState::Detached);
        }
        Ok(InputState::Open)
    }

    /// The client will write no more: the process reads an end of file, if its input may be closed.
    pub async fn close(self) {
        let _process_ended = self.to_process.send(Input::Close).await;
    }
}
