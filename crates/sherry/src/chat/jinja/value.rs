//! What expressions evaluate to.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use num_bigint::BigInt;
use num_traits::{Signed, ToPrimitive, Zero};

use super::dict::Dict;
use super::iterate::{Generator, LoopState};
use super::meter::Meter;
use super::syntax::ast::Macro;
use super::text::Text;
use super::{Fault, Result};

/// Deepest nesting of lists, mappings and what holds other values: bounds every walk over a value, dropping included.
pub(super) const MAX_DEPTH: u16 = 200;
/// Longest integer in bits.
const MAX_INT_BITS: u64 = 1 << 16;

/// A value. Cloning is cheap: contents are shared. Only namespaces change, and they are held by number: values never
/// form a cycle.
#[derive(Clone)]
pub(super) enum Value<'t> {
    Undefined(Missing<'t>),
    None,
    Bool(bool),
    Int(i64),
    /// An integer that does not fit into 64 bits.
    Big(Rc<BigInt>),
    Float(f64),
    Text(Text),
    List(Rc<Sequence<'t>>),
    Tuple(Rc<Sequence<'t>>),
    Dict(Rc<Dict<'t>>),
    /// The keys, values or items of a mapping.
    View(View, Rc<Dict<'t>>),
    Range(Rc<Range>),
    /// What can be gone through once.
    Generator(Rc<Generator<'t>>),
    Namespace(usize),
    Loop(Rc<LoopState<'t>>),
    Macro(Rc<Closure<'t>>),
    Function(Function),
    Method(Rc<(Value<'t>, &'static str)>),
    Cycler(Rc<Cycler<'t>>),
    Joiner(Rc<(Value<'t>, Cell<bool>)>),
    /// `self`: all blocks, with the variables that are visible in them.
    This(Visible<'t>),
    Block(usize, Visible<'t>),
}

/// Variables that a scoped block sees besides the globals.
pub(super) type Visible<'t> = Option<Rc<HashMap<&'t str, Value<'t>>>>;

/// A list or a tuple.
pub(super) struct Sequence<'t> {
    pub items: Vec<Value<'t>>,
    /// A pair made by `groupby`, whose parts also have names.
    pub grouped: bool,
    pub depth: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    Keys,
    Values,
    Items,
}

/// Why something is undefined.
#[derive(Clone)]
pub(super) enum Missing<'t> {
    Variable(&'t str),
    Parameter(&'t str),
    /// Of what kind of object, and which attribute.
    Attribute(&'static str, &'t str),
    Hint(&'static str),
    Told(Rc<str>),
    /// An attribute that templates may not use, which is an error of its own.
    Unsafe(Rc<str>),
}

impl Missing<'_> {
    pub fn message(&self) -> String {
        match self {
            Self::Variable(name) => format!("'{name}' is undefined"),
            Self::Parameter(name) => format!("parameter '{name}' was not provided"),
            Self::Attribute(kind, name) => format!("'{kind} object' has no attribute '{name}'"),
            Self::Hint(hint) => (*hint).into(),
            Self::Told(message) | Self::Unsafe(message) => message.to_string(),
        }
    }

    /// What using it is.
    pub fn fault(&self) -> Box<Fault> {
        Fault::new(self.message())
    }
}

/// Whole numbers with equal distances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub start: i64,
    pub stop: i64,
    pub step: i64,
    pub length: usize,
}

impl Range {
    pub fn new(start: i64, stop: i64, step: i64) -> Option<Self> {
        let distance =
            if step > 0 { i128::from(stop) - i128::from(start) } else { i128::from(start) - i128::from(stop) };
        let size = i128::from(step).abs();
        let length = if distance > 0 { (distance + size - 1) / size } else { 0 };
        Some(Self { start, stop, step, length: usize::try_from(length).ok()? })
    }

    /// Number `index`, which exists.
    pub fn get(&self, index: usize) -> i64 {
        self.start + index as i64 * self.step
    }

    /// Where `value` stands.
    pub fn find(&self, value: i64) -> Option<usize> {
        let distance = i128::from(value) - i128::from(self.start);
        let index = usize::try_from(distance / i128::from(self.step)).ok()?;
        (distance % i128::from(self.step) == 0 && index < self.length).then_some(index)
    }
}

/// A macro with the variables around it.
pub(super) struct Closure<'t> {
    pub definition: &'t Macro,
    /// Number of the call in which it was defined.
    pub activation: usize,
}

pub(super) struct Cycler<'t> {
    pub items: Rc<Sequence<'t>>,
    pub position: Cell<usize>,
}

/// Functions that every template has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Range,
    Dict,
    Namespace,
    Cycler,
    Joiner,
    Lipsum,
    RaiseException,
    StrftimeNow,
}

/// A namespace: values by name.
pub(super) type Namespace<'t> = RefCell<Dict<'t>>;

impl<'t> Value<'t> {
    /// A text without marks.
    pub fn plain(meter: &Meter, text: impl AsRef<str>) -> Result<Self> {
        Ok(Self::Text(Text::plain(meter, text)?))
    }

    /// A list of `items`, whose slots are paid for.
    pub fn list(items: Vec<Self>) -> Result<Self> {
        Ok(Self::List(Sequence::new(items)?))
    }

    /// A tuple of `items`, whose slots are paid for.
    pub fn tuple(items: Vec<Self>) -> Result<Self> {
        Ok(Self::Tuple(Sequence::new(items)?))
    }

    pub fn pair(meter: &Meter, first: Self, second: Self) -> Result<Self> {
        meter.slots(2)?;
        Self::tuple(vec![first, second])
    }

    pub fn hint(hint: &'static str) -> Self {
        Self::Undefined(Missing::Hint(hint))
    }

    /// An integer in its shortest form.
    pub fn int(meter: &Meter, value: impl Into<BigInt>) -> Result<Self> {
        let value = value.into();
        if let Some(small) = value.to_i64() {
            return Ok(Self::Int(small));
        }
        if value.bits() > MAX_INT_BITS {
            return Err(Fault::new(format!("an integer of {} bits, more than {MAX_INT_BITS}", value.bits())));
        }
        meter.bytes(value.bits() as usize / 8 + 32)?;
        Ok(Self::Big(Rc::new(value)))
    }

    pub fn index(value: usize) -> Self {
        Self::Int(value as i64)
    }

    /// Levels of values inside of values.
    pub fn depth(&self) -> u16 {
        match self {
            Self::List(sequence) | Self::Tuple(sequence) => sequence.depth,
            Self::Dict(dict) | Self::View(_, dict) => dict.depth(),
            Self::Generator(generator) => generator.depth,
            Self::Loop(state) => state.depth,
            Self::Method(method) => method.0.depth() + 1,
            Self::Joiner(joiner) => joiner.0.depth() + 1,
            Self::Cycler(cycler) => cycler.items.depth,
            _ => 0,
        }
    }

    /// The name of the type in Python.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "None",
            Self::Bool(_) => "bool",
            Self::Int(_) | Self::Big(_) => "int",
            Self::Float(_) => "float",
            Self::Text(text) if text.is_markup() => "Markup",
            Self::Text(_) => "str",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::View(View::Keys, _) => "dict_keys",
            Self::View(View::Values, _) => "dict_values",
            Self::View(View::Items, _) => "dict_items",
            Self::Range(_) => "range",
            Self::Generator(_) => "generator",
            Self::Namespace(_) => "Namespace",
            Self::Loop(_) => "LoopContext",
            Self::Macro(_) => "Macro",
            Self::Function(_) => "function",
            Self::Method(_) => "method",
            Self::Cycler(_) => "Cycler",
            Self::Joiner(_) => "Joiner",
            Self::This(_) => "TemplateReference",
            Self::Block(..) => "BlockReference",
        }
    }

    pub fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_))
    }

    pub fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Big(value) => !value.is_zero(),
            Self::Float(value) => *value != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(sequence) | Self::Tuple(sequence) => !sequence.items.is_empty(),
            Self::Dict(dict) | Self::View(_, dict) => dict.len() > 0,
            Self::Range(range) => range.length > 0,
            _ => true,
        }
    }

    pub fn as_text(&self) -> Option<&Text> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        self.as_text().map(Text::as_str)
    }

    /// Integers and booleans as an integer.
    pub fn as_big(&self) -> Option<BigInt> {
        match self {
            Self::Bool(value) => Some(i64::from(*value).into()),
            Self::Int(value) => Some((*value).into()),
            Self::Big(value) => Some((**value).clone()),
            _ => None,
        }
    }

    /// Integers and booleans as an integer; what does not fit becomes the nearest that does.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Bool(value) => Some(i64::from(*value)),
            Self::Int(value) => Some(*value),
            Self::Big(value) => Some(if value.is_negative() { i64::MIN } else { i64::MAX }),
            _ => None,
        }
    }

    /// Whether both are one and the same object.
    pub fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Undefined(_), Self::Undefined(_)) => false,
            (Self::None, Self::None) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Big(a), Self::Big(b)) => Rc::ptr_eq(a, b),
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::Text(a), Self::Text(b)) => {
                // Python keeps one object of each string of a single Latin letter.
                let single = |text: &Text| !text.is_markup() && text.as_str().chars().all(|c| c <= '\u{ff}');
                let short = |text: &Text| text.len() <= 2 && text.as_str().chars().count() <= 1;
                a.same(b) || (short(a) && single(a) && single(b) && a.as_str() == b.as_str())
            }
            (Self::List(a), Self::List(b)) => Rc::ptr_eq(a, b),
            // There is only one empty tuple.
            (Self::Tuple(a), Self::Tuple(b)) => Rc::ptr_eq(a, b) || (a.items.is_empty() && b.items.is_empty()),
            (Self::Dict(a), Self::Dict(b)) => Rc::ptr_eq(a, b),
            (Self::Range(a), Self::Range(b)) => Rc::ptr_eq(a, b),
            (Self::Generator(a), Self::Generator(b)) => Rc::ptr_eq(a, b),
            (Self::Namespace(a), Self::Namespace(b)) => a == b,
            (Self::Loop(a), Self::Loop(b)) => Rc::ptr_eq(a, b),
            (Self::Macro(a), Self::Macro(b)) => Rc::ptr_eq(a, b),
            (Self::Function(a), Self::Function(b)) => a == b,
            (Self::Cycler(a), Self::Cycler(b)) => Rc::ptr_eq(a, b),
            (Self::Joiner(a), Self::Joiner(b)) => Rc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl<'t> Sequence<'t> {
    /// What costs nothing: the slots are paid for.
    pub fn new(items: Vec<Value<'t>>) -> Result<Rc<Self>> {
        let depth = depth_over(items.iter())?;
        Ok(Rc::new(Self { items, grouped: false, depth }))
    }
}

/// The depth of what holds these values.
pub(super) fn depth_over<'v, 't: 'v>(values: impl Iterator<Item = &'v Value<'t>>) -> Result<u16> {
    let deepest = values.map(Value::depth).max().unwrap_or(0);
    if deepest >= MAX_DEPTH {
        return Err(Fault::limit(&format!("nests values more than {MAX_DEPTH} deep")));
    }
    Ok(deepest + 1)
}
