//! Runs a tree (Go `text/template/exec.go`), with the texts of Go's errors.

use std::borrow::Cow;
use std::fmt::Display;

use super::format;
use super::functions::{CallError, Function};
use super::output::{MAX_OUTPUT, Steps, Stopped};
use super::tree::{Arms, Call, Command, List, Node, Number, Operand, Pipe, Range, Term};
use super::value::{Member, Parameter, Value};
use super::{RunError, Template};

/// How deep lists, pipelines and calls of templates may be nested. Each level costs stack.
const MAX_DEPTH: usize = 200;

/// Why a template is not run to its end.
enum Failure {
    /// What is wrong at the node of the moment, in Go's words.
    Words(String),
    /// It is stopped.
    Stopped(Stopped),
}

type Result<T> = std::result::Result<T, Failure>;

impl From<Stopped> for Failure {
    fn from(stopped: Stopped) -> Failure {
        Failure::Stopped(stopped)
    }
}

fn fail<T>(words: impl Into<String>) -> Result<T> {
    Err(Failure::Words(words.into()))
}

/// How a list ended.
enum Flow {
    On,
    Break,
    Continue,
}

/// A run of a template.
struct Run<'a, 'o> {
    template: &'a Template,
    /// The defined template that is run, or the whole.
    name: &'a str,
    /// `$`
    dollar: Value<'a>,
    /// Variables, the newest last.
    variables: Vec<(&'a str, Value<'a>)>,
    out: &'o mut Vec<u8>,
    /// What errors are about.
    node: Option<(&'a dyn Display, u32)>,
    depth: usize,
    steps: Steps,
}

/// Runs a template with `data` as its dot, and writes to `out`.
pub(super) fn run<'a>(template: &'a Template, data: Value<'a>, out: &mut Vec<u8>) -> std::result::Result<(), RunError> {
    let mut run = Run {
        template,
        name: &template.name,
        dollar: data.clone(),
        variables: Vec::new(),
        out,
        node: None,
        depth: 0,
        steps: Steps::default(),
    };
    match run.list(&data, &template.list) {
        Ok(_) => Ok(()),
        Err(failure) => Err(run.error(failure)),
    }
}

