//! The functions of the language itself (expr-lang `builtin`).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::error::{EvaluationError, MAX_ITEMS, MAX_TEXT};
use super::types::Type;
use super::value::ExprValue;

macro_rules! builtins {
    ($($variant:ident $name:literal),* $(,)?) => {
        /// A function of the language.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Builtin {
            $($variant,)*
            /// A function of dates and times.
            Time(&'static str),
        }

        impl Builtin {
            /// Returns the function of a name. `type` is a function of the environment instead.
            pub(super) fn named(name: &str) -> Option<Builtin> {
                match name {
                    $($name => Some(Builtin::$variant),)*
                    _ => TIME.iter().find(|known| **known == name).map(|name| Builtin::Time(name)),
                }
            }

            /// Returns the name of the function.
            pub(super) fn name(self) -> &'static str {
                match self {
                    $(Builtin::$variant => $name,)*
                    Builtin::Time(name) => name,
                }
            }
        }
    };
}

/// Functions that are not implemented.
const TIME: &[&str] = &["now", "duration", "date", "timezone"];

builtins! {
    All "all", None "none", Any "any", One "one", Filter "filter", Map "map", Find "find", FindIndex "findIndex",
    FindLast "findLast", FindLastIndex "findLastIndex", Count "count", Sum "sum", GroupBy "groupBy", SortBy "sortBy",
    Reduce "reduce", Len "len", Abs "abs", Ceil "ceil", Floor "floor", Round "round", Int "int", Float "float",
    String "string", Trim "trim", TrimPrefix "trimPrefix", TrimSuffix "trimSuffix", Upper "upper", Lower "lower",
    Split "split", SplitAfter "splitAfter", Replace "replace", Repeat "repeat", Join "join", IndexOf "indexOf",
    LastIndexOf "lastIndexOf", HasPrefix "hasPrefix", HasSuffix "hasSuffix", Max "max", Min "min", Mean "mean",
    Median "median", ToJson "toJSON", FromJson "fromJSON", ToBase64 "toBase64", FromBase64 "fromBase64", First "first",
    Last "last", Get "get", Take "take", Keys "keys", Values "values", ToPairs "toPairs", FromPairs "fromPairs",
    Reverse "reverse", Uniq "uniq", Concat "concat", Flatten "flatten", Sort "sort", BitAnd "bitand", BitOr "bitor",
    BitXor "bitxor", BitNand "bitnand", BitShl "bitshl", BitShr "bitshr", BitUshr "bitushr", BitNot "bitnot",
}

/// Whether a name is that of a function, so that no variable may have it.
pub(super) fn is_reserved(name: &str) -> bool {
    name == "type" || Builtin::named(name).is_some()
}

/// The types of the parameters and of the result, for each form in which a function can be called.
type Overloads = Vec<(Vec<Type>, Type)>;

impl Builtin {
    //--- Types

    /// Returns how many arguments a function with a predicate requires, and how many are optional. The second is the
    /// predicate.
    pub(super) fn predicate_arguments(self) -> Option<(usize, usize)> {
        use Builtin::*;
        match self {
            All | None | Any | One | Filter | Map | Find | FindIndex | FindLast | FindLastIndex | GroupBy => {
                Some((2, 0))
            }
            Count | Sum => Some((1, 1)),
            SortBy | Reduce => Some((2, 1)),
            _ => Option::None,
        }
    }

