//! Text into tokens.

use serde_json::Value;

/// A token; text stands outside of actions, all others inside.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// Text outside of actions.
    Text(String),
    /// `{{`.
    Open,
    /// `}}`.
    Close,
    /// `.A.B`, or `.` with no names. `joined`: no space stands before it, so it continues the token before.
    Field { names: Vec<String>, joined: bool },
    /// `$x`.
    Variable(String),
    /// A literal.
    Literal(Value),
    /// A bare word.
    Word(String),
    /// One of `|`, `(`, `)`, `,`, `:=`, `=`.
    Symbol(&'static str),
}

/// The tokens of a template.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut trim_next = false;
    while let Some(start) = rest.find("{{") {
        let (before, action) = rest.split_at(start);
        let action = action.get(2..).unwrap_or_default();
        let trims_before = action.starts_with("- ") || action.starts_with("-\n") || action.starts_with("-\t");
        let mut before = if trim_next { before.trim_start() } else { before };
        before = if trims_before { before.trim_end() } else { before };
        push_text(&mut tokens, before);
        let action = if trims_before { action.get(1..).unwrap_or_default() } else { action };
        let end = action_end(action).ok_or("unclosed action")?;
        let (body, after) = action.split_at(end);
        let trimmed = body.strip_suffix('-').filter(|body| body.ends_with([' ', '\t', '\n']));
        trim_next = trimmed.is_some();
        let body = trimmed.unwrap_or(body).trim();
        if !(body.starts_with("/*") && body.ends_with("*/")) {
            tokens.push(Token::Open);
            action_tokens(body, &mut tokens)?;
            tokens.push(Token::Close);
        }
        rest = after.get(2..).unwrap_or_default();
    }
    push_text(&mut tokens, if trim_next { rest.trim_start() } else { rest });
    Ok(tokens)
}

fn push_text(tokens: &mut Vec<Token>, text: &str) {
    if !text.is_empty() {
        tokens.push(Token::Text(text.to_owned()));
    }
}

/// Where `}}` stands outside of quotes.
fn action_end(action: &str) -> Option<usize> {
    let mut quote: Option<char> = None;
    let mut escaped = false;
    for (index, character) in action.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some('"') if character == '\\' => escaped = true,
            Some(open) if character == open => quote = None,
            Some(_) => {}
            None if character == '"' || character == '`' => quote = Some(character),
            None if action.get(index..).is_some_and(|rest| rest.starts_with("}}")) => return Some(index),
            None => {}
        }
    }
    None
}

fn is_name(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Splits off the longest start of `text` whose characters all pass.
fn take_while(text: &str, passes: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|character| !passes(character)).unwrap_or(text.len()))
}

fn action_tokens(body: &str, tokens: &mut Vec<Token>) -> Result<(), String> {
    let mut rest = body;
    let mut joined = false;
    while let Some(character) = rest.chars().next() {
        let mut now_joined = true;
        match character {
            ' ' | '\t' | '\n' | '\r' => {
                now_joined = false;
                rest = rest.trim_start();
            }
            '"' | '`' => {
                let (text, after) = quoted(rest, character)?;
                tokens.push(Token::Literal(Value::String(text)));
                rest = after;
            }
            '.' => {
                let (names, after) = field(rest);
                tokens.push(Token::Field { names, joined });
                rest = after;
            }
            '$' => {
                let (name, after) = take_while(rest.get(1..).unwrap_or_default(), is_name);
                tokens.push(Token::Variable(name.to_owned()));
                rest = after;
            }
            '0'..='9' | '-' | '+' => {
                let (number, after) =
                    take_while(rest, |character| character.is_ascii_alphanumeric() || "+-.".contains(character));
                tokens.push(Token::Literal(literal_number(number)?));
                rest = after;
            }
            _ if is_name(character) => {
                let (word, after) = take_while(rest, is_name);
                tokens.push(Token::Word(word.to_owned()));
                rest = after;
            }
            _ => {
                let symbol = ["|", "(", ")", ",", ":=", "="].into_iter().find(|symbol| rest.starts_with(symbol));
                let symbol = symbol.ok_or_else(|| format!("unexpected {character:?} in action"))?;
                tokens.push(Token::Symbol(symbol));
                rest = rest.get(symbol.len()..).unwrap_or_default();
            }
        }
        joined = now_joined;
    }
    Ok(())
}

fn literal_number(text: &str) -> Result<Value, String> {
    if let Ok(number) = text.parse::<i64>() {
        return Ok(Value::from(number));
    }
    text.parse::<f64>().map(Value::from).map_err(|_| format!("bad number syntax: {text:?}"))
}

fn field(text: &str) -> (Vec<String>, &str) {
    let mut names = Vec::new();
    let mut rest = text;
    while let Some(after) = rest.strip_prefix('.') {
        let (name, after_name) = take_while(after, is_name);
        rest = after_name;
        if name.is_empty() {
            break;
        }
        names.push(name.to_owned());
    }
    (names, rest)
}

fn quoted(text: &str, quote: char) -> Result<(String, &str), String> {
    let mut result = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((index, character)) = characters.next() {
        match character {
            '\\' if quote == '"' => match characters.next() {
                Some((_, 'n')) => result.push('\n'),
                Some((_, 't')) => result.push('\t'),
                Some((_, 'r')) => result.push('\r'),
                Some((_, other)) => result.push(other),
                None => break,
            },
            _ if character == quote => return Ok((result, text.get(index + 1..).unwrap_or_default())),
            _ => result.push(character),
        }
    }
    Err("unterminated quoted string".to_owned())
}
