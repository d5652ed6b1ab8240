//! What commands print.

use std::io::Write as _;

use serde_json::Value;

use super::template::Template;

/// Prints a line on standard output.
pub(crate) fn line(text: impl AsRef<str>) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout().lock(), "{}", text.as_ref())?)
}

/// Prints text on standard output as it is.
pub(crate) fn text(text: impl AsRef<str>) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_ref().as_bytes())?;
    Ok(stdout.flush()?)
}

/// Says something on standard error that is no failure.
pub(crate) fn note(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
}

/// Prints objects as `inspect` commands do: an indented JSON list, or a template for each.
pub(crate) fn inspected(format: Option<&str>, objects: &[Value]) -> anyhow::Result<()> {
    match format.filter(|format| !format.is_empty()) {
        None | Some("json") if format == Some("json") => line(serde_json::to_string(objects)?),
        None => line(indented(objects)?),
        Some(format) => {
            let template = Template::parse(format).map_err(anyhow::Error::msg)?;
            for object in objects {
                line(template.render(object).map_err(anyhow::Error::msg)?)?;
            }
            Ok(())
        }
    }
}

/// JSON indented by four spaces, as docker prints it.
pub(crate) fn indented(value: &(impl serde::Serialize + ?Sized)) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn four_spaces() {
        assert_eq!(indented(&[json!({"A": []})]).unwrap(), "[\n    {\n        \"A\": []\n    }\n]");
    }
}
