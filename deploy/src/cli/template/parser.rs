//! Tokens into nodes.

use serde_json::Value;

use super::ast::{Node, Operand, Pipeline};
use super::lexer::Token;

/// Parses a whole template.
pub(super) fn parse(tokens: Vec<Token>) -> Result<Vec<Node>, String> {
    let mut parser = Parser { tokens: tokens.into_iter().peekable(), depth: 0 };
    let (nodes, end) = parser.nodes()?;
    match end {
        Stop::Eof => Ok(nodes),
        Stop::Else => Err("unexpected {{else}}".to_owned()),
        Stop::End => Err("unexpected {{end}}".to_owned()),
    }
}

/// Why a list of nodes ended.
#[derive(PartialEq)]
enum Stop {
    /// The template is over.
    Eof,
    /// At the word after `else`.
    Else,
    /// After `{{end}}`.
    End,
}

/// Nesting deeper than this is refused, so that a template cannot exhaust the stack.
const DEPTH_LIMIT: usize = 100;

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    depth: usize,
}

impl Parser {
    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        self.depth += 1;
        if self.depth > DEPTH_LIMIT {
            return Err("nested too deeply".to_owned());
        }
        let result = parse(self);
        self.depth -= 1;
        result
    }

    fn nodes(&mut self) -> Result<(Vec<Node>, Stop), String> {
        let mut nodes = Vec::new();
        loop {
            match self.tokens.next() {
                None => return Ok((nodes, Stop::Eof)),
                Some(Token::Text(text)) => nodes.push(Node::Text(text)),
                Some(Token::Open) => {
                    let keyword = match self.tokens.peek() {
                        Some(Token::Word(word)) => word.clone(),
                        _ => String::new(),
                    };
                    match keyword.as_str() {
                        "end" => {
                            self.tokens.next();
                            self.close()?;
                            return Ok((nodes, Stop::End));
                        }
                        "else" => {
                            self.tokens.next();
                            return Ok((nodes, Stop::Else));
                        }
                        "if" | "range" | "with" => {
                            self.tokens.next();
                            nodes.push(self.deeper(|parser| parser.block(&keyword))?);
                        }
                        _ => {
                            nodes.push(Node::Action(self.pipeline()?));
                            self.close()?;
                        }
                    }
                }
                Some(token) => return Err(format!("unexpected {token:?}")),
            }
        }
    }

    fn close(&mut self) -> Result<(), String> {
        match self.tokens.next() {
            Some(Token::Close) => Ok(()),
            Some(token) => Err(format!("unexpected {token:?} in action")),
            None => Err("unclosed action".to_owned()),
        }
    }

    fn block(&mut self, keyword: &str) -> Result<Node, String> {
        let pipeline = self.pipeline()?;
        self.close()?;
        let (body, end) = self.nodes()?;
        match keyword {
            "if" => {
                let mut branches = vec![(Some(pipeline), body)];
                self.else_branches(end, &mut branches)?;
                Ok(Node::If(branches))
            }
            _ => {
                let otherwise = match end {
                    Stop::Else => {
                        self.close()?;
                        let (otherwise, end) = self.nodes()?;
                        expect_end(&end)?;
                        otherwise
                    }
                    end => {
                        expect_end(&end)?;
                        Vec::new()
                    }
                };
                Ok(if keyword == "range" {
                    Node::Range(pipeline, body, otherwise)
                } else {
                    Node::With(pipeline, body, otherwise)
                })
            }
        }
    }

    fn else_branches(
        &mut self,
        mut end: Stop,
        branches: &mut Vec<(Option<Pipeline>, Vec<Node>)>,
    ) -> Result<(), String> {
        while end == Stop::Else {
            let condition = match self.tokens.next() {
                Some(Token::Close) => None,
                Some(Token::Word(word)) if word == "if" => {
                    let pipeline = self.pipeline()?;
                    self.close()?;
                    Some(pipeline)
                }
                _ => return Err("unexpected text after {{else".to_owned()),
            };
            let last = condition.is_none();
            let (body, next) = self.nodes()?;
            branches.push((condition, body));
            if last && next == Stop::Else {
                return Err("unexpected {{else}} after {{else}}".to_owned());
            }
            end = next;
        }
        expect_end(&end)
    }

    fn pipeline(&mut self) -> Result<Pipeline, String> {
        let mut variables = Vec::new();
        let mut assigns = false;
        let lookahead = self.tokens.clone();
        while let Some(Token::Variable(name)) = self.tokens.next() {
            variables.push(name);
            match self.tokens.next() {
                Some(Token::Symbol(",")) => {}
                Some(Token::Symbol(symbol @ (":=" | "="))) => {
                    assigns = symbol == "=";
                    let commands = self.commands()?;
                    return Ok(Pipeline { variables, assigns, commands });
                }
                _ => break,
            }
        }
        self.tokens = lookahead;
        Ok(Pipeline { variables: Vec::new(), assigns, commands: self.commands()? })
    }

    fn commands(&mut self) -> Result<Vec<Vec<Operand>>, String> {
        let mut commands = Vec::new();
        loop {
            let command = self.command()?;
            if command.is_empty() {
                return Err("missing value for command".to_owned());
            }
            commands.push(command);
            if self.tokens.next_if_eq(&Token::Symbol("|")).is_none() {
                return Ok(commands);
            }
        }
    }

    fn command(&mut self) -> Result<Vec<Operand>, String> {
        let mut operands = Vec::new();
        loop {
            let operand = match self.tokens.peek() {
                Some(
                    Token::Field { .. } | Token::Variable(_) | Token::Literal(_) | Token::Word(_) | Token::Symbol("("),
                ) => self.operand()?,
                _ => return Ok(operands),
            };
            operands.push(operand);
        }
    }

    fn operand(&mut self) -> Result<Operand, String> {
        match self.tokens.next() {
            Some(Token::Field { names, .. }) => Ok(Operand::Field(names)),
            Some(Token::Variable(name)) => Ok(Operand::Variable(name, self.joined_fields())),
            Some(Token::Literal(value)) => Ok(Operand::Literal(value)),
            Some(Token::Word(word)) => Ok(match word.as_str() {
                "true" => Operand::Literal(Value::Bool(true)),
                "false" => Operand::Literal(Value::Bool(false)),
                "nil" => Operand::Literal(Value::Null),
                _ => {
                    if !super::functions::exists(&word) {
                        return Err(format!("function {word:?} not defined"));
                    }
                    Operand::Function(word)
                }
            }),
            Some(Token::Symbol("(")) => {
                let pipeline = self.deeper(Self::pipeline)?;
                if self.tokens.next() != Some(Token::Symbol(")")) {
                    return Err("unclosed left paren".to_owned());
                }
                Ok(Operand::Nested(Box::new(pipeline), self.joined_fields()))
            }
            token => Err(format!("unexpected {token:?}")),
        }
    }

    fn joined_fields(&mut self) -> Vec<String> {
        match self.tokens.next_if(|token| matches!(token, Token::Field { joined: true, .. })) {
            Some(Token::Field { names, .. }) => names,
            _ => Vec::new(),
        }
    }
}

fn expect_end(end: &Stop) -> Result<(), String> {
    if *end == Stop::End { Ok(()) } else { Err("unexpected EOF: {{end}} is missing".to_owned()) }
}
