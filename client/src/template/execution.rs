//! Walks the tree of a template over its data.

use super::data::{Data, Kind};
use super::errors::{ExecuteError, position};
use super::functions;
use super::shape::Shape;
use super::syntax::{Branch, Command, Node, Operand, Pipeline, Place, Term, Tree};
use super::value::Value;
use serde_json::Value as Json;
use std::rc::Rc;

/// Deepest nesting of nodes, parentheses and named templates while they run.
const DEPTH_MAX: usize = 200;
/// Most work of one execution: bytes that are read or written, and [`NODE`] for each node.
const WORK_MAX: u64 = 16 << 20;
/// Work of one node or operand, in bytes.
const NODE: u64 = 64;

/// How a list of nodes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Goes,
    Breaks,
    Continues,
}

struct Execution<'t, 'a> {
    template: &'t Tree,
    is_header: bool,
    out: String,
    variables: Vec<(&'t str, Value<'a>)>,
    depth: usize,
    /// Work that may still be done.
    work: u64,
}

pub(super) fn execute(template: &Tree, data: &Data<'_>) -> Result<String, ExecuteError> {
    let root = Value::root(*data);
    let mut execution = Execution {
        template,
        is_header: matches!(data.kind, Kind::Headers),
        out: String::new(),
        variables: vec![("$", root.clone())],
        depth: 0,
        work: WORK_MAX,
    };
    execution.list(&template.root, &root)?;
    Ok(execution.out)
}

impl<'t, 'a> Execution<'t, 'a> {
    fn wrong<T>(&self, place: Place, problem: impl Into<String>) -> Result<T, ExecuteError> {
        let source = &self.template.source;
        let (line, column) = position(source, place.at);
        let part = source.get(place.at..place.end).unwrap_or_default().to_owned();
        Err(ExecuteError { line, column, part, problem: problem.into() })
    }

    fn charge(&mut self, place: Place, work: u64) -> Result<(), ExecuteError> {
        match self.work.checked_sub(work) {
            Some(left) => self.work = left,
            None => return self.wrong(place, format!("the template does more work than {WORK_MAX} bytes")),
        }
        Ok(())
    }

