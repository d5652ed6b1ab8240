//! Asks the managers for places on cluster networks for containers that are no tasks, and gives them back.

use std::sync::Arc;
use std::time::Duration;

use shoal_proto::codec;
use shoal_proto::control::{AttachmentRequest, AttachmentWish};
use shoal_proto::error::{ErrorKind, Failure, chain};
use shoal_proto::id::AttachmentId;
use shoal_proto::object::Attachment;
use shoal_proto::wire::ControlMessage;
use shoal_proto::wire::dispatcher_client::DispatcherClient;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::agent::AgentHandle;

/// The manager that there is a session with; `None` without one.
pub(crate) type Door = Option<DispatcherClient<Channel>>;

/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(100);
/// How long one manager may take to answer.
const ANSWER: Duration = Duration::from_secs(12);

/// What became of one try.
enum Try {
    Done(Result<Option<Arc<Attachment>>, Failure>),
    Again(String),
}

impl AgentHandle {
    /// Puts a container of this node on a network, or gives the place that it has there.
    ///
    /// # Errors
    /// The manager's refusal; `Unavailable` when none that can act was found in this time. It may have been done then.
    pub async fn attach(&self, wish: AttachmentWish, patience: Duration) -> Result<Arc<Attachment>, Failure> {
        let attached = self.ask(&AttachmentRequest::Attach(wish), patience).await?;
        attached.ok_or_else(|| Failure::new(ErrorKind::Internal, "the manager gave no address"))
    }

    /// Gives places back. Those that are gone are fine.
    ///
    /// # Errors
    /// `Unavailable` when no manager that can act was found in this time. It may have been done then.
    pub async fn detach(&self, ids: Vec<AttachmentId>, patience: Duration) -> Result<(), Failure> {
        self.ask(&AttachmentRequest::Detach(ids), patience).await.map(drop)
    }

    /// Asks whichever manager there is a session with, until one answers: a request may be repeated.
    async fn ask(&self, request: &AttachmentRequest, patience: Duration) -> Result<Option<Arc<Attachment>>, Failure> {
        let mut door = self.door();
        let deadline = Instant::now() + patience;
        let mut reason = "there is no session with a manager".to_owned();
        loop {
            match tokio::time::timeout_at(deadline, ask_once(&mut door, request)).await {
                Ok(Try::Done(result)) => return result,
                Ok(Try::Again(why)) => reason = why,
                Err(_) => return Err(Failure::unavailable(reason)),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn ask_once(door: &mut watch::Receiver<Door>, request: &AttachmentRequest) -> Try {
    let client = door.wait_for(Option::is_some).await.ok().and_then(|client| client.clone());
    let Some(mut client) = client else {
        return Try::Done(Err(Failure::unavailable("this node's agent has ended")));
    };
    match tokio::time::timeout(ANSWER, client.attach(ControlMessage { body: codec::encode(request).into() })).await {
        Err(_) => Try::Again("the manager does not answer".to_owned()),
        Ok(Err(status)) if is_final(status.code()) => {
            Try::Done(Err(Failure::new(ErrorKind::Internal, status.message())))
        }
        Ok(Err(status)) => Try::Again(status.message().to_owned()),
        Ok(Ok(response)) => match codec::decode::<Result<_, Failure>>(&response.into_inner().body) {
            Ok(Err(failure)) if failure.kind == ErrorKind::Unavailable => Try::Again(failure.message),
            Ok(result) => Try::Done(result),
            Err(error) => Try::Done(Err(Failure::new(ErrorKind::Internal, chain(&error)))),
        },
    }
}

/// Would any manager say so?
fn is_final(code: tonic::Code) -> bool {
    matches!(code, tonic::Code::InvalidArgument | tonic::Code::PermissionDenied | tonic::Code::Unimplemented)
}
