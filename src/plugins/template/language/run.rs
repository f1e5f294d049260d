//! Runs a tree (Go `text/template/exec.go`); errors have Go's texts.

use std::borrow::Cow;
use std::fmt::Display;

use super::format;
use super::functions::{CallError, TemplateFunction};
use super::output::{MAX_OUTPUT, Steps, Stopped};
use super::parsed::{GoTemplate, TemplateError};
use super::tree::{Arms, Call, Command, NodeList, Number, Operand, Pipe, Range, TemplateNode, Term};
use super::value::{ObjectMember, Parameter, TemplateValue};

/// The limit on the nesting of lists, pipelines and calls of templates. Each level needs stack.
const MAX_DEPTH: usize = 200;

/// The reason why a run ends early.
enum EarlyEnd {
    /// An error at the current node, with Go's text.
    Words(String),
    /// A limit is reached.
    Stopped(Stopped),
}

impl From<Stopped> for EarlyEnd {
    fn from(stopped: Stopped) -> EarlyEnd {
        EarlyEnd::Stopped(stopped)
    }
}

fn fail<T>(words: impl Into<String>) -> Result<T, EarlyEnd> {
    Err(EarlyEnd::Words(words.into()))
}

/// The end of a list.
enum Flow {
    On,
    Break,
    Continue,
}