    /// Returns the pointers that a predicate has besides the item.
    pub(super) fn pointers(self) -> &'static [(&'static str, Type)] {
        match self {
            Builtin::Map => &[("index", Type::Int)],
            Builtin::Reduce => &[("index", Type::Int), ("acc", Type::Unknown)],
            _ => &[],
        }
    }

    /// Whether the predicate must be a boolean.
    pub(super) fn wants_bool(self) -> bool {
        use Builtin::*;
        matches!(self, All | None | Any | One | Filter | Find | FindIndex | FindLast | FindLastIndex | Count)
    }

    /// Returns the type of the result of a function with a predicate.
    pub(super) fn predicate_result(self, array: &Type, predicate: Option<Type>) -> Type {
        use Builtin::*;
        match self {
            All | None | Any | One => Type::Bool,
            Filter => array.item().array(),
            Map => predicate.unwrap_or(Type::Unknown).array(),
            Find | FindLast => array.item(),
            FindIndex | FindLastIndex | Count => Type::Int,
            Sum => predicate.unwrap_or_else(|| array.item()),
            GroupBy => Type::Groups(Box::new(array.item())),
            SortBy => array.clone(),
            _ => predicate.unwrap_or(Type::Unknown),
        }
    }

    /// Returns the forms of a function whose result does not depend on the types of its arguments.
    pub(super) fn overloads(self) -> Option<Overloads> {
        use Builtin::*;
        use Type::{Bool, Int as Whole, Text, Unknown};
        let texts = || Type::Typed(Box::new(Text));
        let anything = || Unknown.array();
        Some(match self {
            String | ToJson => vec![(vec![Unknown], Text)],
            Trim => vec![(vec![Text], Text), (vec![Text, Text], Text)],
            TrimPrefix | TrimSuffix => vec![(vec![Text, Text], Text), (vec![Text], Text)],
            Upper | Lower | ToBase64 | FromBase64 => vec![(vec![Text], Text)],
            FromJson => vec![(vec![Text], Unknown)],
            Split | SplitAfter => vec![(vec![Text, Text], texts()), (vec![Text, Text, Whole], texts())],
            Replace => vec![(vec![Text, Text, Text, Whole], Text), (vec![Text, Text, Text], Text)],
            Repeat => vec![(vec![Text, Whole], Text)],
            Join => vec![
                (vec![anything(), Text], Text),
                (vec![anything()], Text),
                (vec![texts(), Text], Text),
                (vec![texts()], Text),
            ],
            IndexOf | LastIndexOf => vec![(vec![Text, Text], Whole)],
            HasPrefix | HasSuffix => vec![(vec![Text, Text], Bool)],
            Sort => [anything(), Type::Typed(Box::new(Whole)), Type::Typed(Box::new(Type::Float)), texts()]
                .into_iter()
                .flat_map(|array| [(vec![array.clone(), Text], anything()), (vec![array], anything())])
                .collect(),
            BitAnd | BitOr | BitXor | BitNand | BitShl | BitShr | BitUshr => vec![(vec![Whole, Whole], Whole)],
            BitNot => vec![(vec![Whole], Whole)],
            _ => return Option::None,
        })
    }

    /// Returns the type of the result for arguments of these types, or an error about them.
    pub(super) fn validate(self, types: &[Type]) -> Result<Type, std::string::String> {
        use Builtin::*;
        let count = |wanted: usize| match types.len() == wanted {
            true => Ok(()),
            false => Err(format!("invalid number of arguments (expected {wanted}, got {})", types.len())),
        };
        let shown = |of: &Type| if *of == Type::Nil { "%!s(<nil>)".to_owned() } else { of.to_string() };
        let name = self.name();
        match self {
            Time(name) => return Err(format!("{name} is not supported by this server")),
            Max | Min | Mean | Median => return aggregate(name, types),
            Concat if types.is_empty() => {
                return Err("invalid number of arguments (expected at least 1, got 0)".into());
            }
            Concat => {}
            Get | Take => count(2)?,
            _ => count(1)?,
        }
        let Some(first) = types.first() else { return Ok(Type::Unknown) };
        let is_array = first.is_array() || first.is_unknown();
        let is_map = first.is_map() || first.is_unknown();
        let is_number = first.is_number() || first.is_unknown();
        let wrong = |what: &str| Err(format!("{what} {}", shown(first)));
        match self {
            Len if is_array || is_map || *first == Type::Text => Ok(Type::Int),
            Len | Abs | Ceil | Floor | Round if self == Len || !is_number => {
                Err(format!("invalid argument for {name} (type {})", shown(first)))
            }
            Abs => Ok(first.clone()),
            Ceil | Floor | Round => Ok(Type::Float),
            Int | Float if is_number || *first == Type::Text => Ok(if self == Int { Type::Int } else { Type::Float }),
            Int | Float => Err(format!("invalid argument for {name} (type {})", shown(first))),
            First | Last if is_array => Ok(if matches!(first, Type::Array(_)) { Type::Unknown } else { first.item() }),
            First => wrong("cannot get first element from"),
            Last => wrong("cannot get last element from"),
            Take if !is_array => wrong("cannot take from"),
            Take if types[1] != Type::Int && !types[1].is_unknown() => {
                Err(format!("cannot take {} elements", shown(&types[1])))
            }
            Take => Ok(if matches!(first, Type::Array(_)) { Type::Unknown.array() } else { first.clone() }),
            Keys | Values | ToPairs if is_map => Ok(Type::Unknown.array()),
            Keys => wrong("cannot get keys from"),
            Values => wrong("cannot get values from"),
            ToPairs => Err(format!("cannot transform {} to pairs", shown(first))),
            FromPairs if is_array => Ok(Type::Map),
            FromPairs => Err(format!("cannot transform {} from pairs", shown(first))),
            Reverse | Uniq | Flatten if is_array => Ok(Type::Unknown.array()),
            Reverse | Uniq | Flatten => wrong(&format!("cannot {name}")),
            Concat => match types.iter().find(|of| !of.is_array() && !of.is_unknown()) {
                Some(of) => Err(format!("cannot concat {}", shown(of))),
                Option::None => Ok(Type::Unknown.array()),
            },
            Get => match first {
                of if of.is_unknown() => Ok(Type::Unknown),
                Type::Map if types[1] != Type::Text && !types[1].is_unknown() => {
                    Err(format!("cannot use {} to get an element from {first}", shown(&types[1])))
                }
                map if map.is_map() => Ok(map.item()),
                array if array.is_array() && (types[1] == Type::Int || types[1].is_unknown()) => Ok(array.item()),
                array if array.is_array() => Err(format!("non-integer slice index {}", shown(&types[1]))),
                other => Err(format!("type {} does not support indexing", shown(other))),
            },
            _ => Ok(Type::Unknown),
        }
    }

    //--- Values

    /// Calls a function that has no predicate.
    pub(super) fn call(self, arguments: &[ExprValue]) -> Result<ExprValue, EvaluationError> {
        use Builtin::*;
        match (self, arguments) {
            (Len, [ExprValue::Text(text)]) => Ok(ExprValue::Int(text.chars().count() as i64)),
            (Len, [ExprValue::Bytes(bytes)]) => Ok(ExprValue::Int(bytes.len() as i64)),
            (Len, [ExprValue::Array(items)]) => Ok(ExprValue::Int(items.len() as i64)),
            (Len, [ExprValue::Map(entries)]) => Ok(ExprValue::Int(entries.len() as i64)),
            (Abs, [ExprValue::Int(number)]) => Ok(ExprValue::Int(number.wrapping_abs())),
            (Abs, [ExprValue::Float(number)]) => Ok(ExprValue::Float(number.abs())),
            (Ceil | Floor | Round, [ExprValue::Int(number)]) => Ok(ExprValue::Float(*number as f64)),
            (Ceil, [ExprValue::Float(number)]) => Ok(ExprValue::Float(number.ceil())),
            (Floor, [ExprValue::Float(number)]) => Ok(ExprValue::Float(number.floor())),
            (Round, [ExprValue::Float(number)]) => Ok(ExprValue::Float(number.round())),
            (Int, [ExprValue::Int(number)]) => Ok(ExprValue::Int(*number)),
            (Int, [ExprValue::Float(number)]) => Ok(ExprValue::Int(*number as i64)),
            (Int, [ExprValue::Text(text)]) => match text.strip_prefix('+').unwrap_or(text).parse() {
                Ok(number) if !text.starts_with("+-") && !text.starts_with("++") => Ok(ExprValue::Int(number)),
                _ => EvaluationError::words(format!("invalid operation: int({text})")),
            },
            (Float, [ExprValue::Text(text)]) => match text.parse() {
                Ok(number) => Ok(ExprValue::Float(number)),
                Err(_) => EvaluationError::words(format!("invalid operation: float({text})")),
            },
            (Float, [number]) if number.as_float().is_some() => Ok(ExprValue::Float(number.as_float().unwrap_or(0.0))),
            (Int | Float, [other]) => {
                EvaluationError::words(format!("invalid operation: {}({})", self.name(), other.type_name()))
            }
            (String, [value]) => text(value.to_string()),
            (Max | Min, values) => extreme(self, values),
            (Mean | Median, values) => average(self, values),
            (ToJson, [value]) => to_json(value),
            (FromJson, [ExprValue::Text(text)]) => match serde_json::from_str(text) {
                Ok(json) => Ok(from_json(&json)),
                Err(error) => EvaluationError::words(error.to_string()),
            },
            (BitNot, [ExprValue::Int(number)]) => Ok(ExprValue::Int(!number)),
            (
                BitAnd | BitOr | BitXor | BitNand | BitShl | BitShr | BitUshr,
                [ExprValue::Int(one), ExprValue::Int(other)],
            ) => self.bits(*one, *other),
            (Get, [_, _]) | (First | Last, [_]) => Ok(self.pick(arguments)),
            (Take | Keys | Values | ToPairs | FromPairs | Reverse | Uniq | Concat | Flatten | Sort, [_, ..]) => {
                self.list(arguments)
            }
            _ => self.on_text(arguments),
        }
    }

    /// Calls a function of strings.
    fn on_text(self, arguments: &[ExprValue]) -> Result<ExprValue, EvaluationError> {
        use Builtin::*;
        let texts: Vec<&str> = arguments
            .iter()
            .map_while(|argument| match argument {
                ExprValue::Text(text) => Some(&**text),
                _ => Option::None,
            })
            .collect();
        let number = arguments.get(texts.len()).and_then(|argument| match argument {
            ExprValue::Int(number) => Some(*number),
            _ => Option::None,
        });
        match (self, texts.as_slice(), number) {
            (Trim, [whole], _) => text(whole.trim()),
            (Trim, [whole, set], _) => text(whole.trim_matches(|character| set.contains(character))),
            (TrimPrefix, [whole, rest @ ..], _) => {
                let prefix = rest.first().unwrap_or(&" ");
                text(whole.strip_prefix(prefix).unwrap_or(whole))
            }
            (TrimSuffix, [whole, rest @ ..], _) => {
                let suffix = rest.first().unwrap_or(&" ");
                text(whole.strip_suffix(suffix).unwrap_or(whole))
            }
            (Upper, [whole], _) => with_case(whole, upper),
            (Lower, [whole], _) => with_case(whole, lower),
            (Split | SplitAfter, [whole, separator], limit) => split(whole, separator, self == SplitAfter, limit),
            (Replace, [whole, from, to], limit) => replace(whole, from, to, limit),
            (Repeat, [whole], Some(count)) if count >= 0 => match whole.len().checked_mul(count as usize) {
                Some(length) if length <= MAX_TEXT => text(whole.repeat(count as usize)),
                _ => Err(EvaluationError::Memory),
            },
            (Repeat, [_], Some(count)) => {
                let message = format!("invalid argument for repeat (expected positive integer, got {count})");
                EvaluationError::words(message)
            }
            (IndexOf, [whole, part], _) => Ok(ExprValue::Int(whole.find(part).map_or(-1, |at| at as i64))),
            (LastIndexOf, [whole, part], _) => Ok(ExprValue::Int(whole.rfind(part).map_or(-1, |at| at as i64))),
            (HasPrefix, [whole, part], _) => Ok(ExprValue::Bool(whole.starts_with(part))),
            (HasSuffix, [whole, part], _) => Ok(ExprValue::Bool(whole.ends_with(part))),
            (ToBase64, [whole], _) => text(BASE64.encode(whole)),
            (FromBase64, [whole], _) => match BASE64.decode(whole) {
                Ok(bytes) => text(std::string::String::from_utf8_lossy(&bytes).into_owned()),
                Err(error) => EvaluationError::words(error.to_string()),
            },
            (Join, [], _) => join(arguments),
            _ => EvaluationError::words(format!("invalid arguments for {}", self.name())),
        }
    }

    fn bits(self, one: i64, other: i64) -> Result<ExprValue, EvaluationError> {
        use Builtin::*;
        let shift = u32::try_from(other).unwrap_or(u32::MAX);
        Ok(ExprValue::Int(match self {
            BitAnd => one & other,
            BitOr => one | other,
            BitXor => one ^ other,
            BitNand => one & !other,
            _ if other < 0 => {
                let message = format!("invalid operation: negative shift count {other} (type int)");
                return EvaluationError::words(message);
            }
            BitShl => one.checked_shl(shift).unwrap_or(0),
            BitShr => one.checked_shr(shift).unwrap_or(if one < 0 { -1 } else { 0 }),
            _ => (one as u64).checked_shr(shift).unwrap_or(0) as i64,
        }))
    }

    /// Returns an item or value, or nil.
    fn pick(self, arguments: &[ExprValue]) -> ExprValue {
        let index = match (self, arguments) {
            (Builtin::First, _) => ExprValue::Int(0),
            (Builtin::Last, _) => ExprValue::Int(-1),
            (_, [_, index]) => index.clone(),
            _ => ExprValue::Nil,
        };
        match (&arguments[0], &index) {
            (ExprValue::Map(_), key) => arguments[0].get(key).cloned().unwrap_or(ExprValue::Nil),
            (ExprValue::Array(items), ExprValue::Int(index)) => {
                let at = if *index < 0 { index + items.len() as i64 } else { *index };
                usize::try_from(at).ok().and_then(|at| items.get(at)).cloned().unwrap_or(ExprValue::Nil)
            }
            _ => ExprValue::Nil,
        }
    }

    /// Calls a function that returns a list or map.
    fn list(self, arguments: &[ExprValue]) -> Result<ExprValue, EvaluationError> {
        use Builtin::*;
        let items = |value: &ExprValue| -> Result<Arc<[ExprValue]>, EvaluationError> {
            match value {
                ExprValue::Array(items) => Ok(items.clone()),
                ExprValue::Bytes(bytes) => Ok(bytes.iter().map(|byte| ExprValue::Int((*byte).into())).collect()),
                other => EvaluationError::words(format!("cannot {} {}", self.name(), other.type_name())),
            }
        };
        let entries = |value: &ExprValue| match value {
            ExprValue::Map(entries) => Ok(entries.clone()),
            other => EvaluationError::words(format!("cannot {} {}", self.name(), other.type_name())),
        };
        let first = &arguments[0];
        Ok(match self {
            Keys => ExprValue::Array(entries(first)?.iter().map(|(key, _)| key.clone()).collect()),
            Values => ExprValue::Array(entries(first)?.iter().map(|(_, value)| value.clone()).collect()),
            ToPairs => {
                let pairs = entries(first)?;
                ExprValue::Array(
                    pairs.iter().map(|(key, value)| ExprValue::Array([key.clone(), value.clone()].into())).collect(),
                )
            }
            FromPairs => {
                let mut pairs = Vec::new();
                for pair in items(first)?.iter() {
                    match pair {
                        ExprValue::Array(pair) if pair.len() == 2 => pairs.push((pair[0].clone(), pair[1].clone())),
                        other => return EvaluationError::words(format!("invalid pair {other}")),
                    }
                }
                ExprValue::map(pairs)
            }
            Take => {
                let items = items(first)?;
                let count = match arguments.get(1) {
                    Some(ExprValue::Int(count)) => usize::try_from(*count).unwrap_or(0).min(items.len()),
                    _ => return EvaluationError::words("cannot take elements"),
                };
                ExprValue::Array(items[..count].into())
            }
            Reverse => ExprValue::Array(items(first)?.iter().rev().cloned().collect()),
            Uniq => {
                let mut seen: Vec<ExprValue> = Vec::new();
                for item in items(first)?.iter() {
                    if !seen.iter().any(|known| known.equals(item)) {
                        seen.push(item.clone());
                    }
                }
                ExprValue::Array(seen.into())
            }
            Concat => {
                let mut all = Vec::new();
                for argument in arguments {
                    all.extend(items(argument)?.iter().cloned());
                }
                array(all)?
            }
            Flatten => {
                let mut all = Vec::new();
                flatten(&items(first)?, &mut all)?;
                array(all)?
            }
            _ => {
                let mut sorted = items(first)?.to_vec();
                let descends = descends(arguments.get(1))?;
                sort(&mut sorted, |item| item, descends)?;
                ExprValue::Array(sorted.into())
            }
        })
    }
}

