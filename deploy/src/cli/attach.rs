//! Standard streams joined to a container's or an exec's, in the foreground.

use std::io::Write as _;

use anyhow::Context as _;
use tokio::io::AsyncWriteExt as _;
use tokio::signal::unix::{SignalKind, signal};

use super::client::Client;
use super::client::stream::{Channel, Demultiplexer, Hijacked, Source};
use super::terminal::{self, DetachFilter, RawMode};

/// Which streams are joined, and how.
#[derive(Debug)]
pub(crate) struct Streams {
    /// Standard input is passed on.
    pub(crate) stdin: bool,
    /// The other side has a terminal: its output is not multiplexed, and this terminal becomes raw.
    pub(crate) tty: bool,
    /// The keys that detach.
    pub(crate) detach_keys: Vec<u8>,
}

/// Why the streams ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The other side closed them.
    Closed,
    /// The user typed the detach keys.
    Detached,
}

/// Copies until the other side closes or the user detaches.
pub(crate) async fn copy(hijacked: Hijacked, streams: Streams) -> anyhow::Result<Ended> {
    let (reader, mut writer) = tokio::io::split(hijacked.stream);
    let raw = if streams.stdin && streams.tty { RawMode::enter()? } else { None };
    let output = copy_output(Source::Hijacked(reader), !streams.tty);
    let input = async {
        if !streams.stdin {
            return std::future::pending().await;
        }
        let mut chunks = terminal::stdin_chunks();
        let mut filter = DetachFilter::new(if streams.tty { streams.detach_keys } else { Vec::new() });
        while let Some(chunk) = chunks.recv().await {
            let (passed, detached) = filter.push(&chunk);
            // A write fails when the other side has gone; its output may still be on the way.
            if writer.write_all(&passed).await.is_err() || writer.flush().await.is_err() {
                return std::future::pending().await;
            }
            if detached {
                return Ended::Detached;
            }
        }
        let _ = writer.shutdown().await;
        std::future::pending().await
    };
    let ended = tokio::select! {
        ended = output => ended.map(|()| Ended::Closed),
        detached = input => Ok(detached),
    };
    drop(raw);
    ended
}

/// Copies output to this process's standard output and error.
pub(crate) async fn copy_output(mut source: Source, multiplexed: bool) -> anyhow::Result<()> {
    let mut demultiplexer = Demultiplexer::default();
    while let Some(chunk) = source.chunk().await? {
        if !multiplexed {
            write(Channel::Stdout, &chunk)?;
            continue;
        }
        demultiplexer.push(&chunk);
        while let Some((channel, data)) = demultiplexer.next()? {
            write(channel, &data)?;
        }
    }
    Ok(())
}

fn write(channel: Channel, data: &[u8]) -> anyhow::Result<()> {
    match channel {
        Channel::Stdout => {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(data)?;
            stdout.flush()?;
        }
        Channel::Stderr => std::io::stderr().lock().write_all(data)?,
        Channel::SystemError => anyhow::bail!("error from daemon in stream: {}", String::from_utf8_lossy(data)),
    }
    Ok(())
}

/// Tells the other side the size of this terminal, now and whenever it changes. Never returns.
pub(crate) async fn follow_size(client: &Client, path: String) {
    let Ok(mut changed) = signal(SignalKind::window_change()) else { return std::future::pending().await };
    let mut attempts = 0;
    loop {
        if let Some((rows, columns)) = terminal::size() {
            let sent = client.post(path.clone()).query("h", rows).query("w", columns).done().await;
            // The terminal of a container that is just starting may not be there yet.
            if sent.is_err() && attempts < 10 {
                attempts += 1;
                tokio::time::sleep(std::time::Duration::from_millis(10 * attempts)).await;
                continue;
            }
        }
        attempts = 10;
        if changed.recv().await.is_none() {
            return std::future::pending().await;
        }
    }
}

/// Signals that are passed on to a container in the foreground.
const PROXIED: [(i32, &str); 10] = [
    (nix::libc::SIGINT, "SIGINT"),
    (nix::libc::SIGTERM, "SIGTERM"),
    (nix::libc::SIGHUP, "SIGHUP"),
    (nix::libc::SIGQUIT, "SIGQUIT"),
    (nix::libc::SIGUSR1, "SIGUSR1"),
    (nix::libc::SIGUSR2, "SIGUSR2"),
    (nix::libc::SIGALRM, "SIGALRM"),
    (nix::libc::SIGCONT, "SIGCONT"),
    (nix::libc::SIGTSTP, "SIGTSTP"),
    (nix::libc::SIGWINCH, "SIGWINCH"),
];

/// The proxy of signals. Made before the container starts, so that none is lost.
pub(crate) struct SignalProxy(Vec<(tokio::signal::unix::Signal, &'static str)>);

impl SignalProxy {
    /// Takes the signals over from their default actions.
    pub(crate) fn install() -> anyhow::Result<Self> {
        let listen = |(number, name): (i32, &'static str)| {
            signal(SignalKind::from_raw(number))
                .map(|signal| (signal, name))
                .with_context(|| format!("listen for {name}"))
        };
        Ok(Self(PROXIED.into_iter().map(listen).collect::<anyhow::Result<_>>()?))
    }

    /// Passes signals on to a container. Returns when the user has asked three times to end and it did not.
    pub(crate) async fn run(mut self, client: &Client, container: &str) {
        let mut asked = 0;
        loop {
            let next = futures::future::select_all(self.0.iter_mut().map(|(signal, name)| {
                let name = *name;
                Box::pin(async move {
                    signal.recv().await;
                    name
                })
            }));
            let (name, _, _) = next.await;
            if ["SIGINT", "SIGTERM"].contains(&name) {
                asked += 1;
                if asked == 3 {
                    return;
                }
            }
            // A container that has just ended needs no signal.
            let _ = client.post(format!("/containers/{container}/kill")).query("signal", name).done().await;
        }
    }
}
