//! `--format`: the part of Go's text/template that people write for docker, evaluated over JSON.
//!
//! Actions: fields, variables, literals, pipelines, `if`/`else if`/`else`, `range`, `with`, `{{- -}}`, comments; the functions
//! of Go (`len index printf print println eq ne lt le gt ge and or not slice`) and of docker (`json join split lower upper
//! title pad truncate`), and the method `.Label "key"`.

mod ast;
mod eval;
mod functions;
mod lexer;
mod parser;

use serde_json::Value;

/// A parsed template.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    nodes: Vec<ast::Node>,
    strict: bool,
}

impl Template {
    /// Parses a template. `\t` and `\n` written with a backslash outside of actions are a tab and a line end, as in docker.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = unescape(text);
        let nodes = parser::parse(lexer::tokens(&text).map_err(|why| format!("template parsing error: {why}"))?)
            .map_err(|why| format!("template parsing error: {why}"))?;
        Ok(Self { nodes, strict: false })
    }

    /// From now on a field that the data's top level does not have is an error, which is what rows of a listing want.
    pub(crate) fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// Renders the template over `data`.
    pub(crate) fn render(&self, data: &Value) -> Result<String, String> {
        eval::render(&self.nodes, data, self.strict).map_err(|why| format!("template: {why}"))
    }
}

fn unescape(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        let (before, action) = rest.split_at(start);
        result.push_str(&before.replace("\\t", "\t").replace("\\n", "\n"));
        let end = action.find("}}").map_or(action.len(), |end| end + 2);
        let (action, after) = action.split_at(end);
        result.push_str(action);
        rest = after;
    }
    result.push_str(&rest.replace("\\t", "\t").replace("\\n", "\n"));
    result
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn render(template: &str, data: &Value) -> String {
        Template::parse(template)
            .and_then(|template| template.render(data))
            .unwrap_or_else(|error| format!("ERROR {error}"))
    }

    #[test]
    fn what_people_write_for_docker() {
        let data = json!({
            "Id": "abc", "Name": "/web", "State": {"Running": true, "Pid": 42, "Health": null},
            "Config": {"Env": ["A=1", "B=2"], "Labels": {"com.x": "y"}},
            "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.2"}, "web": {"IPAddress": "10.0.0.3"}}, "Ports": {"80/tcp": [{"HostPort": "8080"}]}},
            "Mounts": [], "Size": 1.5
        });
        let cases = [
            ("{{.Name}}", "/web"),
            ("{{.ID}}:{{.State.Pid}}", "abc:42"),
            ("{{json .Config.Env}}", r#"["A=1","B=2"]"#),
            ("{{json .State}}", r#"{"Health":null,"Pid":42,"Running":true}"#),
            ("{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", "172.17.0.2 10.0.0.3 "),
            (
                "{{range $name, $net := .NetworkSettings.Networks}}{{$name}}={{$net.IPAddress}};{{end}}",
                "bridge=172.17.0.2;web=10.0.0.3;",
            ),
            ("{{index .Config.Labels \"com.x\"}}", "y"),
            ("{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}", "8080"),
            ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
            ("{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}", "none"),
            ("{{if eq .State.Pid 41}}a{{else if eq .State.Pid 42}}b{{end}}", "b"),
            ("{{len .Config.Env}} {{len .Mounts}}", "2 0"),
            ("{{range .Mounts}}x{{else}}empty{{end}}", "empty"),
            ("{{with .Config}}{{index .Env 1}}{{end}}", "B=2"),
            ("{{.Config.Env}}", "[A=1 B=2]"),
            ("{{.Config.Labels}}", "map[com.x:y]"),
            ("{{.Missing}}", "<no value>"),
            ("{{upper .Name | printf \"%s-%d\" \"x\"}}", "x-%!d(string=/WEB)"),
            ("{{printf \"%-6s|%5.1f|%q|%v\" .Id .Size .Id .State.Running}}", "abc   |  1.5|\"abc\"|true"),
            ("{{join .Config.Env \", \"}}", "A=1, B=2"),
            ("{{range split .Name \"e\"}}<{{.}}>{{end}}", "</w><b>"),
            ("{{truncate .Name 2}}|{{pad .Id 1 2}}|{{title .Id}}", "/w| abc  |Abc"),
            ("a {{- .Id -}} b", "aabcb"),
            ("{{/* nothing */}}x\\ty\\n", "x\ty\n"),
            ("{{println .Id}}", "abc\n"),
            ("{{$x := .Id}}{{$x}}", "abc"),
            ("{{and .State.Running .Id}} {{or .State.Health \"none\"}} {{not .State.Running}}", "abc none false"),
            ("{{slice .Id 1 2}}", "b"),
        ];
        for (template, want) in cases {
            assert_eq!(render(template, &data), want, "{template}");
        }
    }

    #[test]
    fn what_cannot_be_is_said() {
        let data = json!({"A": 1});
        for template in
            ["{{.A", "{{if .A}}", "{{end}}", "{{foo .A}}", "{{index .A}}", "{{.A | }}", "{{else}}", "{{\"open}}"]
        {
            assert!(render(template, &data).starts_with("ERROR"), "{template}");
        }
        let strict = Template::parse("{{.B}}").unwrap().strict();
        assert!(strict.render(&data).unwrap_err().contains("can't evaluate field B"));
    }

    proptest! {
        #[test]
        fn no_template_panics(text in "(\\{\\{|\\}\\}|[.$a-z\"| ()-]|if|end|range|json|index|[0-9]|printf|%){0,20}") {
            let _ = render(&text, &json!({"a": [1, {"b": "c"}]}));
        }
    }
}
