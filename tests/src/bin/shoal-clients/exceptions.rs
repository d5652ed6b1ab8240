//! Tests that are known not to pass, each with its reason.

use std::fmt;

use crate::suite::Test;

/// Whose daemon is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Shoal's.
    Here,
    /// dockerd, to see what the suite expects of it on this machine.
    Peer,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Here => "Shoal",
            Self::Peer => "dockerd",
        })
    }
}

/// A test that does not pass, and why: here, and on the peer.
struct Exception {
    test: &'static str,
    here: Option<&'static str>,
    peer: Option<&'static str>,
}

/// An exception here only.
const fn here(test: &'static str, reason: &'static str) -> Exception {
    Exception { test, here: Some(reason), peer: None }
}

const PLUGINS: &str = "plugins are not offered";
const HUB: &str = "fetches something from Docker Hub";

/// An exception here, and on a peer that has no internet.
const fn plugin(test: &'static str) -> Exception {
    Exception { test, here: Some(PLUGINS), peer: Some(HUB) }
}

const EXCEPTIONS: &[Exception] = &[
    here("container_test::integration_test_image_push", "pushes to a registry"),
    here("distribution::integration_test_inspect_registry_image", "asks a registry for the platforms of an image"),
    here("image_test::integration_test_build_image", "builds an image"),
    Exception {
        test: "image_test::integration_test_search_images",
        here: Some("searches Docker Hub"),
        peer: Some("searches Docker Hub"),
    },
    plugin("plugin_test::integration_test_get_plugin_privileges"),
    plugin("plugin_test::integration_test_plugin_lifecycle"),
    plugin("plugin_test::integration_test_plugin_push"),
    plugin("plugin_test::integration_test_plugin_upgrade"),
    Exception {
        test: "volume_test::integration_test_prune_volumes",
        here: None,
        peer: Some("dockerd 20.10 removes volumes with a name, too: the test is for 23 and later"),
    },
];

/// Why a test is not expected to pass; `None` when it is.
pub(crate) fn reason(test: &Test, side: Side) -> Option<&'static str> {
    let exception = EXCEPTIONS.iter().find(|exception| test.to_string() == exception.test)?;
    match side {
        Side::Here => exception.here,
        Side::Peer => exception.peer,
    }
}

/// Exceptions of no test: the suite no longer has it.
pub(crate) fn unknown(tests: &[Test]) -> Vec<&'static str> {
    let names = EXCEPTIONS.iter().map(|exception| exception.test);
    names.filter(|name| tests.iter().all(|test| test.to_string() != *name)).collect()
}
