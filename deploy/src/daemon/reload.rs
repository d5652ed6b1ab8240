//! SIGHUP: the config file is read again, and what can change without a restart does.

use std::collections::BTreeMap;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use serde_json::json;
use shoal_api::DaemonFacts;
use shoal_engine::{Engine, EngineOptions};

use super::log::LogLevel;
use super::options::{Listen, Options, Settings};

/// What a reload changes.
#[derive(Debug)]
pub(crate) struct Reloader {
    options: Mutex<Options>,
    /// One reload at a time; whoever asks for the settings does not wait for the disk.
    turn: Mutex<()>,
    engine: Engine,
    facts: Arc<ArcSwap<DaemonFacts>>,
    log_level: LogLevel,
}

impl Reloader {
    pub(crate) fn new(options: Options, engine: Engine, facts: Arc<ArcSwap<DaemonFacts>>, log_level: LogLevel) -> Self {
        Self { options: Mutex::new(options), turn: Mutex::default(), engine, facts, log_level }
    }

    fn options(&self) -> MutexGuard<'_, Options> {
        self.options.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The settings as they hold.
    pub(crate) fn settings(&self) -> Settings {
        self.options().settings.clone()
    }

    /// A thread that reloads whenever it is told to, without keeping who tells it, or the end of the process, waiting for the
    /// disk. What it is told during a reload makes one more. Must be called on a runtime.
    ///
    /// # Errors
    /// When the kernel has no thread.
    pub(crate) fn on_thread(self: &Arc<Self>) -> std::io::Result<SyncSender<()>> {
        let (tell, hear) = sync_channel(1);
        let (reloader, runtime) = (Arc::clone(self), tokio::runtime::Handle::current());
        std::thread::Builder::new().name("reload".to_owned()).spawn(move || {
            let _runtime = runtime.enter();
            while hear.recv().is_ok() {
                reloader.reload();
            }
        })?;
        Ok(tell)
    }

    /// Reads the file again. When it cannot be used everything stays as it is. Blocks.
    fn reload(&self) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let options = self.options().clone();
        tracing::info!(file = %options.file().display(), "got signal to reload configuration");
        let (next, late) = match options.reload() {
            Ok(reloaded) => reloaded,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "the configuration is not reloaded: the old one stays");
                return;
            }
        };
        let current = self.engine.options();
        let wanted = &next.settings.engine;
        let engine = EngineOptions {
            labels: wanted.labels.clone(),
            runtimes: wanted.runtimes.clone(),
            default_runtime: wanted.default_runtime.clone(),
            debug: wanted.debug,
            containers: wanted.containers.clone(),
            live_restore: wanted.live_restore,
            ..(*current).clone()
        };
        if let Err(failure) = self.engine.reconfigure(engine) {
            tracing::error!(error = failure.message, "the configuration is not reloaded: the old one stays");
            return;
        }
        for key in &late {
            tracing::warn!(key, "this directive has changed, and takes effect with the next start of the daemon");
        }
        self.facts.store(Arc::new(facts(&next.settings)));
        self.log_level.set(&next.settings.log_level);
        let attributes = attributes(&next.settings, &self.engine.options());
        tracing::info!(configuration = ?attributes, "reloaded configuration");
        *self.options() = next;
        self.engine.events().publish("daemon", "reload", self.engine.id(), attributes);
    }
}

/// What `info` shows of the settings.
pub(crate) fn facts(settings: &Settings) -> DaemonFacts {
    let mut warnings = Vec::new();
    for listen in &settings.listen {
        let Listen::Tcp(addr) = listen else { continue };
        if !settings.guard.verifies {
            let (scheme, lack) =
                if settings.guard.tls { ("https", "TLS client verification") } else { ("http", "encryption") };
            warnings.push(format!(
                "WARNING: API is accessible on {scheme}://{addr} without {lack}. Access to the remote API is equivalent to \
                 root access on the host."
            ));
        }
    }
    DaemonFacts {
        debug: settings.engine.debug,
        experimental: settings.experimental,
        mirrors: settings.registries.mirrors.clone(),
        insecure_hosts: settings.registries.insecure_hosts().cloned().collect(),
        insecure_subnets: settings.registries.insecure_subnets(),
        proxies: settings.proxies.shown(),
        generic_resources: settings.engine.generic_resources.clone(),
        warnings,
    }
}

/// Attributes of the event, as dockerd's.
fn attributes(settings: &Settings, engine: &EngineOptions) -> BTreeMap<String, String> {
    let list = |items: &[String]| json!(items).to_string();
    let labels: Vec<String> = engine.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    let features: Vec<String> = settings.features.iter().map(|(name, on)| format!("{name}:{on}")).collect();
    let runtimes: Vec<String> =
        engine.runtimes.iter().map(|(name, path)| format!("{name}:{}", path.display())).collect();
    let defaults = &engine.containers;
    let registries = &settings.registries;
    let shm_size = if defaults.shm_size_bytes == 0 { 64 << 20 } else { defaults.shm_size_bytes };
    let timeout = settings.shutdown_timeout.map_or_else(|| "-1".to_owned(), |timeout| timeout.as_secs().to_string());
    [
        ("allow-nondistributable-artifacts", "[]".to_owned()),
        ("debug", engine.debug.to_string()),
        ("default-cgroupns-mode", or(&defaults.cgroupns_mode, "host")),
        ("default-ipc-mode", or(&defaults.ipc_mode, "private")),
        ("default-runtime", engine.default_runtime.clone()),
        ("default-shm-size", shm_size.to_string()),
        ("features", format!("map[{}]", features.join(" "))),
        ("insecure-registries", list(&registries.insecure)),
        ("labels", list(&labels)),
        ("live-restore", engine.live_restore.to_string()),
        ("log-level", settings.log_level.clone()),
        ("max-concurrent-downloads", registries.max_downloads.to_string()),
        ("max-concurrent-uploads", registries.max_uploads.to_string()),
        ("max-download-attempts", registries.max_attempts.to_string()),
        ("name", engine.hostname.clone()),
        ("registry-mirrors", list(&registries.mirrors)),
        ("runtimes", runtimes.join(" ")),
        ("shutdown-timeout", timeout),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}