/// Reads an order: `desc` or `asc`.
pub(super) fn descends(order: Option<&ExprValue>) -> Result<bool, EvaluationError> {
    match order {
        None => Ok(false),
        Some(ExprValue::Text(order)) if **order == *"asc" => Ok(false),
        Some(ExprValue::Text(order)) if **order == *"desc" => Ok(true),
        Some(other) => EvaluationError::words(format!("invalid order {other}, expected asc or desc")),
    }
}

/// Sorts items by their keys; equal items stay in their order.
pub(super) fn sort<T>(items: &mut [T], key: impl Fn(&T) -> &ExprValue, descends: bool) -> Result<(), EvaluationError> {
    let mut failed = None;
    items.sort_by(|one, other| match compare(key(one), key(other)) {
        Ok(order) if descends => order.reverse(),
        Ok(order) => order,
        Err(error) => {
            failed.get_or_insert(error);
            std::cmp::Ordering::Equal
        }
    });
    failed.map_or(Ok(()), Err)
}

/// Compares numbers or strings.
pub(super) fn compare(one: &ExprValue, other: &ExprValue) -> Result<std::cmp::Ordering, EvaluationError> {
    let order = match (one, other) {
        (ExprValue::Int(one), ExprValue::Int(other)) => Some(one.cmp(other)),
        (ExprValue::Text(one), ExprValue::Text(other)) => Some(one.cmp(other)),
        _ => match (one.as_float(), other.as_float()) {
            // Go does not define the position of NaN.
            (Some(one), Some(other)) => Some(one.total_cmp(&other)),
            _ => None,
        },
    };
    match order {
        Some(order) => Ok(order),
        None => EvaluationError::words(format!("invalid operation: {} < {}", one.type_name(), other.type_name())),
    }
}

