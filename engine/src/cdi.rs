//! Devices by the Container Device Interface: files in which vendors say what a container needs to use a device.
//!
//! ## Design notes
//! Files are read at each start that asks for a device, since drivers write them anew when they like. A file in the second
//! folder wins over one in the first; two of one folder that define the same device make it unusable, as the interface
//! demands. What is asked for is laid over the finished OCI specification, as other engines do.

mod apply;
mod document;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use shoal_proto::error::{ErrorKind, Failure};

use self::document::Document;
pub use self::document::{DeviceNode, Edits, Hook, HookKind, Mount};
use crate::model::DeviceRequest;

/// Where the files are, the second folder before the first.
const FOLDERS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// The folders, as the daemon's options say.
pub fn folders(given: &[PathBuf]) -> Vec<PathBuf> {
    if given.is_empty() { FOLDERS.map(PathBuf::from).to_vec() } else { given.to_vec() }
}

/// The driver's name in a request.
pub const DRIVER: &str = "cdi";
/// The vendor and class that `--gpus` means.
const GPUS: &str = "nvidia.com/gpu";
/// The capability that `--gpus` asks for.
const GPU: &str = "gpu";

/// Which devices are asked for, by their full names: `vendor.com/class=name`.
///
/// # Errors
/// When a request is for a driver that is not there, in dockerd's words.
pub fn names(requests: &[DeviceRequest]) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    for request in requests {
        let ids = request.device_ids.clone().unwrap_or_default();
        let wants_gpus = matches!(request.driver.as_str(), "" | "nvidia")
            && request.capabilities.iter().flatten().any(|all| all.iter().any(|one| one == GPU));
        if request.driver == DRIVER {
            if let Some(id) = ids.iter().find(|id| split(id).is_none()) {
                return Err(Failure::invalid(format!("invalid CDI device name {id:?}: it is vendor.com/class=name")));
            }
            names.extend(ids);
        } else if wants_gpus {
            names.extend(gpus(request, ids));
        } else {
            return Err(Failure::invalid(format!(
                "could not select device driver \"{}\" with capabilities: {:?}",
                request.driver,
                request.capabilities.clone().unwrap_or_default()
            )));
        }
    }
    Ok(names)
}

fn gpus(request: &DeviceRequest, ids: Vec<String>) -> Vec<String> {
    let full = |name: &str| format!("{GPUS}={name}");
    match request.count {
        _ if !ids.is_empty() => ids.iter().map(|id| full(id)).collect(),
        count if count < 0 => vec![full("all")],
        count => (0..count).map(|number| full(&number.to_string())).collect(),
    }
}

/// Vendor and class, and name.
fn split(full: &str) -> Option<(&str, &str)> {
    let (kind, name) = full.split_once('=')?;
    let (vendor, class) = kind.split_once('/')?;
    (!vendor.is_empty() && !class.is_empty() && !name.is_empty()).then_some((kind, name))
}

/// All files of this machine.
#[derive(Debug, Default)]
pub struct Registry {
    documents: Vec<Loaded>,
    /// Files that are none, and why.
    broken: Vec<String>,
}

#[derive(Debug)]
struct Loaded {
    path: PathBuf,
    priority: usize,
    document: Document,
}

impl Registry {
    /// Reads the files in these folders. Blocks.
    pub fn read(folders: &[PathBuf]) -> Self {
        let mut registry = Self::default();
        for (priority, folder) in folders.iter().enumerate() {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
            paths.sort();
            for path in paths {
                match Document::read(&path) {
                    None => {}
                    Some(Ok(document)) => registry.documents.push(Loaded { path, priority, document }),
                    Some(Err(reason)) => registry.broken.push(format!("{}: {reason}", path.display())),
                }
            }
        }
        registry
    }

    /// What the devices with these full names need, each file's own needs once.
    ///
    /// # Errors
    /// When one cannot be found, in the words of the interface's own library.
    pub fn edits(&self, names: &[String]) -> Result<Edits, Failure> {
        let mut all = Edits::default();
        let mut used: BTreeMap<&Path, ()> = BTreeMap::new();
        let mut unresolved = Vec::new();
        for name in names {
            match split(name).and_then(|(kind, device)| self.find(kind, device)) {
                Some((loaded, edits)) => {
                    if used.insert(&loaded.path, ()).is_none() {
                        all.extend(&loaded.document.container_edits);
                    }
                    all.extend(edits);
                }
                None => unresolved.push(name.as_str()),
            }
        }
        if unresolved.is_empty() {
            return Ok(all);
        }
        let mut message = format!("CDI device injection failed: unresolvable CDI devices {}", unresolved.join(", "));
        for broken in &self.broken {
            message.push_str(&format!("; cannot read {broken}"));
        }
        Err(Failure::new(ErrorKind::InvalidArgument, message))
    }

    /// Full names of the devices that there are, as containers may ask for them.
    pub fn known(&self) -> BTreeSet<String> {
        let all = self.documents.iter().flat_map(|loaded| {
            let document = &loaded.document;
            document.devices.iter().map(|device| (&document.kind, &device.name))
        });
        all.filter(|(kind, name)| self.find(kind, name).is_some())
            .map(|(kind, name)| format!("{kind}={name}"))
            .collect()
    }

