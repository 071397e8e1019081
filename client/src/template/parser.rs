//! From tokens to the tree of a template.

use super::errors::{ParseError, position};
use super::functions;
use super::lexer::{Lexeme, Token, lex};
use super::syntax::{Branch, Command, Node, Operand, Pipeline, Place, Term, Tree};
use std::collections::BTreeMap;

/// Longest template, in bytes.
pub const LENGTH_MAX: usize = 64 << 10;
/// Deepest nesting of actions and parentheses.
const DEPTH_MAX: usize = 100;
/// Most variables that exist at one place.
const VARIABLES_MAX: usize = 200;

struct Parser<'a> {
    source: &'a str,
    tokens: Vec<Lexeme<'a>>,
    next: usize,
    /// The variables that exist here, with their dollars.
    variables: Vec<String>,
    depth: usize,
    /// Number of loops around the current node.
    loops: usize,
    named: BTreeMap<String, Vec<Node>>,
}

/// What ended a list of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ender {
    /// The end of the template.
    Source,
    /// `{{end}}`
    End,
    /// `{{else`, behind which more may come.
    Else,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Control {
    If,
    With,
    Range,
}

pub(super) fn parse(source: &str) -> Result<Tree, ParseError> {
    if source.len() > LENGTH_MAX {
        let problem = format!("the template is longer than {LENGTH_MAX} bytes");
        return Err(ParseError { line: 1, column: 1, problem });
    }
    let mut parser = Parser {
        source,
        tokens: lex(source)?,
        next: 0,
        variables: vec!["$".to_owned()],
        depth: 0,
        loops: 0,
        named: BTreeMap::new(),
    };
    let (root, ender) = parser.list()?;
    match ender {
        Ender::Source => Ok(Tree { source: source.to_owned(), root, named: parser.named }),
        Ender::End => parser.wrong_before("unexpected {{end}}"),
        Ender::Else => parser.wrong_before("unexpected {{else}}"),
    }
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&Token<'a>> {
        self.tokens.get(self.next).map(|lexeme| &lexeme.token)
    }

    fn peek_at(&self, ahead: usize) -> Option<&Token<'a>> {
        self.tokens.get(self.next + ahead).map(|lexeme| &lexeme.token)
    }

    fn take(&mut self) -> Option<Lexeme<'a>> {
        let lexeme = self.tokens.get(self.next).cloned();
        self.next += 1;
        lexeme
    }

    fn wrong_at<T>(&self, index: usize, problem: impl Into<String>) -> Result<T, ParseError> {
        let at = self.tokens.get(index).map_or(self.source.len(), |lexeme| lexeme.at);
        let (line, column) = position(self.source, at);
        Err(ParseError { line, column, problem: problem.into() })
    }

    /// Makes the error for the next token.
    fn wrong<T>(&self, problem: impl Into<String>) -> Result<T, ParseError> {
        self.wrong_at(self.next, problem)
    }

    /// Makes the error for the last token that was taken.
    fn wrong_before<T>(&self, problem: impl Into<String>) -> Result<T, ParseError> {
        self.wrong_at(self.next.saturating_sub(1), problem)
    }

    fn unexpected<T>(&self, context: &str) -> Result<T, ParseError> {
        match self.tokens.get(self.next) {
            Some(lexeme) => {
                let text = self.source.get(lexeme.at..lexeme.end).unwrap_or_default();
                self.wrong(format!("unexpected {text:?} in {context}"))
            }
            None => self.wrong(format!("unexpected end of the template in {context}")),
        }
    }

    fn expect(&mut self, token: &Token<'_>, context: &str) -> Result<(), ParseError> {
        if self.peek() != Some(token) {
            return self.unexpected(context);
        }
        self.next += 1;
        Ok(())
    }

    fn deeper(&mut self) -> Result<(), ParseError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return self.wrong_before(format!("more than {DEPTH_MAX} actions and parentheses are nested"));
        }
        Ok(())
    }

    /// Parses nodes up to `{{end}}`, `{{else` or the end of the source.
    fn list(&mut self) -> Result<(Vec<Node>, Ender), ParseError> {
        let mut nodes = Vec::new();
        while let Some(lexeme) = self.take() {
            if let Token::Text(text) = lexeme.token {
                nodes.push(Node::Text(text.to_owned()));
                continue;
            }
            // A token outside of an action is text or `{{`.
            let Some(Token::Word(word)) = self.peek().cloned() else {
                nodes.push(self.action()?);
                continue;
            };
            self.next += 1;
            match word {
                "end" => {
                    self.expect(&Token::Close, "end")?;
                    return Ok((nodes, Ender::End));
                }
                "else" => return Ok((nodes, Ender::Else)),
                "if" => nodes.push(Node::If(self.branch(Control::If)?)),
                "with" => nodes.push(Node::With(self.branch(Control::With)?)),
                "range" => nodes.push(Node::Range(self.branch(Control::Range)?)),
                "break" | "continue" if self.peek() == Some(&Token::Close) => {
                    if self.loops == 0 {
                        return self.wrong_before(format!("{{{{{word}}}}} outside {{{{range}}}}"));
                    }
                    self.next += 1;
                    nodes.push(if word == "break" { Node::Break } else { Node::Continue });
                }
                "define" => self.define()?,
                "template" => nodes.push(self.template()?),
                "block" => nodes.push(self.block()?),
                _ => {
                    self.next -= 1;
                    nodes.push(self.action()?);
                }
            }
        }
        Ok((nodes, Ender::Source))
    }

    fn action(&mut self) -> Result<Node, ParseError> {
        let pipeline = self.pipeline(false, "command")?;
        self.expect(&Token::Close, "command")?;
        Ok(Node::Action(pipeline))
    }

    /// Parses what follows `{{if`, `{{with` or `{{range`, with its `{{end}}`.
    fn branch(&mut self, control: Control) -> Result<Branch, ParseError> {
        self.deeper()?;
        let begun = self.next.saturating_sub(1);
        let scope = self.variables.len();
        let (word, is_range) = match control {
            Control::If => ("if", false),
            Control::With => ("with", false),
            Control::Range => ("range", true),
        };
        let pipeline = self.pipeline(is_range, word)?;
        self.expect(&Token::Close, word)?;
        self.loops += usize::from(is_range);
        let (list, ender) = self.list()?;
        self.loops -= usize::from(is_range);
        let mut otherwise = Vec::new();
        if ender == Ender::Else {
            otherwise = match (self.peek(), control) {
                (Some(Token::Word("if")), Control::If) => {
                    self.next += 1;
                    vec![Node::If(self.branch(Control::If)?)]
                }
                (Some(Token::Word("with")), Control::With) => {
                    self.next += 1;
                    vec![Node::With(self.branch(Control::With)?)]
                }
                _ => {
                    self.expect(&Token::Close, "else")?;
                    match self.list()? {
                        (nodes, Ender::End) => nodes,
                        (_, Ender::Else) => return self.wrong_before("expected {{end}}; found {{else}}"),
                        (_, Ender::Source) => {
                            return self.wrong_at(begun, format!("{{{{{word}}}}} has no {{{{end}}}}"));
                        }
                    }
                }
            };
        } else if ender == Ender::Source {
            return self.wrong_at(begun, format!("{{{{{word}}}}} has no {{{{end}}}}"));
        }
        self.variables.truncate(scope);
        self.depth -= 1;
        Ok(Branch { pipeline, list, otherwise })
    }

    /// Parses the string behind `define`, `template` or `block`.
    fn name(&mut self, word: &str) -> Result<String, ParseError> {
        match self.peek().cloned() {
            Some(Token::Quoted(name)) => {
                self.next += 1;
                Ok(name)
            }
            _ => self.unexpected(word),
        }
    }

    fn define(&mut self) -> Result<(), ParseError> {
        if self.depth > 0 {
            return self.wrong_before("unexpected {{define}} inside another action");
        }
        let name = self.name("define")?;
        self.expect(&Token::Close, "define")?;
        self.body(name, "define")
    }

    /// Parses the nodes of a named template up to its `{{end}}`.
    fn body(&mut self, name: String, word: &str) -> Result<(), ParseError> {
        self.deeper()?;
        let begun = self.next.saturating_sub(1);
        let variables = std::mem::replace(&mut self.variables, vec!["$".to_owned()]);
        let loops = std::mem::take(&mut self.loops);
        let (list, ender) = self.list()?;
        if ender != Ender::End {
            return self.wrong_at(begun, format!("{{{{{word}}}}} has no {{{{end}}}}"));
        }
        (self.variables, self.loops) = (variables, loops);
        self.depth -= 1;
        if self.named.insert(name.clone(), list).is_some() {
            return self.wrong_at(begun, format!("template {name:?} is defined twice"));
        }
        Ok(())
    }

    fn template(&mut self) -> Result<Node, ParseError> {
        let at = self.next.saturating_sub(1);
        let name = self.name("template")?;
        let pipeline = match self.peek() {
            Some(Token::Close) => None,
            _ => Some(self.pipeline(false, "template")?),
        };
        let place = self.place(at);
        self.expect(&Token::Close, "template")?;
        Ok(Node::Template { name, pipeline, place })
    }

    fn block(&mut self) -> Result<Node, ParseError> {
        let at = self.next.saturating_sub(1);
        let name = self.name("block")?;
        let pipeline = Some(self.pipeline(false, "block")?);
        let place = self.place(at);
        self.expect(&Token::Close, "block")?;
        self.body(name.clone(), "block")?;
        Ok(Node::Template { name, pipeline, place })
    }

    /// The place from the token `first` to the last one that was taken.
    fn place(&self, first: usize) -> Place {
        let at = self.tokens.get(first).map_or(self.source.len(), |lexeme| lexeme.at);
        let end = self.tokens.get(self.next.saturating_sub(1)).map_or(self.source.len(), |lexeme| lexeme.end);
        Place { at, end }
    }

    /// Parses commands up to `}}` or `)`, which stays.
    fn pipeline(&mut self, is_range: bool, context: &str) -> Result<Pipeline, ParseError> {
        let first = self.next;
        let (variables, assigns) = self.declarations(is_range)?;
        let mut commands = Vec::new();
        loop {
            let begun = self.next;
            let command = self.command(context)?;
            let calls = matches!(command.first.term, Term::Function(_)) || !command.first.fields.is_empty();
            if !commands.is_empty() && !calls {
                return self
                    .wrong_at(begun, format!("stage {} of the pipeline is no function", commands.len() + 1));
            }
            commands.push(command);
            if self.peek() != Some(&Token::Pipe) {
                break;
            }
            self.next += 1;
        }
        if !assigns {
            self.variables.extend(variables.iter().cloned());
            if self.variables.len() > VARIABLES_MAX {
                return self.wrong_at(first, format!("more than {VARIABLES_MAX} variables"));
            }
        }
        Ok(Pipeline { place: self.place(first), variables, assigns, commands })
    }

    /// Parses `$x :=`, `$x =`, and for `range` also `$i, $x :=`.
    fn declarations(&mut self, is_range: bool) -> Result<(Vec<String>, bool), ParseError> {
        let mut ahead = 0;
        let mut variables = Vec::new();
        while let Some(Token::Variable(name)) = self.peek_at(ahead) {
            variables.push((*name).to_owned());
            ahead += 1;
            match self.peek_at(ahead) {
                Some(Token::Comma) if is_range && variables.len() == 1 => ahead += 1,
                Some(Token::Comma) => {
                    return self.wrong_at(self.next + ahead, "too many variables before the value");
                }
                Some(token @ (Token::Declare | Token::Assign)) => {
                    let assigns = *token == Token::Assign;
                    for (nth, name) in variables.iter().enumerate().filter(|_| assigns) {
                        self.known(name, self.next + nth * 2)?;
                    }
                    self.next += ahead + 1;
                    return Ok((variables, assigns));
                }
                _ => break,
            }
        }
        Ok((Vec::new(), false))
    }

    fn known(&self, name: &String, index: usize) -> Result<(), ParseError> {
        match self.variables.contains(name) {
            true => Ok(()),
            false => self.wrong_at(index, format!("undefined variable {name:?}")),
        }
    }

    fn command(&mut self, context: &str) -> Result<Command, ParseError> {
        if matches!(self.peek(), Some(Token::Close | Token::RightParen | Token::Pipe)) {
            return self.wrong(format!("missing value for {context}"));
        }
        let first = self.operand(context)?;
        let mut arguments = Vec::new();
        loop {
            match self.tokens.get(self.next) {
                Some(lexeme) if matches!(lexeme.token, Token::Close | Token::RightParen | Token::Pipe) => {
                    return Ok(Command { first, arguments });
                }
                Some(lexeme) if lexeme.is_spaced => arguments.push(self.operand("operand")?),
                _ => return self.unexpected("operand"),
            }
        }
    }

    fn operand(&mut self, context: &str) -> Result<Operand, ParseError> {
        let first = self.next;
        let Some(lexeme) = self.take() else { return self.unexpected(context) };
        let mut fields = Vec::new();
        let term = match lexeme.token {
            Token::Dot => Term::Dot,
            Token::Field(name) => {
                fields.push(name.to_owned());
                Term::Dot
            }
            Token::Variable(name) => {
                self.known(&name.to_owned(), first)?;
                Term::Variable(name.to_owned())
            }
            Token::Word("nil") => Term::Nil,
            Token::Word("true") => Term::Bool(true),
            Token::Word("false") => Term::Bool(false),
            Token::Word(name) if functions::is_function(name) => Term::Function(name.to_owned()),
            Token::Word(name) => return self.wrong_at(first, format!("function {name:?} not defined")),
            Token::Quoted(text) => Term::Text(text),
            Token::Int(number) => Term::Int(number),
            Token::Float(number) => Term::Float(number),
            Token::LeftParen => {
                self.deeper()?;
                let pipeline = self.pipeline(false, "parenthesized pipeline")?;
                if self.peek() != Some(&Token::RightParen) {
                    return self.wrong_at(first, "unclosed left paren");
                }
                self.next += 1;
                self.depth -= 1;
                Term::Pipeline(Box::new(pipeline))
            }
            _ => {
                self.next = first;
                return self.unexpected(context);
            }
        };
        while let Some(Lexeme { token: Token::Field(name), is_spaced: false, .. }) =
            self.tokens.get(self.next)
        {
            if !matches!(term, Term::Dot | Term::Variable(_) | Term::Pipeline(_)) {
                return self.unexpected("operand: only a field, a variable or parentheses have fields");
            }
            fields.push((*name).to_owned());
            self.next += 1;
        }
        Ok(Operand { place: self.place(first), term, fields })
    }
}