/// Changes the case of each character.
fn with_case(whole: &str, change: fn(char) -> char) -> Result<ExprValue, EvaluationError> {
    text(whole.chars().map(change).collect::<String>())
}

/// Returns the upper case of a character, which is one character as in Go: `ß` stays.
fn upper(character: char) -> char {
    let mut mapped = character.to_uppercase();
    match (mapped.next(), mapped.next()) {
        (Some(one), None) => one,
        // Greek letters with iota have a title case, which Go takes.
        _ => match character {
            '\u{1f80}'..='\u{1faf}' => char::from_u32(u32::from(character) | 8).unwrap_or(character),
            '\u{1fb3}' | '\u{1fc3}' | '\u{1ff3}' => char::from_u32(u32::from(character) + 9).unwrap_or(character),
            _ => character,
        },
    }
}

/// Returns the lower case of a character, which is one character as in Go.
fn lower(character: char) -> char {
    character.to_lowercase().next().unwrap_or(character)
}

fn text(text: impl Into<Arc<str>>) -> Result<ExprValue, EvaluationError> {
    let text: Arc<str> = text.into();
    if text.len() > MAX_TEXT { Err(EvaluationError::Memory) } else { Ok(ExprValue::Text(text)) }
}

fn array(items: Vec<ExprValue>) -> Result<ExprValue, EvaluationError> {
    if items.len() > MAX_ITEMS { Err(EvaluationError::Memory) } else { Ok(ExprValue::Array(items.into())) }
}