/// A run of a template.
struct TemplateRun<'a, 'o> {
    template: &'a GoTemplate,
    /// The name of the running template.
    name: &'a str,
    /// `$`
    dollar: TemplateValue<'a>,
    /// Variables, the innermost last.
    variables: Vec<(&'a str, TemplateValue<'a>)>,
    out: &'o mut Vec<u8>,
    /// The node for errors.
    node: Option<(&'a dyn Display, u32)>,
    depth: usize,
    steps: Steps,
}

/// Runs a template with `data` as its dot, and appends to `out`.
pub(super) fn run<'a>(
    template: &'a GoTemplate, data: TemplateValue<'a>, out: &mut Vec<u8>,
) -> Result<(), TemplateError> {
    let mut run = TemplateRun {
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

impl<'a> TemplateRun<'a, '_> {
    fn error(&self, failure: EarlyEnd) -> TemplateError {
        let words = match failure {
            EarlyEnd::Words(words) => words,
            EarlyEnd::Stopped(stopped) => stopped.to_string(),
        };
        let Some((node, at)) = self.node else {
            return TemplateError(format!("template: {}: {words}", self.name));
        };
        let before = self.template.text.get(..at as usize).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.len() - before.rfind('\n').map_or(0, |at| at + 1);
        let place = format!("{}:{line}:{column}", self.template.name);
        TemplateError(format!(
            "template: {place}: executing {} at <{node}>: {words}",
            super::quote::quote(self.name.as_bytes())
        ))
    }

    /// Enters a level of nesting.
    fn nested<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T, EarlyEnd>) -> Result<T, EarlyEnd> {
        if self.depth >= MAX_DEPTH {
            return fail(format!("exceeded maximum template depth ({MAX_DEPTH})"));
        }
        self.depth += 1;
        let result = run(self);
        self.depth -= 1;
        result
    }

    fn write(&mut self, text: &[u8]) -> Result<(), EarlyEnd> {
        if self.out.len() + text.len() > MAX_OUTPUT {
            return Err(Stopped::Output.into());
        }
        self.out.extend_from_slice(text);
        Ok(())
    }

    //--- Lists

    fn list(&mut self, dot: &TemplateValue<'a>, list: &'a NodeList) -> Result<Flow, EarlyEnd> {
        for node in list {
            self.steps.step()?;
            match node {
                TemplateNode::Text(text) => self.write(text.as_bytes())?,
                TemplateNode::Action(pipe) => {
                    let value = self.pipeline(dot, pipe)?;
                    if pipe.variables.is_empty() {
                        match &value {
                            TemplateValue::Text(text) => self.write(text)?,
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
    fn control(&mut self, dot: &TemplateValue<'a>, node: &'a TemplateNode) -> Result<Flow, EarlyEnd> {
        match node {
            TemplateNode::Text(_) | TemplateNode::Action(_) => Ok(Flow::On),
            TemplateNode::If(arms) => self.arms(dot, arms, false),
            TemplateNode::With(arms) => self.arms(dot, arms, true),
            TemplateNode::Range(range) => self.range(dot, range),
            TemplateNode::Template(call) => self.call_template(dot, call),
            TemplateNode::Break => Ok(Flow::Break),
            TemplateNode::Continue => Ok(Flow::Continue),
        }
    }

    fn arms(&mut self, dot: &TemplateValue<'a>, arms: &'a Arms, sets_dot: bool) -> Result<Flow, EarlyEnd> {
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

    fn range(&mut self, dot: &TemplateValue<'a>, range: &'a Range) -> Result<Flow, EarlyEnd> {
        let variables = self.variables.len();
        let value = self.pipeline(dot, &range.pipe)?;
        let mark = self.variables.len();
        let mut ran = false;
        let declared = range.pipe.variables.len();
        let is_whole = matches!(value, TemplateValue::Int(_) | TemplateValue::Uint(..));
        if is_whole && declared > 1 {
            return fail(format!("can't use {} to iterate over more than one variable", shown(&value)));
        }
        let items: Box<dyn Iterator<Item = (TemplateValue<'a>, TemplateValue<'a>)>> = match &value {
            TemplateValue::Int(count) => {
                Box::new((0..*count).map(|at| (TemplateValue::Missing, TemplateValue::Int(at))))
            }
            TemplateValue::Uint(count, unsigned) => {
                let unsigned = *unsigned;
                Box::new((0..*count).map(move |at| (TemplateValue::Missing, TemplateValue::Uint(at, unsigned))))
            }
            TemplateValue::List(list) => {
                Box::new(list.items().enumerate().map(|(at, item)| (TemplateValue::Int(at as i64), item)))
            }
            TemplateValue::Map(map) => Box::new(map.entries().into_iter()),
            TemplateValue::Missing | TemplateValue::Nil => Box::new(std::iter::empty()),
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

    /// Sets the variables of a loop, which are the last ones before `mark`.
    fn bind(
        &mut self, range: &'a Range, mark: usize, index: TemplateValue<'a>, item: &TemplateValue<'a>,
    ) -> Result<(), EarlyEnd> {
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

    fn call_template(&mut self, dot: &TemplateValue<'a>, call: &'a Call) -> Result<Flow, EarlyEnd> {
        self.node = Some((&call.name, call.at));
        let (name, list): (&'a str, &'a NodeList) = match self.template.defined(&call.name) {
            Some(found) => found,
            None => return fail(format!("template {} not defined", super::quote::quote(call.name.as_bytes()))),
        };
        let dot = match &call.pipe {
            Some(pipe) => self.pipeline(dot, pipe)?,
            None => TemplateValue::Missing,
        };
        let outer_name = std::mem::replace(&mut self.name, name);
        let outer_dollar = std::mem::replace(&mut self.dollar, dot.clone());
        let outer_variables = std::mem::take(&mut self.variables);
        self.list(&dot, list)?;
        // After an error the variables remain, for its text.
        (self.name, self.dollar, self.variables) = (outer_name, outer_dollar, outer_variables);
        Ok(Flow::On)
    }

    //--- Variables

    fn variable(&self, name: &str) -> Result<TemplateValue<'a>, EarlyEnd> {
        if let Some((_, value)) = self.variables.iter().rev().find(|(known, _)| *known == name) {
            return Ok(value.clone());
        }
        if name == "$" { Ok(self.dollar.clone()) } else { fail(format!("undefined variable: {name}")) }
    }

    fn set(&mut self, name: &str, value: TemplateValue<'a>) -> Result<(), EarlyEnd> {
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

    fn pipeline(&mut self, dot: &TemplateValue<'a>, pipe: &'a Pipe) -> Result<TemplateValue<'a>, EarlyEnd> {
        self.node = Some((pipe, pipe.at));
        let mut value = None;
        for command in &pipe.commands {
            value = Some(match self.command(dot, command, value)? {
                // The value of an interface, which is nil.
                TemplateValue::Nil => TemplateValue::Missing,
                value => value,
            });
        }
        let value = value.unwrap_or(TemplateValue::Missing);
        for variable in &pipe.variables {
            if pipe.assigns {
                self.set(variable, value.clone())?;
            } else {
                self.variables.push((variable, value.clone()));
            }
        }
        Ok(value)
    }

    /// Evaluates a command; `last` is the value of the previous one.
    fn command(
        &mut self, dot: &TemplateValue<'a>, command: &'a Command, last: Option<TemplateValue<'a>>,
    ) -> Result<TemplateValue<'a>, EarlyEnd> {
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

    fn no_function<T>(&self, first: &Operand) -> Result<T, EarlyEnd> {
        fail(format!("can't give argument to non-function {first}"))
    }

    /// Returns the value at the beginning of a chain of fields.
    fn chained(
        &mut self, dot: &TemplateValue<'a>, chain: &'a Operand, operand: &'a Operand,
    ) -> Result<TemplateValue<'a>, EarlyEnd> {
        self.node = Some((chain, chain.at));
        self.argument(dot, Parameter::Any, operand)
    }

    /// Evaluates a node without fields and calls.
    fn constant(&mut self, dot: &TemplateValue<'a>, operand: &'a Operand) -> Result<TemplateValue<'a>, EarlyEnd> {
        match &operand.term {
            Term::Dot => Ok(dot.clone()),
            Term::Bool(value) => Ok(TemplateValue::Bool(*value)),
            Term::Number(number) => number_value(number),
            Term::Text(literal) => Ok(TemplateValue::Text(Cow::Borrowed(&literal.value))),
            _ => fail(format!("can't evaluate command {}", super::quote::quote(operand.to_string().as_bytes()))),
        }
    }

    /// Follows fields; the last one may be a method, which is called with the arguments.
    fn fields(
        &mut self, dot: &TemplateValue<'a>, value: TemplateValue<'a>, fields: &'a [Box<str>], arguments: &'a [Operand],
        last: Option<TemplateValue<'a>>,
    ) -> Result<TemplateValue<'a>, EarlyEnd> {
        let Some((final_field, inner)) = fields.split_last() else { return Ok(value) };
        let mut value = value;
        for field in inner {
            value = self.field(dot, &value, field, &[], None)?;
        }
        self.field(dot, &value, final_field, arguments, last)
    }

    fn field(
        &mut self, dot: &TemplateValue<'a>, value: &TemplateValue<'a>, name: &'a str, arguments: &'a [Operand],
        last: Option<TemplateValue<'a>>,
    ) -> Result<TemplateValue<'a>, EarlyEnd> {
        let has_arguments = !arguments.is_empty() || last.is_some();
        match value {
            TemplateValue::Missing => Ok(TemplateValue::Missing),
            TemplateValue::Nil => fail(format!("nil pointer evaluating interface {{}}.{name}")),
            TemplateValue::Map(_) if has_arguments => fail(format!("{name} is not a method but has arguments")),
            TemplateValue::Map(map) => Ok(map.get(name.as_bytes()).unwrap_or(TemplateValue::Missing)),
            TemplateValue::Object(object) => match object.member(name) {
                ObjectMember::Value(_) if has_arguments => {
                    fail(format!("{name} has arguments but cannot be invoked as function"))
                }
                ObjectMember::Value(value) => Ok(value),
                ObjectMember::Hidden => {
                    fail(format!("{name} is an unexported field of struct type {}", object.type_name()))
                }
                ObjectMember::Method(parameters) => {
                    let values = self.arguments(dot, name, parameters, false, arguments, last)?;
                    Ok(object.call(name, &values))
                }
                ObjectMember::None => fail(format!("can't evaluate field {name} in type {}", object.type_name())),
            },
            other => fail(format!("can't evaluate field {name} in type {}", other.type_name())),
        }
    }

    //--- Calls

    fn function(
        &mut self, dot: &TemplateValue<'a>, function: TemplateFunction, node: (&'a dyn Display, u32),
        arguments: &'a [Operand], last: Option<TemplateValue<'a>>,
    ) -> Result<TemplateValue<'a>, EarlyEnd> {
        if let TemplateFunction::And | TemplateFunction::Or = function {
            return self.logic(dot, function, arguments, last);
        }
        let signature = function.signature();
        let values = self.arguments(dot, function.name(), signature.fixed, signature.variadic, arguments, last)?;
        match function.call(&values) {
            Ok(value) => {
                if let TemplateValue::Text(Cow::Owned(text)) = &value {
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

    /// Evaluates `and` and `or`, which stop at the argument that decides.
    fn logic(
        &mut self, dot: &TemplateValue<'a>, function: TemplateFunction, arguments: &'a [Operand],
        last: Option<TemplateValue<'a>>,
    ) -> Result<TemplateValue<'a>, EarlyEnd> {
        if arguments.is_empty() && last.is_none() {
            return fail(format!("wrong number of args for {}: want at least 1 got 0", function.name()));
        }
        let mut value = TemplateValue::Missing;
        for argument in arguments {
            value = self.argument(dot, Parameter::Any, argument)?;
            if value.is_true() == (function == TemplateFunction::Or) {
                return Ok(value);
            }
        }
        Ok(last.unwrap_or(value))
    }

    /// Evaluates arguments and checks their number and types.
    fn arguments(
        &mut self, dot: &TemplateValue<'a>, name: &str, parameters: &[Parameter], variadic: bool,
        arguments: &'a [Operand], last: Option<TemplateValue<'a>>,
    ) -> Result<smallvec::SmallVec<[TemplateValue<'a>; 4]>, EarlyEnd> {
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

    fn argument(
        &mut self, dot: &TemplateValue<'a>, parameter: Parameter, operand: &'a Operand,
    ) -> Result<TemplateValue<'a>, EarlyEnd> {
        self.steps.step()?;
        self.node = Some((operand, operand.at));
        let value = match &operand.term {
            Term::Dot => dot.clone(),
            Term::Nil if parameter == Parameter::Any => return Ok(TemplateValue::Nil),
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

/// Converts a literal to an argument of a type.
fn literal<'a>(parameter: Parameter, operand: &Operand, term: &'a Term) -> Result<TemplateValue<'a>, EarlyEnd> {
    match (parameter, term) {
        (Parameter::Any | Parameter::Text, Term::Text(literal)) => {
            Ok(TemplateValue::Text(Cow::Borrowed(&literal.value)))
        }
        (Parameter::Any, Term::Bool(value)) => Ok(TemplateValue::Bool(*value)),
        (Parameter::Any, Term::Number(number)) => number_value(number),
        (Parameter::Int, Term::Number(number)) if number.int.is_some() => {
            Ok(TemplateValue::Int(number.int.unwrap_or(0)))
        }
        (Parameter::Int, _) => fail(format!("expected integer; found {operand}")),
        (Parameter::Any | Parameter::Text, _) => fail(format!("expected string; found {operand}")),
    }
}

/// Returns the value of a number whose type follows from its syntax.
fn number_value<'a>(number: &Number) -> Result<TemplateValue<'a>, EarlyEnd> {
    let text = &*number.written;
    let is_hexadecimal =
        text.len() > 2 && (text.starts_with("0x") || text.starts_with("0X")) && !text.contains(['p', 'P']);
    let is_float = !is_hexadecimal && !text.starts_with('\'') && text.contains(['.', 'e', 'E', 'p', 'P']);
    match (number.float, number.int) {
        (Some(float), _) if is_float => Ok(TemplateValue::Float(float)),
        (_, Some(int)) => Ok(TemplateValue::Int(int)),
        _ => fail(format!("{text} overflows int")),
    }
}

/// Converts a value to an argument of a type.
fn checked<'a>(value: TemplateValue<'a>, parameter: Parameter) -> Result<TemplateValue<'a>, EarlyEnd> {
    let expected = parameter.type_name();
    match (parameter, &value) {
        (Parameter::Any, _) | (Parameter::Text, TemplateValue::Text(_)) | (Parameter::Int, TemplateValue::Int(_)) => {
            Ok(value)
        }
        (_, TemplateValue::Missing) => fail(format!("invalid value; expected {expected}")),
        (_, TemplateValue::Nil) => fail(format!("wrong type for value; expected {expected}; got interface {{}}")),
        (_, value) => fail(format!("wrong type for value; expected {expected}; got {}", value.type_name())),
    }
}

/// Formats a value for a message.
fn shown(value: &TemplateValue<'_>) -> String {
    let mut text = Vec::new();
    // A long text is cut.
    let _ = format::write_value(&mut text, value);
    String::from_utf8_lossy(&text).into_owned()
}
