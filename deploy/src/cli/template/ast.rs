//! What a template is made of.

use serde_json::Value;

/// A piece of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// Text outside of actions.
    Text(String),
    /// `{{ pipeline }}`, or an assignment, which prints nothing.
    Action(Pipeline),
    /// `{{if}}` and its `else if`s, in order; the last `else` has no condition.
    If(Vec<(Option<Pipeline>, Vec<Node>)>),
    /// `{{range pipeline}} body {{else}} otherwise {{end}}`.
    Range(Pipeline, Vec<Node>, Vec<Node>),
    /// `{{with pipeline}} body {{else}} otherwise {{end}}`.
    With(Pipeline, Vec<Node>, Vec<Node>),
}

/// Commands joined by `|`, whose value may be kept in variables.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pipeline {
    /// Variables that take the value: `$x := …`, `$key, $value := …` (with `range`).
    pub(super) variables: Vec<String>,
    /// Whether the variable exists already (`=` instead of `:=`).
    pub(super) assigns: bool,
    /// The commands; each gets the one before's value as its last argument.
    pub(super) commands: Vec<Vec<Operand>>,
}

/// A word of a command.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operand {
    /// `.` or `.A.B`.
    Field(Vec<String>),
    /// `$x.A.B`; `$` alone is the whole data.
    Variable(String, Vec<String>),
    /// A literal.
    Literal(Value),
    /// A function's name.
    Function(String),
    /// `(pipeline).A.B`.
    Nested(Box<Pipeline>, Vec<String>),
}
