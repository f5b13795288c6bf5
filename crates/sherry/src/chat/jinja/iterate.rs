//! Going through values: loops, and generators that make their items when they are asked for.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::call::Args;
use super::dict::Dict;
use super::filters::select::{self, Recipe};
use super::interpreter::Interpreter;
use super::meter::Meter;
use super::operators::equal;
use super::syntax::ast::{Condition, For};
use super::text::Text;
use super::value::{Range, Sequence, Value, View, depth_over};
use super::{Fault, Result};

/// Where the next items come from.
pub(super) enum Source<'t> {
    Empty,
    /// Items of a list or tuple, and which is next.
    Items(Rc<Sequence<'t>>, usize),
    /// How many are left, from the end.
    ItemsReversed(Rc<Sequence<'t>>, usize),
    /// Characters of a text, and the byte of the next.
    Chars(Text, usize),
    CharsReversed(Text, usize),
    Range(Range, usize),
    RangeReversed(Range, usize),
    Dict(View, Rc<Dict<'t>>, usize),
    DictReversed(View, Rc<Dict<'t>>, usize),
    /// The items that a loop has left, each with the loop.
    Loop(Rc<LoopState<'t>>),
    /// What a generator has left.
    Generator(Rc<Generator<'t>>),
    /// A filter that makes items one by one.
    Filter(Box<select::Running<'t>>),
    /// The items for which the condition of a loop holds; the condition has variables of its own.
    Chosen(Box<Source<'t>>, &'t Condition, usize),
}

/// What can be gone through once, by whoever asks next.
pub(super) struct Generator<'t> {
    state: RefCell<State<'t>>,
    pub depth: u16,
}

enum State<'t> {
    /// A filter that nobody has asked for an item yet, and what it is applied to.
    Waiting(Recipe<'t>, Value<'t>),
    Running(Source<'t>),
    /// Making an item just now.
    Busy,
}

impl<'t> Generator<'t> {
    pub fn waiting(meter: &Meter, recipe: Recipe<'t>, value: Value<'t>) -> Result<Value<'t>> {
        let depth = depth_over(recipe.values().into_iter().chain([&value]))?;
        Self::of(meter, State::Waiting(recipe, value), depth)
    }

    /// An iterator over `value`.
    pub fn running(meter: &Meter, source: Source<'t>, value: &Value<'t>) -> Result<Value<'t>> {
        Self::of(meter, State::Running(source), depth_over([value].into_iter())?)
    }

    fn of(meter: &Meter, state: State<'t>, depth: u16) -> Result<Value<'t>> {
        meter.bytes(size_of::<Self>() + 32)?;
        Ok(Value::Generator(Rc::new(Self { state: RefCell::new(state), depth })))
    }
}

/// The variable `loop`.
pub(super) struct LoopState<'t> {
    source: RefCell<Source<'t>>,
    /// What is gone through, if it has a length.
    whole: Value<'t>,
    length: Cell<Option<usize>>,
    /// The rounds begun.
    index: Cell<usize>,
    before: RefCell<Option<Value<'t>>>,
    current: RefCell<Option<Value<'t>>>,
    /// The next item, if somebody looked.
    after: RefCell<Option<Value<'t>>>,
    changed: RefCell<Option<Value<'t>>>,
    /// Of a recursive loop: itself, and the call in which it stands.
    pub recursion: Option<(&'t For, usize)>,
    /// How many recursive calls are around.
    pub depth0: usize,
    pub depth: u16,
}

impl<'t> LoopState<'t> {
    pub fn new(
        meter: &Meter,
        source: Source<'t>,
        whole: Value<'t>,
        recursion: Option<(&'t For, usize)>,
        depth0: usize,
    ) -> Result<Self> {
        meter.bytes(size_of::<Self>() + 32)?;
        let depth = depth_over([&whole].into_iter())?;
        Ok(Self {
            source: RefCell::new(source),
            whole,
            length: Cell::new(None),
            index: Cell::new(0),
            before: RefCell::new(None),
            current: RefCell::new(None),
            after: RefCell::new(None),
            changed: RefCell::new(None),
            recursion,
            depth0,
            depth,
        })
    }

    /// The rounds begun.
    pub fn index(&self) -> usize {
        self.index.get()
    }

    pub fn forget(&self) {
        self.changed.replace(None);
    }
}

fn busy<E>(_: E) -> Box<Fault> {
    Fault::new("generator already executing")
}

impl<'t> Interpreter<'t> {
    /// Python's `iter(value)`.
    pub fn iterate(&mut self, value: &Value<'t>) -> Result<Source<'t>> {
        Ok(match value {
            Value::Undefined(_) => Source::Empty,
            Value::List(sequence) | Value::Tuple(sequence) => Source::Items(sequence.clone(), 0),
            // The characters of `Markup` are ordinary texts.
            Value::Text(text) => Source::Chars(text.with_markup(self.meter, false)?, 0),
            Value::Range(range) => Source::Range(**range, 0),
            Value::Dict(dict) => Source::Dict(View::Keys, dict.clone(), 0),
            Value::View(view, dict) => Source::Dict(*view, dict.clone(), 0),
            Value::Generator(generator) => Source::Generator(generator.clone()),
            Value::Loop(state) => Source::Loop(state.clone()),
            _ => return Err(Fault::new(format!("'{}' object is not iterable", value.kind()))),
        })
    }

    /// Python's `reversed(value)`, if the value can be gone through backwards.
    pub fn reversed(&mut self, value: &Value<'t>) -> Option<Source<'t>> {
        Some(match value {
            Value::Undefined(_) => Source::Empty,
            Value::List(sequence) | Value::Tuple(sequence) => {
                Source::ItemsReversed(sequence.clone(), sequence.items.len())
            }
            Value::Text(text) => Source::CharsReversed(text.clone(), text.len()),
            Value::Range(range) => Source::RangeReversed(**range, range.length),
            Value::Dict(dict) => Source::DictReversed(View::Keys, dict.clone(), dict.len()),
            Value::View(view, dict) => Source::DictReversed(*view, dict.clone(), dict.len()),
            _ => return None,
        })
    }

    /// The next item.
    pub fn advance(&mut self, source: &mut Source<'t>) -> Result<Option<Value<'t>>> {
        self.meter.step()?;
        let next = |at: &mut usize| {
            *at += 1;
            *at - 1
        };
        let previous = |at: &mut usize| {
            *at = at.checked_sub(1)?;
            Some(*at)
        };
        Ok(match source {
            Source::Empty => None,
            Source::Items(sequence, at) => sequence.items.get(next(at)).cloned(),
            Source::ItemsReversed(sequence, at) => previous(at).and_then(|at| sequence.items.get(at)).cloned(),
            Source::Chars(text, at) => match text.as_str()[*at..].chars().next() {
                None => None,
                Some(c) => {
                    let start = *at;
                    *at += c.len_utf8();
                    Some(Value::Text(text.slice(self.meter, start..*at)?))
                }
            },
            Source::CharsReversed(text, at) => match text.as_str()[..*at].chars().next_back() {
                None => None,
                Some(c) => {
                    let end = *at;
                    *at -= c.len_utf8();
                    Some(Value::Text(text.slice(self.meter, *at..end)?))
                }
            },
            Source::Range(range, at) if *at < range.length => Some(Value::Int(range.get(next(at)))),
            Source::Range(..) => None,
            Source::RangeReversed(range, at) => previous(at).map(|at| Value::Int(range.get(at))),
            Source::Dict(view, dict, at) => self.entry(*view, dict, next(at))?,
            Source::DictReversed(view, dict, at) => match previous(at) {
                Some(at) => self.entry(*view, dict, at)?,
                None => None,
            },
            Source::Loop(state) => {
                let state = state.clone();
                match self.next_round(&state)? {
                    Some(item) => Some(Value::pair(self.meter, item, Value::Loop(state))?),
                    None => None,
                }
            }
            Source::Generator(generator) => {
                let generator = generator.clone();
                self.nested(|this| this.resume(&generator))?
            }
            Source::Filter(running) => self.nested(|this| select::advance(this, running))?,
            Source::Chosen(source, condition, activation) => {
                let (condition, activation) = (*condition, *activation);
                loop {
                    let Some(item) = self.advance(source)? else { break None };
                    if self.holds(condition, activation, &item)? {
                        break Some(item);
                    }
                }
            }
        })
    }

    fn entry(&mut self, view: View, dict: &Dict<'t>, at: usize) -> Result<Option<Value<'t>>> {
        let Some((key, value)) = dict.entry(at) else { return Ok(None) };
        Ok(Some(match view {
            View::Keys => key.clone(),
            View::Values => value.clone(),
            View::Items => Value::pair(self.meter, key.clone(), value.clone())?,
        }))
    }

    fn resume(&mut self, generator: &Generator<'t>) -> Result<Option<Value<'t>>> {
        let mut source = match generator.state.replace(State::Busy) {
            State::Busy => return Err(busy(())),
            State::Running(source) => source,
            State::Waiting(recipe, value) => select::begin(self, recipe, &value)?,
        };
        let item = self.advance(&mut source)?;
        if item.is_none() {
            source = Source::Empty;
        }
        generator.state.replace(State::Running(source));
        Ok(item)
    }

    /// The items that the condition of a loop lets through; `parent` is the call in which the loop stands.
    pub fn choose(&mut self, source: Source<'t>, condition: &'t Condition, parent: usize) -> Result<Source<'t>> {
        // The variables stay until the end of the rendering: the loop may be kept, and gone on with later.
        let visible = self.visible();
        let activation = self.allocate(&condition.function, parent, visible)?;
        self.within(activation, |this| this.enter(&condition.function.scope));
        Ok(Source::Chosen(Box::new(source), condition, activation))
    }

    fn holds(&mut self, condition: &'t Condition, activation: usize, item: &Value<'t>) -> Result<bool> {
        self.within(activation, |this| {
            this.assign(&condition.target, item.clone())?;
            Ok(this.eval(&condition.test)?.is_true())
        })
    }

    /// All items.
    pub fn items(&mut self, value: &Value<'t>) -> Result<Vec<Value<'t>>> {
        let mut source = self.iterate(value)?;
        self.rest(&mut source)
    }

    fn rest(&mut self, source: &mut Source<'t>) -> Result<Vec<Value<'t>>> {
        let mut items = Vec::new();
        while let Some(item) = self.advance(source)? {
            self.meter.slots(1)?;
            items.push(item);
        }
        Ok(items)
    }

    /// Python's `len(value)`.
    pub fn length(&mut self, value: &Value<'t>) -> Result<usize> {
        match value {
            Value::Loop(state) => self.loop_length(state),
            _ => match sized(self.meter, value)? {
                Some(length) => Ok(length),
                None => Err(Fault::new(format!("object of type '{}' has no len()", value.kind()))),
            },
        }
    }

    // ---- loops ----

    /// The item of the next round of a loop.
    pub fn next_round(&mut self, state: &LoopState<'t>) -> Result<Option<Value<'t>>> {
        let item = match state.after.take() {
            None => self.pull(state)?,
            ahead => ahead,
        };
        if let Some(item) = &item {
            state.index.set(state.index.get() + 1);
            let last = state.current.replace(Some(item.clone()));
            state.before.replace(last);
        }
        Ok(item)
    }

    fn pull(&mut self, state: &LoopState<'t>) -> Result<Option<Value<'t>>> {
        let mut source = state.source.try_borrow_mut().map_err(busy)?;
        self.advance(&mut source)
    }

    /// The item behind the one at hand.
    fn peek(&mut self, state: &LoopState<'t>) -> Result<Option<Value<'t>>> {
        if state.after.borrow().is_none() {
            let item = self.pull(state)?;
            state.after.replace(item);
        }
        Ok(state.after.borrow().clone())
    }

    fn loop_length(&mut self, state: &LoopState<'t>) -> Result<usize> {
        if let Some(length) = state.length.get() {
            return Ok(length);
        }
        let length = match sized(self.meter, &state.whole)? {
            Some(length) => length,
            None => {
                let mut source = state.source.try_borrow_mut().map_err(busy)?;
                let rest = Sequence::new(self.rest(&mut source)?)?;
                let length = rest.items.len() + state.index.get() + usize::from(state.after.borrow().is_some());
                *source = Source::Items(rest, 0);
                length
            }
        };
        state.length.set(Some(length));
        Ok(length)
    }

    pub fn loop_attribute(&mut self, state: &LoopState<'t>, name: &str) -> Result<Option<Value<'t>>> {
        let index = state.index.get() as i64;
        let length = |this: &mut Self| this.loop_length(state).map(|length| length as i64);
        Ok(Some(match name {
            "index" => Value::Int(index),
            "index0" => Value::Int(index - 1),
            "length" => Value::Int(length(self)?),
            "revindex" => Value::Int(length(self)? - index + 1),
            "revindex0" => Value::Int(length(self)? - index),
            "first" => Value::Bool(index == 1),
            "last" => Value::Bool(self.peek(state)?.is_none()),
            "depth" => Value::index(state.depth0 + 1),
            "depth0" => Value::index(state.depth0),
            "previtem" => match state.before.borrow().clone() {
                Some(item) if index != 1 => item,
                _ => Value::hint("there is no previous item"),
            },
            "nextitem" => self.peek(state)?.unwrap_or(Value::hint("there is no next item")),
            _ => return Ok(None),
        }))
    }

    /// `loop.cycle(...)`: the arguments in turn.
    pub fn loop_cycle(&mut self, state: &LoopState<'t>, arguments: Args<'t>) -> Result<Value<'t>> {
        let count = arguments.positional.len();
        if count == 0 || !arguments.named.is_empty() {
            return Err(Fault::new("no items for cycling given"));
        }
        let at = (state.index.get() + count - 1) % count;
        arguments.positional.into_iter().nth(at).ok_or_else(|| Fault::new("no items for cycling given"))
    }

    /// `loop.changed(...)`: whether the arguments differ from those of the last call.
    pub fn loop_changed(&mut self, state: &LoopState<'t>, arguments: Args<'t>) -> Result<Value<'t>> {
        if !arguments.named.is_empty() {
            return Err(Fault::new("changed takes no keyword arguments"));
        }
        let value = Value::tuple(arguments.positional)?;
        let last = state.changed.borrow().clone();
        if let Some(last) = last
            && equal(self.meter, &last, &value)?
        {
            return Ok(Value::Bool(false));
        }
        state.changed.replace(Some(value));
        Ok(Value::Bool(true))
    }
}

/// The length of what has one without being gone through.
pub(super) fn sized(meter: &Meter, value: &Value<'_>) -> Result<Option<usize>> {
    Ok(Some(match value {
        Value::Undefined(_) => 0,
        Value::Text(text) => text.chars(meter)?,
        Value::List(sequence) | Value::Tuple(sequence) => sequence.items.len(),
        Value::Dict(dict) | Value::View(_, dict) => dict.len(),
        Value::Range(range) => range.length,
        _ => return Ok(None),
    }))
}
