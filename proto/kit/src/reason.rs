//! Why a call to another node failed, in words for people.

use std::error::Error;
use std::io;

use shoal_proto::error::chain;
use tonic::Status;

/// What a status says. When its call never reached the other side, or the connection broke, that is said instead of the
/// names that the layers in between give to it.
pub fn describe(status: &Status) -> String {
    let Some(cause) = status.source() else { return status.message().to_owned() };
    match io_error(cause) {
        Some(error) => describe_io(error),
        None => match (status.message(), chain(cause)) {
            ("", cause) => cause,
            (message, cause) if message.contains(&cause) => message.to_owned(),
            (message, cause) => format!("{message}: {cause}"),
        },
    }
}

fn describe_io(error: &io::Error) -> String {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::UnexpectedEof | Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => {
            "the connection was lost".to_owned()
        }
        Kind::TimedOut => "no answer in time".to_owned(),
        _ => format!("cannot be reached: {error}"),
    }
}

/// The innermost I/O error of a chain: those around it repeat it.
fn io_error<'a>(outermost: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let mut found = None;
    let mut next = Some(outermost);
    while let Some(error) = next {
        let io = error.downcast_ref::<io::Error>();
        found = io.or(found);
        next = match io.and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const ECONNREFUSED: i32 = 111;

    #[derive(Debug, thiserror::Error)]
    #[error("layer")]
    struct Layer(#[source] io::Error);

    fn failed(cause: io::Error) -> Status {
        Status::from_error(Box::new(Layer(cause)))
    }

    #[test]
    fn the_cause_is_told_and_the_layers_are_not() {
        let refused = failed(io::Error::from_raw_os_error(ECONNREFUSED));
        assert_eq!(describe(&refused), "cannot be reached: Connection refused (os error 111)");
        let rude = io::Error::new(io::ErrorKind::UnexpectedEof, "peer closed connection without sending close_notify");
        assert_eq!(describe(&failed(io::Error::other(Layer(rude)))), "the connection was lost");
        assert_eq!(describe(&failed(io::Error::from(io::ErrorKind::TimedOut))), "no answer in time");
    }

    #[test]
    fn what_the_other_side_said_stays() {
        assert_eq!(describe(&Status::not_found("no such task")), "no such task");
    }
}