impl<'a> Run<'a, '_> {
    fn error(&self, failure: Failure) -> RunError {
        let words = match failure {
            Failure::Words(words) => words,
            Failure::Stopped(stopped) => stopped.to_string(),
        };
        let Some((node, at)) = self.node else {
            return RunError(format!("template: {}: {words}", self.name));
        };
        let before = self.template.text.get(..at as usize).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.len() - before.rfind('\n').map_or(0, |at| at + 1);
        let place = format!("{}:{line}:{column}", self.template.name);
        RunError(format!(
            "template: {place}: executing {} at <{node}>: {words}",
            super::quote::quote(self.name.as_bytes())
        ))
    }

    /// Goes a level deeper.
    fn nested<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= MAX_DEPTH {
            return fail(format!("exceeded maximum template depth ({MAX_DEPTH})"));
        }
        self.depth += 1;
        let result = run(self);
        self.depth -= 1;
        result
    }

    fn write(&mut self, text: &[u8]) -> Result<()> {
        if self.out.len() + text.len() > MAX_OUTPUT {
            return Err(Stopped::Output.into());
        }
        self.out.extend_from_slice(text);
        Ok(())
    }

    //--- Lists

    fn list(&mut self, dot: &Value<'a>, list: &'a List) -> Result<Flow> {
        for node in list {
            self.steps.step()?;
            match node {
                Node::Text(text) => self.write(text.as_bytes())?,
                Node::Action(pipe) => {
                    let value = self.pipeline(dot, pipe)?;
                    if pipe.variables.is_empty() {
                        match &value {
                            Value::Text(text) => self.write(text)?,
                            value => format::write_value(self.out, value)?,
                        }
                    }
                }
                node => match self.nested(|run| run.control(dot, node))? {
                    Flow::On => {}
                    other => return Ok(other),
                },
            }
        }
        Ok(Flow::On)
    }

    #[inline(never)]
    fn control(&mut self, dot: &Value<'a>, node: &'a Node) -> Result<Flow> {
        match node {
            Node::Text(_) | Node::Action(_) => Ok(Flow::On),
            Node::If(arms) => self.arms(dot, arms, false),
            Node::With(arms) => self.arms(dot, arms, true),
            Node::Range(range) => self.range(dot, range),
            Node::Template(call) => self.call_template(dot, call),
            Node::Break => Ok(Flow::Break),
            Node::Continue => Ok(Flow::Continue),
        }
    }

    fn arms(&mut self, dot: &Value<'a>, arms: &'a Arms, sets_dot: bool) -> Result<Flow> {
        let variables = self.variables.len();
        let mut chosen = None;
        for (pipe, list) in &arms.arms {
            let value = self.pipeline(dot, pipe)?;
            if value.is_true() {
                chosen = Some((value, list));
                break;
            }
        }
        let flow = match (&chosen, &arms.otherwise) {
            (Some((value, list)), _) => self.list(if sets_dot { value } else { dot }, list)?,
            (None, Some(list)) => self.list(dot, list)?,
            (None, None) => Flow::On,
        };
        self.variables.truncate(variables);
        Ok(flow)
    }

    fn range(&mut self, dot: &Value<'a>, range: &'a Range) -> Result<Flow> {
        let variables = self.variables.len();
        let value = self.pipeline(dot, &range.pipe)?;
        let mark = self.variables.len();
        let mut ran = false;
        let declared = range.pipe.variables.len();
        let is_whole = matches!(value, Value::Int(_) | Value::Uint(..));
        if is_whole && declared > 1 {
            return fail(format!("can't use {} to iterate over more than one variable", shown(&value)));
        }
        let items: Box<dyn Iterator<Item = (Value<'a>, Value<'a>)>> = match &value {
            Value::Int(count) => Box::new((0..*count).map(|at| (Value::Missing, Value::Int(at)))),
            Value::Uint(count, unsigned) => {
                let unsigned = *unsigned;
                Box::new((0..*count).map(move |at| (Value::Missing, Value::Uint(at, unsigned))))
            }
            Value::List(list) => Box::new(list.items().enumerate().map(|(at, item)| (Value::Int(at as i64), item))),
            Value::Map(map) => Box::new(map.entries().into_iter()),
            Value::Missing | Value::Nil => Box::new(std::iter::empty()),
            other => return fail(format!("range can't iterate over {}", shown(other))),
        };
        for (index, item) in items {
            self.steps.step()?;
            ran = true;
            self.bind(range, mark, index, &item)?;
            let flow = self.list(&item, &range.list)?;
            self.variables.truncate(mark);
            if let Flow::Break = flow {
                break;
            }
        }
        let flow = match &range.otherwise {
            Some(list) if !ran => self.list(dot, list)?,
            _ => Flow::On,
        };
        self.variables.truncate(variables);
        Ok(flow)
    }

    /// Sets the variables of a loop, which stand at the end of all before `mark`.
    fn bind(&mut self, range: &'a Range, mark: usize, index: Value<'a>, item: &Value<'a>) -> Result<()> {
        let names = &range.pipe.variables;
        let values = match names.len() {
            0 => return Ok(()),
            1 => vec![item.clone()],
            _ => vec![index, item.clone()],
        };
        for (at, value) in values.into_iter().enumerate() {
            if range.pipe.assigns {
                self.set(&names[at], value)?;
            } else {
                self.variables[mark - names.len() + at].1 = value;
            }
        }
        Ok(())
    }

    fn call_template(&mut self, dot: &Value<'a>, call: &'a Call) -> Result<Flow> {
        self.node = Some((&call.name, call.at));
        let (name, list): (&'a str, &'a List) = match self.template.defined(&call.name) {
            Some(found) => found,
            None => return fail(format!("template {} not defined", super::quote::quote(call.name.as_bytes()))),
        };
        let dot = match &call.pipe {
            Some(pipe) => self.pipeline(dot, pipe)?,
            None => Value::Missing,
        };
        let outer_name = std::mem::replace(&mut self.name, name);
        let outer_dollar = std::mem::replace(&mut self.dollar, dot.clone());
        let outer_variables = std::mem::take(&mut self.variables);
        self.list(&dot, list)?;
        // After an error they stay, for its text.
        (self.name, self.dollar, self.variables) = (outer_name, outer_dollar, outer_variables);
        Ok(Flow::On)
    }

    //--- Variables

    fn variable(&self, name: &str) -> Result<Value<'a>> {
        if let Some((_, value)) = self.variables.iter().rev().find(|(known, _)| *known == name) {
            return Ok(value.clone());
        }
        if name == "$" { Ok(self.dollar.clone()) } else { fail(format!("undefined variable: {name}")) }
    }

    fn set(&mut self, name: &str, value: Value<'a>) -> Result<()> {
        let found = self.variables.iter_mut().rev().find(|(known, _)| *known == name).map(|(_, value)| value);
        let found = found.or_else(|| (name == "$").then_some(&mut self.dollar));
        match found {
            Some(variable) => {
                *variable = value;
                Ok(())
            }
            None => fail(format!("undefined variable: {name}")),
        }
    }

    //--- Pipelines

    fn pipeline(&mut self, dot: &Value<'a>, pipe: &'a Pipe) -> Result<Value<'a>> {
        self.node = Some((pipe, pipe.at));
        let mut value = None;
        for command in &pipe.commands {
            value = Some(match self.command(dot, command, value)? {
                // What an interface holds, which is nothing.
                Value::Nil => Value::Missing,
                value => value,
            });
        }
        let value = value.unwrap_or(Value::Missing);
        for variable in &pipe.variables {
            if pipe.assigns {
                self.set(variable, value.clone())?;
            } else {
                self.variables.push((variable, value.clone()));
            }
        }
        Ok(value)
    }

    /// A command; `last` is the value of the one before.
    fn command(&mut self, dot: &Value<'a>, command: &'a Command, last: Option<Value<'a>>) -> Result<Value<'a>> {
        self.steps.step()?;
        let first = &command.first;
        let has_arguments = !command.arguments.is_empty() || last.is_some();
        match &first.term {
            Term::Field(fields) => {
                self.node = Some((first, first.at));
                self.fields(dot, dot.clone(), fields, &command.arguments, last)
            }
            Term::Chain(operand, fields) => {
                let value = self.chained(dot, first, operand)?;
                self.fields(dot, value, fields, &command.arguments, last)
            }
            Term::Variable(name, fields) => {
                self.node = Some((first, first.at));
                let value = self.variable(name)?;
                if fields.is_empty() {
                    return if has_arguments { self.no_function(first) } else { Ok(value) };
                }
                self.fields(dot, value, fields, &command.arguments, last)
            }
            Term::Function(function) => {
                self.node = Some((first, first.at));
                self.function(dot, *function, (command, command.at), &command.arguments, last)
            }
            Term::Pipe(_) if has_arguments => self.no_function(first),
            Term::Pipe(pipe) => self.nested(|run| run.pipeline(dot, pipe)),
            _ => {
                self.node = Some((first, first.at));
                if has_arguments {
                    return self.no_function(first);
                }
                match &first.term {
                    Term::Nil => fail("nil is not a command"),
                    _ => self.constant(dot, first),
                }
            }
        }
    }

    fn no_function<T>(&self, first: &Operand) -> Result<T> {
        fail(format!("can't give argument to non-function {first}"))
    }

    /// What the fields of a chain are of.
    fn chained(&mut self, dot: &Value<'a>, chain: &'a Operand, operand: &'a Operand) -> Result<Value<'a>> {
        self.node = Some((chain, chain.at));
        self.argument(dot, Parameter::Any, operand)
    }

    /// A value that has no fields and calls nothing.
    fn constant(&mut self, dot: &Value<'a>, operand: &'a Operand) -> Result<Value<'a>> {
        match &operand.term {
            Term::Dot => Ok(dot.clone()),
            Term::Bool(value) => Ok(Value::Bool(*value)),
            Term::Number(number) => number_value(number),
            Term::Text(literal) => Ok(Value::Text(Cow::Borrowed(&literal.value))),
            _ => fail(format!("can't evaluate command {}", super::quote::quote(operand.to_string().as_bytes()))),
        }
    }

    /// Follows fields; the last one may be a method, which gets the arguments.
    fn fields(
        &mut self, dot: &Value<'a>, value: Value<'a>, fields: &'a [Box<str>], arguments: &'a [Operand],
        last: Option<Value<'a>>,
    ) -> Result<Value<'a>> {
        let Some((final_field, inner)) = fields.split_last() else { return Ok(value) };
        let mut value = value;
        for field in inner {
            value = self.field(dot, &value, field, &[], None)?;
        }
        self.field(dot, &value, final_field, arguments, last)
    }

    fn field(
        &mut self, dot: &Value<'a>, value: &Value<'a>, name: &'a str, arguments: &'a [Operand], last: Option<Value<'a>>,
    ) -> Result<Value<'a>> {
        let has_arguments = !arguments.is_empty() || last.is_some();
        match value {
            Value::Missing => Ok(Value::Missing),
            Value::Nil => fail(format!("nil pointer evaluating interface {{}}.{name}")),
            Value::Map(_) if has_arguments => fail(format!("{name} is not a method but has arguments")),
            Value::Map(map) => Ok(map.get(name.as_bytes()).unwrap_or(Value::Missing)),
            Value::Object(object) => match object.member(name) {
                Member::Value(_) if has_arguments => {
                    fail(format!("{name} has arguments but cannot be invoked as function"))
                }
                Member::Value(value) => Ok(value),
                Member::Hidden => fail(format!("{name} is an unexported field of struct type {}", object.type_name())),
                Member::Method(parameters) => {
                    let values = self.arguments(dot, name, parameters, false, arguments, last)?;
                    Ok(object.call(name, &values))
                }
                Member::None => fail(format!("can't evaluate field {name} in type {}", object.type_name())),
            },
            other => fail(format!("can't evaluate field {name} in type {}", other.type_name())),
        }
    }

    //--- Calls

    fn function(
        &mut self, dot: &Value<'a>, function: Function, node: (&'a dyn Display, u32), arguments: &'a [Operand],
        last: Option<Value<'a>>,
    ) -> Result<Value<'a>> {
        if let Function::And | Function::Or = function {
            return self.logic(dot, function, arguments, last);
        }
        let signature = function.signature();
        let values = self.arguments(dot, function.name(), signature.fixed, signature.variadic, arguments, last)?;
        match function.call(&values) {
            Ok(value) => {
                if let Value::Text(Cow::Owned(text)) = &value {
                    self.steps.made(text.len())?;
                }
                Ok(value)
            }
            Err(CallError::Stopped(stopped)) => Err(stopped.into()),
            Err(CallError::Function(words)) => {
                self.node = Some(node);
                fail(format!("error calling {}: {words}", function.name()))
            }
        }
    }

    /// `and` and `or`, which stop at the argument that decides.
    fn logic(
        &mut self, dot: &Value<'a>, function: Function, arguments: &'a [Operand], last: Option<Value<'a>>,
    ) -> Result<Value<'a>> {
        if arguments.is_empty() && last.is_none() {
            return fail(format!("wrong number of args for {}: want at least 1 got 0", function.name()));
        }
        let mut value = Value::Missing;
        for argument in arguments {
            value = self.argument(dot, Parameter::Any, argument)?;
            if value.is_true() == (function == Function::Or) {
                return Ok(value);
            }
        }
        Ok(last.unwrap_or(value))
    }

    /// The values of arguments, of the right number and types.
    fn arguments(
        &mut self, dot: &Value<'a>, name: &str, parameters: &[Parameter], variadic: bool, arguments: &'a [Operand],
        last: Option<Value<'a>>,
    ) -> Result<smallvec::SmallVec<[Value<'a>; 4]>> {
        let count = arguments.len() + usize::from(last.is_some());
        if variadic && count < parameters.len() {
            let got = arguments.len();
            return fail(format!("wrong number of args for {name}: want at least {} got {got}", parameters.len()));
        }
        if !variadic && count != parameters.len() {
            return fail(format!("wrong number of args for {name}: want {} got {count}", parameters.len()));
        }
        let parameter = |at| parameters.get(at).copied().unwrap_or(Parameter::Any);
        let mut values = smallvec::SmallVec::with_capacity(count);
        for (at, argument) in arguments.iter().enumerate() {
            values.push(self.argument(dot, parameter(at), argument)?);
        }
        if let Some(last) = last {
            values.push(checked(last, parameter(arguments.len()))?);
        }
        Ok(values)
    }

    fn argument(&mut self, dot: &Value<'a>, parameter: Parameter, operand: &'a Operand) -> Result<Value<'a>> {
        self.steps.step()?;
        self.node = Some((operand, operand.at));
        let value = match &operand.term {
            Term::Dot => dot.clone(),
            Term::Nil if parameter == Parameter::Any => return Ok(Value::Nil),
            Term::Nil => return fail(format!("cannot assign nil to {}", parameter.type_name())),
            Term::Field(fields) => self.fields(dot, dot.clone(), fields, &[], None)?,
            Term::Variable(name, fields) => {
                let value = self.variable(name)?;
                self.fields(dot, value, fields, &[], None)?
            }
            Term::Pipe(pipe) => self.nested(|run| run.pipeline(dot, pipe))?,
            Term::Function(function) => self.function(dot, *function, (operand, operand.at), &[], None)?,
            Term::Chain(inner, fields) => {
                let value = self.chained(dot, operand, inner)?;
                self.fields(dot, value, fields, &[], None)?
            }
            constant => return literal(parameter, operand, constant),
        };
        checked(value, parameter)
    }
}

