//! What placeholders of a task stand for on this node. Their syntax is [`shoal_proto::template`]'s.

use shoal_proto::id::NodeId;
use shoal_proto::object::Task;
use shoal_proto::spec::Labels;
use shoal_proto::template::{self, Part, Placeholder, Source, TemplateError};

/// No filled text is longer: as what a user may send for one object.
const LIMIT_BYTES: usize = 3 << 19;

/// What placeholders stand for.
#[derive(Debug, Clone)]
pub(crate) struct Values<'a> {
    pub(crate) task: &'a Task,
    pub(crate) node_id: NodeId,
    pub(crate) node_hostname: &'a str,
    pub(crate) architecture: &'a str,
    pub(crate) os: &'a str,
}

impl Values<'_> {
    /// The text with its placeholders filled.
    pub(crate) fn expand(&self, text: &str) -> Result<String, TemplateError> {
        self.fill(template::parse(text)?, |_, _| Ok(String::new()))
    }

    /// The same with a secret or config; `find` knows the others.
    pub(crate) fn expand_payload(
        &self,
        payload: &[u8],
        find: impl Fn(Source, &str) -> Result<String, TemplateError>,
    ) -> Result<Vec<u8>, TemplateError> {
        let text = std::str::from_utf8(payload).map_err(|_| TemplateError::NotText)?;
        self.fill(template::parse_payload(text)?, find).map(String::into_bytes)
    }

    fn fill(
        &self,
        parts: Vec<Part<'_>>,
        find: impl Fn(Source, &str) -> Result<String, TemplateError>,
    ) -> Result<String, TemplateError> {
        let mut filled = String::new();
        for part in parts {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Value(Placeholder::Of { source, name }) => filled.push_str(&find(source, name)?),
                Part::Value(placeholder) => filled.push_str(&self.value(placeholder)),
            }
            // Each piece is short; that there are many of them makes it long.
            if filled.len() > LIMIT_BYTES {
                return Err(TemplateError::TooLong { limit: LIMIT_BYTES });
            }
        }
        Ok(filled)
    }

    fn value(&self, placeholder: Placeholder<'_>) -> String {
        let task = self.task;
        match placeholder {
            Placeholder::ServiceId => task.service_id.to_string(),
            Placeholder::ServiceName => task.service_name.to_string(),
            Placeholder::ServiceLabels => as_go_prints(task.service_labels.as_deref()),
            // The manager has seen to it that a label that is required is there.
            Placeholder::ServiceLabel { name, .. } => {
                task.service_labels.as_ref().and_then(|labels| labels.get(name)).cloned().unwrap_or_default()
            }
            Placeholder::NodeId => self.node_id.to_string(),
            Placeholder::NodeHostname => self.node_hostname.to_owned(),
            Placeholder::NodeArchitecture => self.architecture.to_owned(),
            Placeholder::NodeOs => self.os.to_owned(),
            Placeholder::TaskId => task.id.to_string(),
            Placeholder::TaskName => task.name(),
            // Global tasks have their node's id for a slot, as in their names.
            Placeholder::TaskSlot if task.slot == 0 => self.node_id.to_string(),
            Placeholder::TaskSlot => task.slot.to_string(),
            // Not the task's to say.
            Placeholder::Of { .. } => String::new(),
        }
    }
}

/// `map[a:b c:d]`, as Go prints a map.
fn as_go_prints(labels: Option<&Labels>) -> String {
    let pairs: Vec<_> = labels.into_iter().flatten().map(|(name, value)| format!("{name}:{value}")).collect();
    format!("map[{}]", pairs.join(" "))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn placeholders_are_filled_and_unknown_ones_named() {
        let labels = Labels::from([("a.b".to_owned(), "dotted".to_owned()), ("tier".to_owned(), "front".to_owned())]);
        let task =
            Task { service_name: "web".into(), slot: 3, service_labels: Some(Arc::new(labels)), ..Task::default() };
        let values = Values {
            task: &task,
            node_id: NodeId::from_bits(1),
            node_hostname: "m1",
            architecture: "x86_64",
            os: "linux",
        };
        let expand = |text| values.expand(text);
        assert_eq!(expand("{{.Service.Name}}-{{ .Task.Slot }}@{{.Node.Hostname}}!"), Ok("web-3@m1!".to_owned()));
        assert_eq!(expand("plain"), Ok("plain".to_owned()));
        assert_eq!(expand("x {{- .Task.Slot -}} y"), Ok("x3y".to_owned()));
        assert_eq!(expand("{{.Service.Labels.tier}}"), Ok("front".to_owned()));
        assert_eq!(expand("{{index .Service.Labels \"a.b\"}}"), Ok("dotted".to_owned()));
        assert_eq!(expand("<{{index .Service.Labels \"gone\"}}>"), Ok("<>".to_owned()));
        assert_eq!(expand("{{.Service.Labels}}"), Ok("map[a.b:dotted tier:front]".to_owned()));
        assert!(expand("{{.Nonsense}}").is_err_and(|error| error.to_string().contains("{{.Nonsense}}")));
        assert!(expand("{{.Task.ID").is_err());
    }
}