fn aggregate(name: &str, types: &[Type]) -> Result<Type, String> {
    if types.is_empty() {
        return Err(format!("not enough arguments to call {name}"));
    }
    for of in types {
        if of.is_array() || of.is_unknown() {
            return Ok(Type::Unknown);
        }
        if !of.is_number() {
            return Err(format!("invalid argument for {name} (type {of})"));
        }
    }
    Ok(types[0].clone())
}

/// Collects the numbers of nested lists, up to the limit of items.
fn numbers(name: &str, values: &[ExprValue], out: &mut Vec<ExprValue>) -> Result<(), EvaluationError> {
    for value in values {
        match value {
            ExprValue::Int(_) | ExprValue::Float(_) => out.push(value.clone()),
            ExprValue::Array(items) => numbers(name, items, out)?,
            ExprValue::Bytes(bytes) => out.extend(bytes.iter().map(|byte| ExprValue::Int((*byte).into()))),
            other => {
                return EvaluationError::words(format!("invalid argument for {name} (type {})", other.type_name()));
            }
        }
        if out.len() > MAX_ITEMS {
            return Err(EvaluationError::Memory);
        }
    }
    Ok(())
}

fn extreme(builtin: Builtin, values: &[ExprValue]) -> Result<ExprValue, EvaluationError> {
    // A single value that is not a number is its own extreme.
    if let [only @ (ExprValue::Nil | ExprValue::Bool(_) | ExprValue::Text(_) | ExprValue::Map(_))] = values {
        return Ok(only.clone());
    }
    let mut all = Vec::new();
    numbers(builtin.name(), values, &mut all)?;
    let mut best: Option<ExprValue> = None;
    for value in all {
        let is_better = match &best {
            None => true,
            Some(best) => {
                let order = compare(&value, best)?;
                if builtin == Builtin::Max { order.is_gt() } else { order.is_lt() }
            }
        };
        if is_better {
            best = Some(value);
        }
    }
    Ok(best.unwrap_or(ExprValue::Nil))
}

