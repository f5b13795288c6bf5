//! What expressions evaluate to.

use std::cell::RefCell;
use std::rc::Rc;

use super::parser::Macro;
use super::{Fault, Result};

/// Deepest nesting of lists and maps: bounds every walk over a value, dropping included.
const MAX_DEPTH: u8 = 32;

/// A value. Cloning is cheap: contents are shared.
#[derive(Clone)]
pub(super) enum Value<'t> {
    Undefined,
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Rc<str>),
    List(Rc<List<'t>>),
    Map(Rc<Map<'t>>),
    /// Variables that outlive a loop's round. No list, map or namespace can hold one: no cycles.
    Namespace(Rc<RefCell<Vec<(String, Value<'t>)>>>),
    Loop(Rc<Loop<'t>>),
    Macro(&'t Macro),
    Function(Function),
}

/// A list or tuple.
pub(super) struct List<'t> {
    pub items: Vec<Value<'t>>,
    pub tuple: bool,
    depth: u8,
}

/// A dictionary in order of insertion.
pub(super) struct Map<'t> {
    pub entries: Vec<(Value<'t>, Value<'t>)>,
    depth: u8,
}

/// The variable `loop`.
pub(super) struct Loop<'t> {
    pub items: Rc<[Value<'t>]>,
    pub index: usize,
}

/// Functions that every template has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Namespace,
    Range,
    Dict,
    RaiseException,
    StrftimeNow,
}

impl<'t> Value<'t> {
    pub fn text(text: impl Into<Rc<str>>) -> Self {
        Self::Text(text.into())
    }

    /// A list of `items`; what it costs is the caller's business.
    pub fn list(items: Vec<Self>, tuple: bool) -> Result<Self> {
        let depth = depth_over(items.iter())?;
        Ok(Self::List(Rc::new(List { items, tuple, depth })))
    }

    /// A map of `entries` with different keys.
    pub fn map(entries: Vec<(Self, Self)>) -> Result<Self> {
        let depth = depth_over(entries.iter().flat_map(|(key, value)| [key, value]))?;
        Ok(Self::Map(Rc::new(Map { entries, depth })))
    }

    /// Levels of lists and maps; `None` for what no list, map or namespace may hold.
    pub fn depth(&self) -> Option<u8> {
        match self {
            Self::Namespace(_) | Self::Loop(_) => None,
            Self::List(list) => Some(list.depth),
            Self::Map(map) => Some(map.depth),
            _ => Some(0),
        }
    }

    /// The kind, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Undefined => "undefined",
            Self::None => "none",
            Self::Bool(_) => "a boolean",
            Self::Int(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
            Self::Namespace(_) => "a namespace",
            Self::Loop(_) => "a loop",
            Self::Macro(_) | Self::Function(_) => "a function",
        }
    }

    pub fn is_true(&self) -> bool {
        match self {
            Self::Undefined | Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(list) => !list.items.is_empty(),
            Self::Map(map) => !map.entries.is_empty(),
            _ => true,
        }
    }

    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Numbers and booleans as a number.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Bool(value) => Some(f64::from(u8::from(*value))),
            Self::Int(value) => Some(*value as f64),
            Self::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// Integers and booleans as an integer.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Bool(value) => Some(i64::from(*value)),
            Self::Int(value) => Some(*value),
            _ => None,
        }
    }
}

fn depth_over<'v, 't: 'v>(mut values: impl Iterator<Item = &'v Value<'t>>) -> Result<u8> {
    let deepest = values.try_fold(0, |deepest: u8, value| {
        let depth = value
            .depth()
            .ok_or_else(|| Fault::new(format!("{} cannot be put into a list or mapping", value.kind())))?;
        Ok(deepest.max(depth))
    })?;
    if deepest >= MAX_DEPTH {
        return Err(Fault::new(format!("lists or mappings nested more than {MAX_DEPTH} deep")));
    }
    Ok(deepest + 1)
}