    /// The definition that counts; none when two of the same folder contradict each other.
    fn find(&self, kind: &str, device: &str) -> Option<(&Loaded, &Edits)> {
        let all = self.documents.iter().filter(|loaded| loaded.document.kind == kind);
        let found: Vec<_> = all
            .filter_map(|loaded| {
                let device = loaded.document.devices.iter().find(|one| one.name == device)?;
                Some((loaded, &device.container_edits))
            })
            .collect();
        let highest = found.iter().map(|(loaded, _)| loaded.priority).max()?;
        let mut best = found.into_iter().filter(|(loaded, _)| loaded.priority == highest);
        let first = best.next();
        if best.next().is_some() { None } else { first }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"cdiVersion": "0.6.0", "kind": "example.com/net",
        "containerEdits": {"env": ["SHARED=1"]},
        "devices": [{"name": "one", "containerEdits": {"env": ["ONE=1"]}}, {"name": "two", "containerEdits": {}}]}"#;
    const YAML: &str = "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: \"0\"\n  containerEdits:\n    deviceNodes:\n    \
        - path: /dev/nvidia0\n      hostPath: /dev/null\n- name: all\n  containerEdits:\n    hooks:\n    - hookName: createContainer\n      \
        path: /usr/bin/nvidia-cdi-hook\n      args: [nvidia-cdi-hook, update-ldcache]\n    mounts:\n    - hostPath: /lib\n      \
        containerPath: /lib\n      options: [ro, nosuid]\n";

    fn folders(files: &[(usize, &str, &str)]) -> (tempfile::TempDir, Registry) {
        let dir = tempfile::tempdir().unwrap();
        let folders = ["low", "high"].map(|name| dir.path().join(name));
        folders.iter().for_each(|folder| std::fs::create_dir(folder).unwrap());
        for (folder, name, text) in files {
            std::fs::write(folders[*folder].join(name), text).unwrap();
        }
        let registry = Registry::read(&folders);
        (dir, registry)
    }

    fn wanted(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn devices_are_found_in_both_languages() {
        let (_dir, registry) = folders(&[(0, "a.json", JSON), (0, "b.yaml", YAML), (0, "readme.txt", "{")]);
        let edits =
            registry.edits(&wanted(&["example.com/net=one", "example.com/net=two", "nvidia.com/gpu=0"])).unwrap();
        assert_eq!(edits.env, ["SHARED=1", "ONE=1"], "a file's own edits come once");
        assert_eq!(edits.device_nodes[0].host_path(), Path::new("/dev/null"));
        let known: Vec<_> = registry.known().into_iter().collect();
        assert_eq!(known, ["example.com/net=one", "example.com/net=two", "nvidia.com/gpu=0", "nvidia.com/gpu=all"]);
        let all = registry.edits(&wanted(&["nvidia.com/gpu=all"])).unwrap();
        assert_eq!((all.hooks[0].kind, all.hooks[0].args.len()), (HookKind::CreateContainer, 2));
        assert_eq!(all.mounts[0].options, ["ro", "nosuid"]);
    }

    #[test]
    fn what_cannot_be_resolved_is_told() {
        let (_dir, registry) = folders(&[(0, "a.json", JSON), (0, "bad.json", "{\"kind\": 5}")]);
        let failure = registry.edits(&wanted(&["example.com/net=three", "example.com/net=one"])).unwrap_err();
        let expected = "CDI device injection failed: unresolvable CDI devices example.com/net=three; cannot read ";
        assert!(failure.message.starts_with(expected) && failure.message.contains("bad.json"), "{failure}");
        let (_dir, twice) = folders(&[(0, "a.json", JSON), (0, "b.json", JSON)]);
        assert!(twice.edits(&wanted(&["example.com/net=one"])).is_err(), "two files contradict each other");
        assert!(twice.known().is_empty(), "what nobody can get is shown");
        let (_dir, over) = folders(&[(0, "a.json", JSON), (1, "a.json", &JSON.replace("ONE=1", "ONE=2"))]);
        assert!(over.edits(&wanted(&["example.com/net=one"])).unwrap().env.contains(&"ONE=2".to_owned()));
    }

    #[test]
    fn requests_become_names() {
        let request = |driver: &str, count, ids: &[&str], capability: &str| DeviceRequest {
            driver: driver.to_owned(),
            count,
            device_ids: Some(wanted(ids)),
            capabilities: Some(vec![vec![capability.to_owned()]]),
            options: None,
        };
        let named = |request| names(&[request]);
        assert_eq!(named(request("cdi", 0, &["a.b/c=d"], "")).unwrap(), ["a.b/c=d"]);
        assert_eq!(named(request("", -1, &[], "gpu")).unwrap(), ["nvidia.com/gpu=all"]);
        assert_eq!(named(request("nvidia", 2, &[], "gpu")).unwrap(), ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]);
        assert_eq!(named(request("", 0, &["GPU-1"], "gpu")).unwrap(), ["nvidia.com/gpu=GPU-1"]);
        assert!(named(request("cdi", 0, &["d"], "")).is_err());
        let failure = named(request("", 0, &[], "tpu")).unwrap_err();
        assert_eq!(failure.message, "could not select device driver \"\" with capabilities: [[\"tpu\"]]");
    }
}