/// A literal as an argument of a type.
fn literal<'a>(parameter: Parameter, operand: &Operand, term: &'a Term) -> Result<Value<'a>> {
    match (parameter, term) {
        (Parameter::Any | Parameter::Text, Term::Text(literal)) => Ok(Value::Text(Cow::Borrowed(&literal.value))),
        (Parameter::Any, Term::Bool(value)) => Ok(Value::Bool(*value)),
        (Parameter::Any, Term::Number(number)) => number_value(number),
        (Parameter::Int, Term::Number(number)) if number.int.is_some() => Ok(Value::Int(number.int.unwrap_or(0))),
        (Parameter::Int, _) => fail(format!("expected integer; found {operand}")),
        (Parameter::Any | Parameter::Text, _) => fail(format!("expected string; found {operand}")),
    }
}

/// A number where nothing says of which type: its syntax tells.
fn number_value<'a>(number: &Number) -> Result<Value<'a>> {
    let text = &*number.written;
    let is_hexadecimal =
        text.len() > 2 && (text.starts_with("0x") || text.starts_with("0X")) && !text.contains(['p', 'P']);
    let is_float = !is_hexadecimal && !text.starts_with('\'') && text.contains(['.', 'e', 'E', 'p', 'P']);
    match (number.float, number.int) {
        (Some(float), _) if is_float => Ok(Value::Float(float)),
        (_, Some(int)) => Ok(Value::Int(int)),
        _ => fail(format!("{text} overflows int")),
    }
}

/// A value as an argument of a type.
fn checked<'a>(value: Value<'a>, parameter: Parameter) -> Result<Value<'a>> {
    let expected = parameter.type_name();
    match (parameter, &value) {
        (Parameter::Any, _) | (Parameter::Text, Value::Text(_)) | (Parameter::Int, Value::Int(_)) => Ok(value),
        (_, Value::Missing) => fail(format!("invalid value; expected {expected}")),
        (_, Value::Nil) => fail(format!("wrong type for value; expected {expected}; got interface {{}}")),
        (_, value) => fail(format!("wrong type for value; expected {expected}; got {}", value.type_name())),
    }
}

/// A value in a message.
fn shown(value: &Value<'_>) -> String {
    let mut text = Vec::new();
    // What is too long is cut.
    let _ = format::write_value(&mut text, value);
    String::from_utf8_lossy(&text).into_owned()
}
