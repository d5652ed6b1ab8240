//! Flags that name other objects: networks, secrets and configs. Names become ids, since a spec holds ids.

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::cli::client::Filters;
use crate::cli::context::Context;
use crate::cli::look::{Look as _, set};
use crate::cli::parse::csv;

/// A secret or a config as a spec refers to it; its id is not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileReference {
    /// Name of the secret or config.
    pub(super) source: String,
    /// Name of the file.
    pub(super) target: String,
    /// Owner of the file.
    pub(super) uid: String,
    /// Group of the file.
    pub(super) gid: String,
    /// Mode of the file.
    pub(super) mode: u32,
}

impl FileReference {
    /// Parses `name` or `source=name,target=file,uid=0,gid=0,mode=0444`.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let mut reference = Self {
            source: String::new(),
            target: String::new(),
            uid: "0".to_owned(),
            gid: "0".to_owned(),
            mode: 0o444,
        };
        let pairs = csv::pairs(text).map_err(anyhow::Error::msg)?;
        if let [(_, None)] = pairs.as_slice() {
            text.clone_into(&mut reference.source);
        } else {
            for (key, value) in pairs {
                let value = value.with_context(|| format!("invalid field '{key}' must be a key=value pair"))?;
                match key.as_str() {
                    "source" | "src" => reference.source = value,
                    "target" => reference.target = value,
                    "uid" => reference.uid = value,
                    "gid" => reference.gid = value,
                    "mode" => {
                        let octal = value.trim_start_matches("0o");
                        reference.mode = u32::from_str_radix(octal, 8)
                            .with_context(|| format!("invalid mode specified: {value} (octal)"))?;
                    }
                    _ => bail!("invalid field in secret or config request: {key} (source, target, uid, gid, mode)"),
                }
            }
        }
        if reference.source.is_empty() {
            bail!("source is required in '{text}'");
        }
        if reference.target.is_empty() {
            reference.target.clone_from(&reference.source);
        }
        Ok(reference)
    }

    /// The API's `SecretReference` or `ConfigReference`.
    pub(super) fn to_json(&self, kind: Kind, id: &str) -> Value {
        let mut value = json!({"File": {"Name": self.target, "UID": self.uid, "GID": self.gid, "Mode": self.mode}});
        set(&mut value, kind.id_field(), id);
        set(&mut value, kind.name_field(), self.source.as_str());
        value
    }
}

/// Secrets or configs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Secrets.
    Secret,
    /// Configs.
    Config,
}

impl Kind {
    fn noun(self) -> &'static str {
        if self == Self::Secret { "secret" } else { "config" }
    }

    fn id_field(self) -> &'static str {
        if self == Self::Secret { "SecretID" } else { "ConfigID" }
    }

    /// The field of a reference that holds the name.
    pub(super) fn name_field(self) -> &'static str {
        if self == Self::Secret { "SecretName" } else { "ConfigName" }
    }
}

/// Resolves `--secret` or `--config` flags.
pub(super) async fn files(context: &Context, kind: Kind, flags: &[String]) -> anyhow::Result<Vec<Value>> {
    let references: Vec<FileReference> =
        flags.iter().map(|flag| FileReference::parse(flag)).collect::<anyhow::Result<_>>()?;
    if references.is_empty() {
        return Ok(Vec::new());
    }
    for (index, reference) in references.iter().enumerate() {
        if references.iter().take(index).any(|other| other.target == reference.target) {
            bail!("duplicate {} target for {} not allowed", kind.noun(), reference.source);
        }
    }
    let filters =
        references.iter().fold(Filters::default(), |filters, reference| filters.with("names", &reference.source));
    let found = context.client.get(format!("/{}s", kind.noun())).filters(&filters).json().await?;
    let resolve = |reference: &FileReference| {
        let is_it = |object: &&Value| object.text("Spec.Name") == reference.source;
        let object = found
            .items("")
            .iter()
            .find(is_it)
            .with_context(|| format!("{} not found: {}", kind.noun(), reference.source))?;
        Ok(reference.to_json(kind, object.text("ID")))
    };
    references.iter().map(resolve).collect()
}

/// Resolves `--network` flags: `name` or `name=web,alias=www,driver-opt=k=v`.
pub(super) async fn networks(context: &Context, flags: &[String]) -> anyhow::Result<Vec<Value>> {
    let mut attachments: Vec<Value> = Vec::new();
    for flag in flags {
        let mut attachment = network(flag).map_err(anyhow::Error::msg)?;
        let name = attachment.text("Target").to_owned();
        let found = context
            .client
            .get(format!("/networks/{}", crate::cli::client::escape(&name)))
            .query("scope", "swarm")
            .json()
            .await?;
        set(&mut attachment, "Target", found.text("Id"));
        if attachments.iter().any(|other| other.text("Target") == attachment.text("Target")) {
            bail!("service is already attached to network {name}");
        }
        attachments.push(attachment);
    }
    Ok(attachments)
}

/// Ids (and the names as they stand, for specs that hold names) of networks to leave.
pub(super) async fn ids_of_networks(context: &Context, names: &[String]) -> Vec<String> {
    let mut ids = names.to_vec();
    for name in names {
        if let Ok(found) = context.object("networks", name).await {
            ids.push(found.text("Id").to_owned());
        }
    }
    ids
}

/// The API's `NetworkAttachmentConfig` of one flag, with the name where the id belongs.
pub(super) fn network(text: &str) -> Result<Value, String> {
    if !text.contains('=') {
        return if text.is_empty() { Err("network name is required".to_owned()) } else { Ok(json!({"Target": text})) };
    }
    let mut attachment = json!({});
    let mut aliases = Vec::new();
    for (key, value) in csv::pairs(text)? {
        let value = value.ok_or_else(|| format!("invalid key value pair format in driver options: {key}"))?;
        match key.as_str() {
            "name" => set(&mut attachment, "Target", value),
            "alias" => aliases.push(value.to_lowercase()),
            "driver-opt" => {
                let (key, value) =
                    value.split_once('=').ok_or_else(|| format!("driver-opt '{value}' must be key=value"))?;
                crate::cli::look::object_at(&mut attachment, "DriverOpts")
                    .insert(key.to_lowercase(), Value::from(value));
            }
            _ => return Err(format!("invalid field key {key} (name, alias, driver-opt)")),
        }
    }
    crate::cli::look::set_list(&mut attachment, "Aliases", aliases);
    if attachment.text("Target").is_empty() { Err("network name is required".to_owned()) } else { Ok(attachment) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_references() {
        let short = FileReference::parse("key").unwrap();
        assert_eq!((short.source.as_str(), short.target.as_str(), short.mode), ("key", "key", 0o444));
        let long = FileReference::parse("source=key,target=/etc/key,uid=1,gid=2,mode=0400").unwrap();
        assert_eq!(
            long.to_json(Kind::Secret, "id1"),
            json!({"File": {"Name": "/etc/key", "UID": "1", "GID": "2", "Mode": 0o400}, "SecretID": "id1", "SecretName": "key"})
        );
        for text in ["", "target=x", "source=k,mode=9", "source=k,what=1", "source=k,x"] {
            assert!(FileReference::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn network_attachments() {
        assert_eq!(network("web"), Ok(json!({"Target": "web"})));
        assert_eq!(
            network("name=web,alias=WWW,driver-opt=a=b"),
            Ok(json!({"Target": "web", "Aliases": ["www"], "DriverOpts": {"a": "b"}}))
        );
        assert!(network("alias=x").is_err() && network("name=web,what=1").is_err() && network("").is_err());
    }
}
