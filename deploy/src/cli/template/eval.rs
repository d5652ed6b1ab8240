//! Nodes over data into text.

use serde_json::Value;

use super::ast::{Node, Operand, Pipeline};
use super::functions;

/// Renders nodes over data.
pub(super) fn render(nodes: &[Node], data: &Value, strict: bool) -> Result<String, String> {
    let mut state = State { root: data, strict, variables: Vec::new(), output: String::new() };
    state.nodes(nodes, data)?;
    Ok(state.output)
}

struct State<'a> {
    root: &'a Value,
    strict: bool,
    variables: Vec<(String, Value)>,
    output: String,
}

impl State<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<(), String> {
        for node in nodes {
            self.node(node, dot)?;
        }
        Ok(())
    }

    /// Runs nodes whose variables end with them.
    fn scope(&mut self, nodes: &[Node], dot: &Value, depth: usize) -> Result<(), String> {
        let result = self.nodes(nodes, dot);
        self.variables.truncate(depth);
        result
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<(), String> {
        let depth = self.variables.len();
        match node {
            Node::Text(text) => self.output.push_str(text),
            Node::Action(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.variables.is_empty() {
                    self.output.push_str(&show(&value));
                } else {
                    self.bind(pipeline, &[value]);
                }
            }
            Node::If(branches) => {
                for (condition, body) in branches {
                    let holds = match condition {
                        Some(pipeline) => {
                            let value = self.pipeline(pipeline, dot)?;
                            self.bind(pipeline, std::slice::from_ref(&value));
                            truth(&value)
                        }
                        None => true,
                    };
                    if holds {
                        return self.scope(body, dot, depth);
                    }
                }
                self.variables.truncate(depth);
            }
            Node::With(pipeline, body, otherwise) => {
                let value = self.pipeline(pipeline, dot)?;
                self.bind(pipeline, std::slice::from_ref(&value));
                if truth(&value) { self.scope(body, &value, depth)? } else { self.scope(otherwise, dot, depth)? }
            }
            Node::Range(pipeline, body, otherwise) => {
                let value = self.pipeline(pipeline, dot)?;
                let items: Vec<(Value, &Value)> = match &value {
                    Value::Array(items) => {
                        items.iter().enumerate().map(|(index, item)| (Value::from(index), item)).collect()
                    }
                    Value::Object(map) => map.iter().map(|(key, item)| (Value::from(key.as_str()), item)).collect(),
                    Value::Null => Vec::new(),
                    other => return Err(format!("range can't iterate over {}", show(other))),
                };
                if items.is_empty() {
                    return self.scope(otherwise, dot, depth);
                }
                for (key, item) in items {
                    if pipeline.variables.len() > 1 {
                        self.bind(pipeline, &[key, item.clone()]);
                    } else {
                        self.bind(pipeline, std::slice::from_ref(item));
                    }
                    self.scope(body, item, depth)?;
                }
            }
        }
        Ok(())
    }

    fn bind(&mut self, pipeline: &Pipeline, values: &[Value]) {
        for (name, value) in pipeline.variables.iter().zip(values) {
            if pipeline.assigns
                && let Some((_, old)) = self.variables.iter_mut().rev().find(|(known, _)| known == name)
            {
                *old = value.clone();
                continue;
            }
            self.variables.push((name.clone(), value.clone()));
        }
    }

    fn pipeline(&self, pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
        let mut value = None;
        for command in &pipeline.commands {
            value = Some(self.command(command, value, dot)?);
        }
        Ok(value.unwrap_or(Value::Null))
    }

    fn command(&self, command: &[Operand], piped: Option<Value>, dot: &Value) -> Result<Value, String> {
        let Some((first, rest)) = command.split_first() else { return Ok(Value::Null) };
        match first {
            Operand::Function(name) => {
                let mut arguments: Vec<Value> =
                    rest.iter().map(|operand| self.operand(operand, dot)).collect::<Result<_, _>>()?;
                arguments.extend(piped);
                functions::call(name, arguments)
            }
            Operand::Field(names) if names.last().is_some_and(|name| name == "Label") && rest.len() == 1 => {
                let labels = self.walk(dot, names.get(..names.len() - 1).unwrap_or_default())?;
                let key = rest.first().map(|operand| self.operand(operand, dot)).transpose()?.unwrap_or_default();
                let label = match labels.get(super::super::listing::LABELS) {
                    Some(Value::Null) => return Ok(key),
                    Some(map) => map.get(key.as_str().unwrap_or_default()),
                    None => labels.get("Labels").and_then(|map| map.get(key.as_str().unwrap_or_default())),
                };
                Ok(label.cloned().unwrap_or_else(|| Value::from("")))
            }
            _ if rest.is_empty() && piped.is_none() => self.operand(first, dot),
            _ => Err("can't give argument to non-function".to_owned()),
        }
    }

    fn operand(&self, operand: &Operand, dot: &Value) -> Result<Value, String> {
        match operand {
            Operand::Field(names) => self.walk(dot, names),
            Operand::Variable(name, names) if name.is_empty() => self.walk(self.root, names),
            Operand::Variable(name, names) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                self.walk(&found.ok_or_else(|| format!("undefined variable \"${name}\""))?.1, names)
            }
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Function(name) => functions::call(name, Vec::new()),
            Operand::Nested(pipeline, names) => self.walk(&self.pipeline(pipeline, dot)?, names),
        }
    }

    fn walk(&self, value: &Value, names: &[String]) -> Result<Value, String> {
        let mut value = value;
        for (index, name) in names.iter().enumerate() {
            let Value::Object(map) = value else {
                return match value {
                    Value::Null => Ok(Value::Null),
                    other => Err(format!("can't evaluate field {name} in {}", show(other))),
                };
            };
            let found = map
                .get(name)
                .or_else(|| map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value));
            match found {
                Some(next) => value = next,
                None if self.strict && index == 0 => return Err(format!("can't evaluate field {name}")),
                None => return Ok(Value::Null),
            }
        }
        Ok(value.clone())
    }
}

/// What Go's templates take for true: anything but false, zero, nil and the empty.
pub(super) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// A value as Go prints it.
pub(crate) fn show(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => format!(
            "map[{}]",
            map.iter().map(|(key, value)| format!("{key}:{}", show(value))).collect::<Vec<_>>().join(" ")
        ),
        other => other.to_string(),
    }
}