    fn deeper(&mut self, place: Place) -> Result<(), ExecuteError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return self.wrong(place, format!("more than {DEPTH_MAX} templates and actions are nested"));
        }
        self.charge(place, NODE)
    }

    fn write(&mut self, place: Place, text: &str) -> Result<(), ExecuteError> {
        self.charge(place, text.len() as u64)?;
        self.out.push_str(text);
        Ok(())
    }

    fn list(&mut self, nodes: &'t [Node], dot: &Value<'a>) -> Result<Flow, ExecuteError> {
        for node in nodes {
            match node {
                Node::Text(text) => self.write(Place { at: 0, end: 0 }, text)?,
                Node::Action(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        self.charge(pipeline.place, value.weight())?;
                        self.write(pipeline.place, &value.printed())?;
                    }
                }
                Node::Break => return Ok(Flow::Breaks),
                Node::Continue => return Ok(Flow::Continues),
                Node::If(branch) | Node::With(branch) => {
                    let flow = self.branch(branch, dot, matches!(node, Node::With(_)))?;
                    if flow != Flow::Goes {
                        return Ok(flow);
                    }
                }
                Node::Range(branch) => {
                    let flow = self.range(branch, dot)?;
                    if flow != Flow::Goes {
                        return Ok(flow);
                    }
                }
                Node::Template { name, pipeline, place } => {
                    self.named(name, pipeline.as_ref(), *place, dot)?;
                }
            }
        }
        Ok(Flow::Goes)
    }

    fn branch(&mut self, branch: &'t Branch, dot: &Value<'a>, is_with: bool) -> Result<Flow, ExecuteError> {
        self.deeper(branch.pipeline.place)?;
        let scope = self.variables.len();
        let value = self.pipeline(&branch.pipeline, dot)?;
        let flow = match (value.is_true(), is_with) {
            (true, true) => self.list(&branch.list, &value)?,
            (true, false) => self.list(&branch.list, dot)?,
            (false, _) => self.list(&branch.otherwise, dot)?,
        };
        self.variables.truncate(scope);
        self.depth -= 1;
        Ok(flow)
    }

    fn range(&mut self, branch: &'t Branch, dot: &Value<'a>) -> Result<Flow, ExecuteError> {
        let place = branch.pipeline.place;
        self.deeper(place)?;
        let scope = self.variables.len();
        let value = self.value(&branch.pipeline, dot)?;
        let mut count = 0_u64;
        let mut is_over = false;
        if let Some((map, shape)) = value.members() {
            self.charge(place, NODE.saturating_mul(map.len() as u64))?;
            let mut members: Vec<(&String, &Json)> = map.iter().collect();
            members.sort_by_key(|(key, _)| *key);
            for (key, member) in members {
                count += 1;
                let element = match shape {
                    Shape::Object => Value::of(key, member),
                    shape => Value::element(shape, member),
                };
                if self.round(branch, Value::text(key.as_str()), element)? == Flow::Breaks {
                    break;
                }
            }
        } else if let Some(all) = value.elements() {
            while let Some(element) =
                all.get(usize::try_from(count).unwrap_or(usize::MAX)).filter(|_| !is_over)
            {
                count += 1;
                is_over = self.round(branch, Value::Int(i128::from(count) - 1), element)? == Flow::Breaks;
            }
        } else if let Value::Int(rounds) = value {
            while i128::from(count) < rounds && !is_over {
                let nth = Value::Int(count.into());
                count += 1;
                is_over = self.round(branch, nth.clone(), nth)? == Flow::Breaks;
            }
        } else if !matches!(value, Value::Nothing | Value::Null(_)) {
            return self.wrong(place, format!("range can't iterate over a value of type {}", value.kind()));
        }
        let mut flow = Flow::Goes;
        if count == 0 {
            flow = self.list(&branch.otherwise, dot)?;
        }
        self.variables.truncate(scope);
        self.depth -= 1;
        Ok(flow)
    }

    /// Runs the nodes of a loop for one element.
    fn round(
        &mut self,
        branch: &'t Branch,
        key: Value<'a>,
        element: Value<'a>,
    ) -> Result<Flow, ExecuteError> {
        let pipeline = &branch.pipeline;
        self.charge(
            pipeline.place,
            NODE.saturating_add(if let Value::Text(text) = &element { text.len() as u64 } else { 0 }),
        )?;
        let scope = self.variables.len();
        match pipeline.variables.as_slice() {
            [name] => self.set(pipeline, name, element.clone())?,
            [first, second, ..] => {
                self.set(pipeline, first, key)?;
                self.set(pipeline, second, element.clone())?;
            }
            [] => {}
        }
        let flow = self.list(&branch.list, &element)?;
        self.variables.truncate(scope);
        Ok(flow)
    }

    fn named(
        &mut self,
        name: &str,
        pipeline: Option<&'t Pipeline>,
        place: Place,
        dot: &Value<'a>,
    ) -> Result<(), ExecuteError> {
        self.deeper(place)?;
        let Some(nodes) = self.template.named.get(name) else {
            return self.wrong(place, format!("template {name:?} not defined"));
        };
        let value = match pipeline {
            Some(pipeline) => self.pipeline(pipeline, dot)?,
            None => Value::Nothing,
        };
        let before = std::mem::replace(&mut self.variables, vec![("$", value.clone())]);
        self.list(nodes, &value)?;
        self.variables = before;
        self.depth -= 1;
        Ok(())
    }

    /// Declares or changes a variable.
    fn set(&mut self, pipeline: &Pipeline, name: &'t str, value: Value<'a>) -> Result<(), ExecuteError> {
        if !pipeline.assigns {
            self.variables.push((name, value));
            return Ok(());
        }
        match self.variables.iter_mut().rev().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => return self.wrong(pipeline.place, format!("undefined variable {name:?}")),
        }
        Ok(())
    }

    /// Evaluates a pipeline, and sets its variable.
    fn pipeline(&mut self, pipeline: &'t Pipeline, dot: &Value<'a>) -> Result<Value<'a>, ExecuteError> {
        let value = self.value(pipeline, dot)?;
        if let Some(name) = pipeline.variables.first() {
            self.set(pipeline, name, value.clone())?;
        }
        Ok(value)
    }

    fn value(&mut self, pipeline: &'t Pipeline, dot: &Value<'a>) -> Result<Value<'a>, ExecuteError> {
        self.deeper(pipeline.place)?;
        let mut value = None;
        for command in &pipeline.commands {
            value = Some(self.command(command, dot, value)?);
        }
        self.depth -= 1;
        Ok(value.unwrap_or(Value::Nothing))
    }

    /// Evaluates a command; `piped` is the value of the command before it.
    fn command(
        &mut self,
        command: &'t Command,
        dot: &Value<'a>,
        piped: Option<Value<'a>>,
    ) -> Result<Value<'a>, ExecuteError> {
        let Command { first, arguments } = command;
        if let Term::Function(name) = &first.term {
            return self.call(first.place, name, arguments, dot, piped);
        }
        if arguments.is_empty() && piped.is_none() {
            return match first.term {
                Term::Nil => self.wrong(first.place, "nil is not a command"),
                _ => self.operand(first, dot),
            };
        }
        // Only a method takes arguments.
        let Some((method, fields)) = first.fields.split_last() else {
            return self.wrong(first.place, "can't give arguments to a value that is no function");
        };
        let mut receiver = self.term(first, dot)?;
        for field in fields {
            receiver = self.field(first.place, &receiver, field)?;
        }
        let mut values = Vec::new();
        for argument in arguments {
            values.push(self.operand(argument, dot)?);
        }
        values.extend(piped);
        match label(&receiver, method, &values) {
            Some(Ok(value)) => Ok(value),
            Some(Err(problem)) => self.wrong(first.place, problem),
            None => self.wrong(first.place, format!("{method} has arguments, and is no method")),
        }
    }

    fn call(
        &mut self,
        place: Place,
        name: &str,
        arguments: &'t [Operand],
        dot: &Value<'a>,
        piped: Option<Value<'a>>,
    ) -> Result<Value<'a>, ExecuteError> {
        if let Some(problem) = functions::count_problem(name, arguments.len() + usize::from(piped.is_some()))
        {
            return self.wrong(place, problem);
        }
        if matches!(name, "and" | "or") {
            // The first value that decides is the result; later arguments are not evaluated.
            let mut value = Value::Nothing;
            for argument in arguments {
                value = self.operand(argument, dot)?;
                if value.is_true() == (name == "or") {
                    return Ok(value);
                }
            }
            return Ok(piped.unwrap_or(value));
        }
        let mut values = Vec::new();
        for argument in arguments {
            values.push(self.operand(argument, dot)?);
        }
        values.extend(piped);
        if !functions::is_shallow(name) {
            let weight = values.iter().fold(0_u64, |sum, value| sum.saturating_add(value.weight()));
            self.charge(place, weight)?;
        }
        let value = match functions::call(name, &values, self.is_header) {
            Ok(value) => value,
            Err(problem) => return self.wrong(place, format!("error calling {name}: {problem}")),
        };
        let made = match &value {
            Value::Text(text) => text.len() as u64,
            Value::List(all) => NODE.saturating_mul(all.len() as u64),
            _ => 0,
        };
        self.charge(place, made)?;
        Ok(value)
    }

    fn operand(&mut self, operand: &'t Operand, dot: &Value<'a>) -> Result<Value<'a>, ExecuteError> {
        let mut value = self.term(operand, dot)?;
        for field in &operand.fields {
            value = self.field(operand.place, &value, field)?;
        }
        Ok(value)
    }

    /// Evaluates an operand without its fields.
    fn term(&mut self, operand: &'t Operand, dot: &Value<'a>) -> Result<Value<'a>, ExecuteError> {
        self.charge(operand.place, NODE)?;
        Ok(match &operand.term {
            Term::Dot => dot.clone(),
            Term::Nil => Value::Null(Shape::Object),
            Term::Bool(bool) => Value::Bool(*bool),
            Term::Int(number) => Value::Int(*number),
            Term::Float(number) => Value::Float(*number),
            Term::Text(text) => {
                self.charge(operand.place, text.len() as u64)?;
                Value::Text(Rc::from(text.as_str()))
            }
            Term::Variable(name) => match self.variables.iter().rev().find(|(known, _)| known == name) {
                Some((_, value)) => value.clone(),
                None => return self.wrong(operand.place, format!("undefined variable {name:?}")),
            },
            Term::Function(name) => return self.call(operand.place, name, &[], dot, None),
            Term::Pipeline(pipeline) => self.pipeline(pipeline, dot)?,
        })
    }

    /// Returns a field of `receiver`.
    fn field(&mut self, place: Place, receiver: &Value<'a>, name: &str) -> Result<Value<'a>, ExecuteError> {
        if let Some((map, shape)) = receiver.members() {
            let is_map = shape != Shape::Object && !matches!(receiver, Value::Root(_));
            let member = match is_map {
                false => map.get(name).or_else(|| {
                    map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, member)| member)
                }),
                true => map.get(name),
            };
            let found = match (member, shape) {
                (Some(json), Shape::Object) => Value::of(name, json),
                (Some(json), shape) => Value::element(shape, json),
                (None, Shape::Object) => match label(receiver, name, &[]) {
                    Some(Err(problem)) => return self.wrong(place, problem),
                    None if is_optional(receiver, name) => Value::text(""),
                    _ => return self.wrong(place, absent(name, map.keys())),
                },
                (None, _) => Value::Nothing,
            };
            if let Value::Text(text) = &found {
                self.charge(place, text.len() as u64)?;
            }
            return Ok(found);
        }
        match receiver {
            Value::Nothing | Value::Null(Shape::Map | Shape::Texts) => Ok(Value::Nothing),
            Value::Null(Shape::Object) => self.wrong(place, format!("nil pointer evaluating field {name}")),
            other => self.wrong(place, format!("can't evaluate field {name} in type {}", other.kind())),
        }
    }
}

