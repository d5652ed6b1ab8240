//! What differs between versions of the API, as dockerd 28 has it: what a request of an older client means, and what such
//! a client is shown. Cluster objects have a gate of their own (`swarm::gate`).
//!
//! ## Design notes
//! A handler works in the newest version. Requests are changed before they reach it ([`create`], [`exec_create`] …),
//! answers after they left it ([`shown`]). The history of the API is the authority: each step names the version it is for.

use shoal_engine::container::StopOptions;
use shoal_engine::model::{ExecCreate, ExecStart, UpdateRequest};

use crate::version::ApiVersion;

mod create;
pub(crate) mod shown;

pub(crate) use create::create;

/// 1.42: a signal may be named.
pub(crate) fn stop(options: &mut StopOptions, version: ApiVersion) {
    if !version.at_least(42) {
        options.signal = None;
    }
}

/// 1.40: the number of processes can be changed. Nothing and less than nothing both mean no limit.
pub(crate) fn update(update: &mut UpdateRequest, version: ApiVersion) {
    update.pids_limit = update.pids_limit.filter(|_| version.at_least(40)).map(|limit| limit.max(0));
}

/// 1.42: the size of the terminal.
pub(crate) fn exec_create(exec: &mut ExecCreate, version: ApiVersion) {
    if !version.at_least(42) {
        exec.console_size = None;
    }
}

/// 1.42: the size of the terminal, where there is one.
pub(crate) fn exec_start(start: &mut ExecStart, version: ApiVersion) {
    if !version.at_least(42) || !start.tty {
        start.console_size = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: ApiVersion = ApiVersion::new(1, 39);
    const NEW: ApiVersion = ApiVersion::MAX;

    #[test]
    fn what_is_younger_than_the_client_is_not_taken_from_it() {
        let limit = |given, version| {
            let mut request = UpdateRequest { pids_limit: given, ..UpdateRequest::default() };
            update(&mut request, version);
            request.pids_limit
        };
        assert_eq!((limit(Some(5), OLD), limit(Some(5), ApiVersion::new(1, 40))), (None, Some(5)));
        assert_eq!((limit(Some(-1), NEW), limit(None, NEW)), (Some(0), None));
        let signal = |version| {
            let mut options = StopOptions { signal: Some("INT".to_owned()), timeout_s: Some(1) };
            stop(&mut options, version);
            assert_eq!(options.timeout_s, Some(1));
            options.signal
        };
        assert_eq!((signal(ApiVersion::new(1, 41)), signal(ApiVersion::new(1, 42))), (None, Some("INT".to_owned())));
    }

    #[test]
    fn a_terminal_has_a_size_since_1_42() {
        let size = |version, tty| {
            let mut start = ExecStart { tty, console_size: Some([24, 80]), ..ExecStart::default() };
            exec_start(&mut start, version);
            let mut exec = ExecCreate { console_size: Some([24, 80]), ..ExecCreate::default() };
            exec_create(&mut exec, version);
            (start.console_size.is_some(), exec.console_size.is_some())
        };
        assert_eq!(size(ApiVersion::new(1, 41), true), (false, false));
        assert_eq!(size(ApiVersion::new(1, 42), true), (true, true));
        assert_eq!(size(NEW, false), (false, true));
    }
}
