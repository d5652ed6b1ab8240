//! Placeholders in a service's host name, environment and mounts: `{{.Node.Hostname}}` and the like, as Swarm's.

use shoal_proto::id::NodeId;
use shoal_proto::object::Task;

/// What placeholders stand for.
#[derive(Debug, Clone)]
pub(crate) struct Values<'a> {
    pub(crate) task: &'a Task,
    pub(crate) node_id: NodeId,
    pub(crate) node_hostname: &'a str,
    pub(crate) architecture: &'a str,
    pub(crate) os: &'a str,
}

/// A placeholder that cannot be filled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot expand {{{{{placeholder}}}}}: known are .Service.ID, .Service.Name, .Node.ID, .Node.Hostname, .Node.Platform.Architecture, .Node.Platform.OS, .Task.ID, .Task.Name and .Task.Slot"
)]
pub(crate) struct UnknownPlaceholder {
    placeholder: String,
}

impl Values<'_> {
    /// The text with its placeholders filled.
    pub(crate) fn expand(&self, text: &str) -> Result<String, UnknownPlaceholder> {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            expanded.push_str(before);
            let unknown = |placeholder: &str| UnknownPlaceholder { placeholder: placeholder.to_owned() };
            let (placeholder, tail) = after.split_once("}}").ok_or_else(|| unknown(after))?;
            expanded.push_str(&self.value(placeholder.trim()).ok_or_else(|| unknown(placeholder))?);
            rest = tail;
        }
        expanded.push_str(rest);
        Ok(expanded)
    }

    fn value(&self, placeholder: &str) -> Option<String> {
        let task = self.task;
        Some(match placeholder {
            ".Service.ID" => task.service_id.to_string(),
            ".Service.Name" => task.service_name.to_string(),
            ".Node.ID" => self.node_id.to_string(),
            ".Node.Hostname" => self.node_hostname.to_owned(),
            ".Node.Platform.Architecture" => self.architecture.to_owned(),
            ".Node.Platform.OS" => self.os.to_owned(),
            ".Task.ID" => task.id.to_string(),
            ".Task.Name" => task.name(),
            // Global tasks have their node's id for a slot, as in their names.
            ".Task.Slot" if task.slot == 0 => self.node_id.to_string(),
            ".Task.Slot" => task.slot.to_string(),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_and_unknown_ones_named() {
        let task = Task { service_name: "web".into(), slot: 3, ..Task::default() };
        let values = Values {
            task: &task,
            node_id: NodeId::from_bits(1),
            node_hostname: "m1",
            architecture: "x86_64",
            os: "linux",
        };
        assert_eq!(values.expand("{{.Service.Name}}-{{ .Task.Slot }}@{{.Node.Hostname}}!"), Ok("web-3@m1!".to_owned()));
        assert_eq!(values.expand("plain"), Ok("plain".to_owned()));
        assert!(values.expand("{{.Nonsense}}").is_err_and(|error| error.to_string().contains("{{.Nonsense}}")));
        assert!(values.expand("{{.Task.ID").is_err());
    }
}