/// Most names of fields in a message.
const NAMES_MAX: usize = 40;

/// Says that an object has no such field, and which fields it has.
fn absent<'k>(name: &str, fields: impl Iterator<Item = &'k String>) -> String {
    let mut names: Vec<&str> = fields.map(String::as_str).collect();
    names.sort_unstable();
    let more = if names.len() > NAMES_MAX { ", …" } else { "" };
    names.truncate(NAMES_MAX);
    match names.is_empty() {
        true => format!("can't evaluate field {name}: the object has no fields"),
        false => format!("can't evaluate field {name}; the fields are {}{more}", names.join(", ")),
    }
}

/// Whether the data have a field that the document may leave out.
fn is_optional(receiver: &Value<'_>, name: &str) -> bool {
    match receiver {
        Value::Root(data) => data.optional.iter().any(|field| field.eq_ignore_ascii_case(name)),
        _ => false,
    }
}

/// Calls the method `.Label "KEY"`; `None` if the receiver has no such method.
fn label<'a>(
    receiver: &Value<'a>,
    method: &str,
    arguments: &[Value<'a>],
) -> Option<Result<Value<'a>, String>> {
    let Value::Root(data) = receiver else { return None };
    if method != "Label" || matches!(data.kind, Kind::Object) {
        return None;
    }
    let [Value::Text(key)] = arguments else {
        return Some(Err("the method Label has one argument, the key of a label: .Label \"KEY\"".to_owned()));
    };
    Some(Ok(match data.kind {
        Kind::Row(labels) => labels.get(&**key).map_or_else(|| Value::text(""), |value| Value::of("", value)),
        // The header of a label is the last part of its key.
        _ => Value::text(key.rsplit('.').next().unwrap_or_default().replace(['-', '_'], " ")),
    }))
}
