//! Lists of things: a table, JSON lines, ids only, or a template of the user's, as `docker ls` commands give them.

use std::io::Write as _;

use serde_json::{Map, Value};

use super::table;
use super::template::Template;

/// Key of a row that holds the labels for `{{.Label "key"}}`; null in the row of headers, where a label's header is its key.
/// Not shown by `{{json .}}`.
pub(crate) const LABELS: &str = "\u{0}labels";

/// What one line of a list shows: fields by name, all texts.
pub(crate) type Row = Map<String, Value>;

/// Makes a row of fields and values.
pub(crate) fn row<const N: usize>(fields: [(&str, String); N]) -> Row {
    fields.into_iter().map(|(name, value)| (name.to_owned(), Value::String(value))).collect()
}

/// Adds labels to a row, shown as `Labels` and reachable by `{{.Label "key"}}`.
pub(crate) fn with_labels(mut row: Row, labels: &Value) -> Row {
    let text = match labels.as_object() {
        Some(map) => map
            .iter()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect::<Vec<_>>()
            .join(","),
        None => String::new(),
    };
    row.insert("Labels".to_owned(), Value::String(text));
    row.insert(LABELS.to_owned(), labels.clone());
    row
}

/// The kind of list that a command prints.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listing {
    /// Field names and what stands above them in a table.
    pub(crate) headers: &'static [(&'static str, &'static str)],
    /// The table when no format is given: a template of tab-separated fields.
    pub(crate) table: &'static str,
    /// The template for `--quiet`.
    pub(crate) quiet: &'static str,
}

impl Listing {
    /// Prints rows.
    pub(crate) fn print(&self, format: Option<&str>, quiet: bool, rows: Vec<Row>) -> anyhow::Result<()> {
        let text = self.render(format, quiet, rows).map_err(anyhow::Error::msg)?;
        Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
    }

    /// The text of rows.
    pub(crate) fn render(&self, format: Option<&str>, quiet: bool, rows: Vec<Row>) -> Result<String, String> {
        let rows: Vec<Value> = rows.into_iter().map(Value::Object).collect();
        let format = format.filter(|format| !format.is_empty()).unwrap_or("table");
        if format == "json" {
            return lines("{{json .}}", &rows);
        }
        if quiet && format == "table" {
            return lines(self.quiet, &rows);
        }
        match format.strip_prefix("table") {
            Some(template) => {
                self.render_table(if template.trim().is_empty() { self.table } else { template.trim_start() }, &rows)
            }
            None => lines(format, &rows),
        }
    }

    fn render_table(&self, template: &str, rows: &[Value]) -> Result<String, String> {
        let template = Template::parse(template)?;
        let mut headers: Map<String, Value> =
            self.headers.iter().map(|(field, header)| ((*field).to_owned(), Value::from(*header))).collect();
        headers.insert(LABELS.to_owned(), Value::Null);
        let mut text = template.render(&Value::Object(headers))?;
        let strict = template.strict();
        for row in rows {
            text.push('\n');
            text.push_str(&strict.render(row)?.replace('\n', " "));
        }
        Ok(table::align(&text))
    }
}

fn lines(template: &str, rows: &[Value]) -> Result<String, String> {
    let template = Template::parse(template)?.strict();
    let mut text = String::new();
    for row in rows {
        text.push_str(&template.render(row)?);
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LISTING: Listing = Listing {
        headers: &[("ID", "ID"), ("Name", "NAME"), ("Labels", "LABELS")],
        table: "{{.ID}}\t{{.Name}}",
        quiet: "{{.ID}}",
    };

    fn rows() -> Vec<Row> {
        vec![with_labels(row([("ID", "0123456789ab".to_owned()), ("Name", "web".to_owned())]), &json!({"a.b": "c"}))]
    }

    fn render(format: Option<&str>, quiet: bool) -> String {
        LISTING.render(format, quiet, rows()).unwrap_or_else(|error| error)
    }

    #[test]
    fn every_format() {
        assert_eq!(render(None, false), "ID             NAME\n0123456789ab   web\n");
        assert_eq!(render(Some("table {{.Name}}\\t{{.ID}}"), false), "NAME      ID\nweb       0123456789ab\n");
        assert_eq!(render(Some("table {{.Name}}\\t{{.Label \"a.b\"}}"), false), "NAME      a.b\nweb       c\n");
        assert_eq!(render(None, true), "0123456789ab\n");
        assert_eq!(render(Some("json"), false), "{\"ID\":\"0123456789ab\",\"Labels\":\"a.b=c\",\"Name\":\"web\"}\n");
        assert_eq!(render(Some("{{json .}}"), false), render(Some("json"), false));
        assert_eq!(render(Some("{{.Name}}: {{.Label \"a.b\"}}"), false), "web: c\n");
        assert!(render(Some("{{.Nothing}}"), false).contains("can't evaluate field Nothing"));
    }
}