fn average(builtin: Builtin, values: &[ExprValue]) -> Result<ExprValue, EvaluationError> {
    let mut all = Vec::new();
    numbers(builtin.name(), values, &mut all)?;
    let mut all: Vec<f64> = all.iter().filter_map(ExprValue::as_float).collect();
    if all.is_empty() {
        return Ok(ExprValue::Float(0.0));
    }
    if builtin == Builtin::Mean {
        return Ok(ExprValue::Float(all.iter().sum::<f64>() / all.len() as f64));
    }
    all.sort_by(f64::total_cmp);
    let middle = all.len() / 2;
    Ok(ExprValue::Float(if all.len() % 2 == 1 { all[middle] } else { (all[middle - 1] + all[middle]) / 2.0 }))
}

fn flatten(items: &[ExprValue], out: &mut Vec<ExprValue>) -> Result<(), EvaluationError> {
    for item in items {
        match item {
            ExprValue::Array(items) => flatten(items, out)?,
            item => out.push(item.clone()),
        }
        if out.len() > MAX_ITEMS {
            return Err(EvaluationError::Memory);
        }
    }
    Ok(())
}

/// Splits as Go's `strings.Split` and `SplitAfter`, into at most `limit` parts.
fn split(whole: &str, separator: &str, after: bool, limit: Option<i64>) -> Result<ExprValue, EvaluationError> {
    let limit = match limit {
        Some(0) => return Ok(ExprValue::Nil),
        Some(limit @ 1..) => usize::try_from(limit).unwrap_or(usize::MAX),
        _ => usize::MAX,
    };
    let parts: Vec<&str> = if separator.is_empty() {
        // Each character is a part; the last part has the rest.
        let ends = whole.char_indices().map(|(at, _)| at).skip(1).take(limit - 1).chain([whole.len()]);
        let mut start = 0;
        let parts = ends.map(|end| &whole[std::mem::replace(&mut start, end)..end]).collect();
        if whole.is_empty() { Vec::new() } else { parts }
    } else if after {
        let mut parts: Vec<&str> = whole.splitn(limit, separator).collect();
        let mut start = 0;
        let last = parts.len() - 1;
        for (at, part) in parts.iter_mut().enumerate() {
            let end = start + part.len() + if at < last { separator.len() } else { 0 };
            *part = &whole[start..end];
            start = end;
        }
        parts
    } else {
        whole.splitn(limit, separator).collect()
    };
    array(parts.into_iter().map(ExprValue::text).collect())
}

fn replace(whole: &str, from: &str, to: &str, limit: Option<i64>) -> Result<ExprValue, EvaluationError> {
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let count = whole.matches(from).take(limit).count();
    if whole.len() + count.saturating_mul(to.len()) > 2 * MAX_TEXT {
        return Err(EvaluationError::Memory);
    }
    text(whole.replacen(from, to, limit))
}

fn join(arguments: &[ExprValue]) -> Result<ExprValue, EvaluationError> {
    let glue = match arguments.get(1) {
        Some(ExprValue::Text(glue)) => glue,
        _ => "",
    };
    let Some(ExprValue::Array(items)) = arguments.first() else {
        return EvaluationError::words("invalid argument for join");
    };
    let mut joined = String::new();
    for (at, item) in items.iter().enumerate() {
        let ExprValue::Text(item) = item else {
            return EvaluationError::words(format!(
                "interface conversion: interface {{}} is {}, not string",
                item.type_name()
            ));
        };
        if at > 0 {
            joined.push_str(glue);
        }
        joined.push_str(item);
        if joined.len() > MAX_TEXT {
            return Err(EvaluationError::Memory);
        }
    }
    text(joined)
}

fn from_json(json: &serde_json::Value) -> ExprValue {
    match json {
        serde_json::Value::Null => ExprValue::Nil,
        serde_json::Value::Bool(value) => ExprValue::Bool(*value),
        // Go reads every number as floating-point.
        serde_json::Value::Number(number) => ExprValue::Float(number.as_f64().unwrap_or(f64::NAN)),
        serde_json::Value::String(text) => ExprValue::text(text.as_str()),
        serde_json::Value::Array(items) => ExprValue::Array(items.iter().map(from_json).collect()),
        serde_json::Value::Object(entries) => {
            ExprValue::map(entries.iter().map(|(key, value)| (ExprValue::text(key.as_str()), from_json(value))))
        }
    }
}

fn to_json(value: &ExprValue) -> Result<ExprValue, EvaluationError> {
    fn json(value: &ExprValue) -> Option<serde_json::Value> {
        Some(match value {
            ExprValue::Nil => serde_json::Value::Null,
            ExprValue::Bool(value) => (*value).into(),
            ExprValue::Int(number) => (*number).into(),
            // Go writes whole numbers without a fraction.
            ExprValue::Float(number) if number.fract() == 0.0 && number.abs() < 1e15 => (*number as i64).into(),
            ExprValue::Float(number) => serde_json::Number::from_f64(*number)?.into(),
            ExprValue::Text(text) => (**text).into(),
            ExprValue::Bytes(bytes) => BASE64.encode(bytes).into(),
            ExprValue::Array(items) => serde_json::Value::Array(items.iter().map(json).collect::<Option<_>>()?),
            ExprValue::Map(entries) => {
                let entries = entries.iter().map(|(key, value)| Some((key.to_string(), json(value)?)));
                serde_json::Value::Object(entries.collect::<Option<_>>()?)
            }
        })
    }
    let Some(json) = json(value) else { return EvaluationError::words("json: unsupported value") };
    let written = serde_json::to_string_pretty(&json).map_err(|error| EvaluationError::Words(error.to_string()))?;
    // Go escapes these in strings; they occur nowhere else in JSON.
    text(written.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026"))
}
