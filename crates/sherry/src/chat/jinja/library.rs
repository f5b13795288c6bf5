//! Filters, tests and methods.

use super::eval::{Interpreter, SLOT, Values};
use super::operators::float_text;
use super::value::Value;
use super::{Fault, Result};

macro_rules! names {
    ($(#[$doc:meta])* $type:ident { $($variant:ident: $($name:literal)|+,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum $type { $($variant,)* }

        impl $type {
            /// The one of that name.
            pub fn named(name: &str) -> Option<Self> {
                Some(match name {
                    $($($name)|+ => Self::$variant,)*
                    _ => return None,
                })
            }
        }
    };
}

names! {
    /// What stands behind `|`.
    Filter {
        Trim: "trim", Length: "length" | "count", Upper: "upper", Lower: "lower", Capitalize: "capitalize",
        Title: "title", Replace: "replace", Join: "join", First: "first", Last: "last", List: "list",
        Text: "string", Int: "int", Float: "float", Default: "default" | "d", ToJson: "tojson", Safe: "safe",
        Reverse: "reverse", Items: "items", Map: "map", Select: "select", Reject: "reject",
        SelectAttr: "selectattr", RejectAttr: "rejectattr", Indent: "indent", Unique: "unique", Sort: "sort",
        Abs: "abs", DictSort: "dictsort",
    }
}

names! {
    /// What stands behind `is`.
    Test {
        Defined: "defined", Undefined: "undefined", None: "none", Boolean: "boolean", True: "true", False: "false",
        Integer: "integer", Float: "float", Number: "number", String: "string", Mapping: "mapping",
        Sequence: "sequence", Iterable: "iterable", Callable: "callable", Odd: "odd", Even: "even",
        DivisibleBy: "divisibleby", Equal: "equalto" | "eq" | "sameas", NotEqual: "ne", In: "in",
        Greater: "gt" | "greaterthan", Less: "lt" | "lessthan",
    }
}

impl Test {
    pub fn takes_argument(self) -> bool {
        matches!(self, Self::DivisibleBy | Self::Equal | Self::NotEqual | Self::In | Self::Greater | Self::Less)
    }
}

/// Arguments of a filter or method, by place or by name.
struct Reader<'t> {
    what: String,
    values: Values<'t>,
}

impl<'t> Reader<'t> {
    fn take(&mut self, name: &str) -> Option<Value<'t>> {
        if !self.values.positional.is_empty() {
            return Some(self.values.positional.remove(0));
        }
        self.named(name)
    }

    fn named(&mut self, name: &str) -> Option<Value<'t>> {
        let at = self.values.named.iter().position(|(other, _)| *other == name)?;
        Some(self.values.named.remove(at).1)
    }

    fn text(&mut self, name: &str) -> Result<Option<Value<'t>>> {
        match self.take(name) {
            None | Some(Value::None) => Ok(None),
            Some(value @ Value::Text(_)) => Ok(Some(value)),
            Some(other) => Err(Fault::new(format!("{}: {name} is {}, not a string", self.what, other.kind()))),
        }
    }

    fn int(&mut self, name: &str) -> Result<Option<i64>> {
        match self.take(name) {
            None | Some(Value::None) => Ok(None),
            Some(value) => value
                .as_int()
                .map(Some)
                .ok_or_else(|| Fault::new(format!("{}: {name} is {}, not an integer", self.what, value.kind()))),
        }
    }

    fn required(&self, name: &str, value: Option<Value<'t>>) -> Result<Value<'t>> {
        value.ok_or_else(|| Fault::new(format!("{} needs {name}", self.what)))
    }

    fn finish(self) -> Result<()> {
        match (self.values.positional.len(), self.values.named.first()) {
            (0, None) => Ok(()),
            (0, Some((name, _))) => Err(Fault::new(format!("{} has no argument {name:?}", self.what))),
            _ => Err(Fault::new(format!("{} has too many arguments", self.what))),
        }
    }
}

impl<'t> Interpreter<'t, '_> {
    pub fn test(&mut self, test: Test, value: &Value<'t>, arguments: &[Value<'t>]) -> Result<bool> {
        let argument = || arguments.first().ok_or_else(|| Fault::new("a test needs an argument"));
        let int =
            |value: &Value<'t>| value.as_int().ok_or_else(|| Fault::new(format!("{} is not an integer", value.kind())));
        Ok(match test {
            Test::Defined => !matches!(value, Value::Undefined),
            Test::Undefined => matches!(value, Value::Undefined),
            Test::None => matches!(value, Value::None),
            Test::Boolean => matches!(value, Value::Bool(_)),
            Test::True => matches!(value, Value::Bool(true)),
            Test::False => matches!(value, Value::Bool(false)),
            Test::Integer => matches!(value, Value::Int(_)),
            Test::Float => matches!(value, Value::Float(_)),
            Test::Number => value.as_number().is_some(),
            Test::String => matches!(value, Value::Text(_)),
            Test::Mapping => matches!(value, Value::Map(_)),
            Test::Sequence | Test::Iterable => {
                matches!(value, Value::Text(_) | Value::List(_) | Value::Map(_) | Value::Undefined)
            }
            Test::Callable => matches!(value, Value::Macro(_) | Value::Function(_)),
            Test::Odd => int(value)? % 2 != 0,
            Test::Even => int(value)? % 2 == 0,
            Test::DivisibleBy => {
                let remainder = int(value)?.checked_rem(int(argument()?)?);
                remainder.ok_or_else(|| Fault::new("divisibleby 0"))? == 0
            }
            Test::Equal => self.equal(value, argument()?)?,
            Test::NotEqual => !self.equal(value, argument()?)?,
            Test::In => self.contains(argument()?, value)?,
            Test::Greater => self.order(value, argument()?)?.is_some_and(std::cmp::Ordering::is_gt),
            Test::Less => self.order(value, argument()?)?.is_some_and(std::cmp::Ordering::is_lt),
        })
    }

    pub fn filter(&mut self, filter: Filter, value: Value<'t>, values: Values<'t>) -> Result<Value<'t>> {
        let mut arguments = Reader { what: format!("the filter {filter:?}").to_lowercase(), values };
        let result = match filter {
            // These also take what is not a string, by its text.
            Filter::Trim => {
                let text = self.text_of(&value)?;
                let chars = arguments.text("chars")?;
                self.text(strip(&text, chars.as_ref().and_then(Value::as_text), true, true).to_string())?
            }
            Filter::Upper | Filter::Lower | Filter::Capitalize => {
                let text = self.text_of(&value)?;
                self.cased(filter, &text)?
            }
            Filter::Title => {
                let text = self.text_of(&value)?;
                self.text(title(&text, |c| c.is_whitespace() || "-({[<".contains(c)))?
            }
            Filter::Replace => {
                let text = self.text_of(&value)?;
                let (old, new) = (arguments.text("old")?, arguments.text("new")?);
                let (old, new) = (arguments.required("old", old)?, arguments.required("new", new)?);
                let count = arguments.int("count")?;
                self.replace(&text, old.as_text().unwrap_or_default(), new.as_text().unwrap_or_default(), count)?
            }
            Filter::Text => match value {
                Value::Text(_) => value,
                other => Value::text(self.text_of(&other)?),
            },
            Filter::Safe => value,
            Filter::Indent => self.indent(&value, &mut arguments)?,
            Filter::Length => Value::Int(self.length(&value)?),
            Filter::Join => {
                let separator = arguments.text("d")?;
                let attribute = arguments.take("attribute");
                self.join(&value, separator.as_ref().and_then(Value::as_text).unwrap_or(""), attribute.as_ref())?
            }
            Filter::First => self.items(&value)?.first().cloned().unwrap_or(Value::Undefined),
            Filter::Last => self.items(&value)?.last().cloned().unwrap_or(Value::Undefined),
            Filter::List => {
                let items = self.items(&value)?;
                self.list(items.to_vec())?
            }
            Filter::Reverse => match &value {
                Value::Text(text) => self.text(text.chars().rev().collect())?,
                _ => {
                    let items = self.items(&value)?;
                    self.list(items.iter().rev().cloned().collect())?
                }
            },
            Filter::Int => {
                let default = arguments.int("default")?.unwrap_or(0);
                Value::Int(
                    match &value {
                        Value::Text(text) => text
                            .trim()
                            .parse()
                            .ok()
                            .or_else(|| text.trim().parse::<f64>().ok().map(|number| number as i64)),
                        Value::Float(number) => Some(*number as i64),
                        other => other.as_int(),
                    }
                    .unwrap_or(default),
                )
            }
            Filter::Float => Value::Float(match &value {
                Value::Text(text) => text.trim().parse().unwrap_or(0.0),
                other => other.as_number().unwrap_or(0.0),
            }),
            Filter::Abs => match value {
                Value::Float(number) => Value::Float(number.abs()),
                other => Value::Int(
                    other
                        .as_int()
                        .and_then(i64::checked_abs)
                        .ok_or_else(|| Fault::new("abs of what is not a number"))?,
                ),
            },
            Filter::Default => {
                let default = arguments.take("default_value").unwrap_or(Value::Text("".into()));
                let falsy_too = arguments.take("boolean").is_some_and(|flag| flag.is_true());
                if matches!(value, Value::Undefined) || (falsy_too && !value.is_true()) { default } else { value }
            }
            Filter::ToJson => {
                let indent = arguments.named("indent");
                let indent = match indent {
                    None | Some(Value::None) => None,
                    Some(indent) => Some(
                        indent
                            .as_int()
                            .and_then(|indent| usize::try_from(indent).ok())
                            .filter(|indent| *indent <= 16)
                            .ok_or_else(|| Fault::new("tojson: indent is not 0 to 16"))?,
                    ),
                };
                if arguments.named("ensure_ascii").is_some_and(|flag| flag.is_true()) {
                    return Err(Fault::new("tojson: ensure_ascii is not supported"));
                }
                let mut text = String::new();
                self.write_json(&value, indent, 0, &mut text)?;
                Value::text(text)
            }
            Filter::Items => self.entries(&value)?,
            Filter::DictSort => {
                let entries = self.entries(&value)?;
                let items = self.items(&entries)?.to_vec();
                self.sorted(items, |pair| match pair {
                    Value::List(pair) => pair.items.first().cloned().unwrap_or(Value::Undefined),
                    other => other.clone(),
                })?
            }
            Filter::Sort => {
                let items = self.items(&value)?.to_vec();
                self.sorted(items, Value::clone)?
            }
            Filter::Unique => {
                let mut unique: Vec<Value<'t>> = Vec::new();
                'items: for item in self.items(&value)?.iter() {
                    for other in &unique {
                        if self.equal(other, item)? {
                            continue 'items;
                        }
                    }
                    unique.push(item.clone());
                }
                self.list(unique)?
            }
            Filter::Map | Filter::Select | Filter::Reject | Filter::SelectAttr | Filter::RejectAttr => {
                return self.each(filter, &value, arguments);
            }
        };
        arguments.finish()?;
        Ok(result)
    }

    /// `map`, `select` and relatives: one filter, test or attribute on every item.
    fn each(&mut self, filter: Filter, value: &Value<'t>, mut arguments: Reader<'t>) -> Result<Value<'t>> {
        let items = self.items(value)?;
        let mut results = Vec::with_capacity(items.len());
        if filter == Filter::Map {
            if let Some(attribute) = arguments.named("attribute") {
                let default = arguments.named("default");
                for item in items.iter() {
                    let mut found = self.path(item, &attribute)?;
                    if let (Value::Undefined, Some(default)) = (&found, &default) {
                        found = default.clone();
                    }
                    results.push(found);
                }
            } else {
                let name = arguments.text("filter")?;
                let name = arguments.required("the name of a filter", name)?;
                let inner = name.as_text().and_then(Filter::named);
                let inner = inner
                    .filter(|inner| !matches!(inner, Filter::Map))
                    .ok_or_else(|| Fault::new("map: the filter is not supported"))?;
                for item in items.iter() {
                    self.steps(1)?;
                    let values = Values { positional: arguments.values.positional.clone(), named: Vec::new() };
                    results.push(self.filter(inner, item.clone(), values)?);
                }
                arguments.values.positional.clear();
            }
            arguments.finish()?;
            return self.list(results);
        }
        let attribute = if matches!(filter, Filter::SelectAttr | Filter::RejectAttr) {
            let attribute = arguments.take("attribute");
            Some(arguments.required("an attribute", attribute)?)
        } else {
            None
        };
        let name = arguments.text("test")?;
        let test = match name.as_ref().and_then(Value::as_text) {
            Some("==") => Some(Test::Equal),
            Some("!=") => Some(Test::NotEqual),
            Some(name) => {
                Some(Test::named(name).ok_or_else(|| Fault::new(format!("the test {name:?} is not supported")))?)
            }
            None => None,
        };
        let wanted = matches!(filter, Filter::Select | Filter::SelectAttr);
        for item in items.iter() {
            let subject = match &attribute {
                Some(attribute) => self.path(item, attribute)?,
                None => item.clone(),
            };
            let passed = match test {
                Some(test) => self.test(test, &subject, &arguments.values.positional)?,
                None => subject.is_true(),
            };
            if passed == wanted {
                results.push(item.clone());
            }
        }
        self.list(results)
    }

    /// `item.a.b` for the attribute "a.b".
    fn path(&mut self, item: &Value<'t>, attribute: &Value<'t>) -> Result<Value<'t>> {
        self.steps(1)?;
        let mut value = item.clone();
        for name in attribute.as_text().ok_or_else(|| Fault::new("an attribute is not a string"))?.split('.') {
            let mut found = Value::Undefined;
            if let Value::Map(map) = &value {
                for (key, entry) in &map.entries {
                    if self.equal(key, &Value::text(name))? {
                        found = entry.clone();
                        break;
                    }
                }
            }
            value = found;
        }
        Ok(value)
    }

    fn sorted(&mut self, mut items: Vec<Value<'t>>, key: impl Fn(&Value<'t>) -> Value<'t>) -> Result<Value<'t>> {
        // Insertion sort: every comparison can be paid for and can fail. Lists here are short.
        for at in 1..items.len() {
            let mut place = at;
            while place > 0 {
                self.steps(1)?;
                if !self.order(&key(&items[place]), &key(&items[place - 1]))?.is_some_and(std::cmp::Ordering::is_lt) {
                    break;
                }
                items.swap(place, place - 1);
                place -= 1;
            }
        }
        self.list(items)
    }

    fn length(&mut self, value: &Value<'t>) -> Result<i64> {
        Ok(match value {
            Value::Undefined => 0,
            Value::Text(text) => {
                self.steps(text.len() / 64)?;
                text.chars().count() as i64
            }
            Value::List(list) => list.items.len() as i64,
            Value::Map(map) => map.entries.len() as i64,
            other => return Err(Fault::new(format!("{} has no length", other.kind()))),
        })
    }

    fn cased(&mut self, filter: Filter, text: &str) -> Result<Value<'t>> {
        self.bytes(text.len())?;
        let cased = match filter {
            Filter::Upper => text.to_uppercase(),
            Filter::Lower => text.to_lowercase(),
            _ => {
                let mut chars = text.chars();
                let first: String = chars.next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
                first + &chars.as_str().to_lowercase()
            }
        };
        self.text(cased)
    }

    fn replace(&mut self, text: &str, old: &str, new: &str, count: Option<i64>) -> Result<Value<'t>> {
        self.steps(text.len() / 16)?;
        let count = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
        let hits = text.matches(old).count().min(count);
        self.bytes(hits.saturating_mul(new.len()).saturating_add(text.len()))?;
        Ok(Value::text(text.replacen(old, new, count)))
    }

    fn join(&mut self, value: &Value<'t>, separator: &str, attribute: Option<&Value<'t>>) -> Result<Value<'t>> {
        let mut text = String::new();
        for (at, item) in self.items(value)?.iter().enumerate() {
            if at > 0 {
                self.bytes(separator.len())?;
                text.push_str(separator);
            }
            match attribute {
                Some(attribute) => {
                    let item = self.path(item, attribute)?;
                    self.write_text(&item, &mut text)?;
                }
                None => self.write_text(item, &mut text)?,
            }
        }
        Ok(Value::text(text))
    }

    fn indent(&mut self, value: &Value<'t>, arguments: &mut Reader<'t>) -> Result<Value<'t>> {
        let text = self.text_of(value)?;
        let width = match arguments.take("width") {
            None => "    ".to_string(),
            Some(Value::Text(width)) if width.len() <= 64 => width.to_string(),
            Some(width) => {
                let width = width.as_int().and_then(|width| usize::try_from(width).ok()).filter(|width| *width <= 64);
                " ".repeat(width.ok_or_else(|| Fault::new("indent: width is not 0 to 64"))?)
            }
        };
        let first = arguments.take("first").is_some_and(|flag| flag.is_true());
        let blank = arguments.take("blank").is_some_and(|flag| flag.is_true());
        self.bytes(text.matches('\n').count().saturating_add(1).saturating_mul(width.len() + 1) + text.len())?;
        let mut out = String::new();
        for (at, line) in text.split('\n').enumerate() {
            if at > 0 {
                out.push('\n');
            }
            if (at > 0 || first) && (blank || !line.is_empty() || (at == 0 && first)) {
                out.push_str(&width);
            }
            out.push_str(line);
        }
        Ok(Value::text(out))
    }

    /// Pairs of key and value.
    fn entries(&mut self, value: &Value<'t>) -> Result<Value<'t>> {
        match value {
            Value::Undefined => self.list(Vec::new()),
            Value::Map(map) => {
                self.bytes(map.entries.len().saturating_mul(4 * SLOT))?;
                let pairs = map.entries.iter().map(|(key, value)| Value::list(vec![key.clone(), value.clone()], true));
                Value::list(pairs.collect::<Result<_>>()?, false)
            }
            other => Err(Fault::new(format!("{} has no items", other.kind()))),
        }
    }

    /// `json.dumps(value, ensure_ascii=False, indent=indent)`.
    fn write_json(&mut self, value: &Value<'t>, indent: Option<usize>, depth: usize, out: &mut String) -> Result<()> {
        self.bytes(8)?;
        let line = |depth: usize, out: &mut String, this: &mut Self| -> Result<()> {
            if let Some(indent) = indent {
                this.bytes(1 + indent * depth)?;
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent * depth));
            }
            Ok(())
        };
        let between = if indent.is_some() { "," } else { ", " };
        match value {
            Value::None => out.push_str("null"),
            Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Value::Int(value) => {
                self.bytes(16)?;
                out.push_str(&value.to_string());
            }
            Value::Float(value) => {
                self.bytes(24)?;
                out.push_str(&if value.is_nan() {
                    "NaN".into()
                } else if value.is_infinite() {
                    if *value > 0.0 { "Infinity".into() } else { "-Infinity".into() }
                } else {
                    float_text(*value)
                });
            }
            Value::Text(text) => {
                // A control character becomes six.
                self.bytes(text.len().saturating_mul(2))?;
                let quoted =
                    serde_json::to_string(text.as_ref()).map_err(|err| Fault::new(format!("tojson: {err}")))?;
                self.bytes(quoted.len().saturating_sub(text.len() * 2))?;
                out.push_str(&quoted);
            }
            Value::List(list) => {
                out.push('[');
                for (at, item) in list.items.iter().enumerate() {
                    if at > 0 {
                        out.push_str(between);
                    }
                    line(depth + 1, out, self)?;
                    self.write_json(item, indent, depth + 1, out)?;
                }
                if !list.items.is_empty() {
                    line(depth, out, self)?;
                }
                out.push(']');
            }
            Value::Map(map) => {
                out.push('{');
                for (at, (key, entry)) in map.entries.iter().enumerate() {
                    if at > 0 {
                        out.push_str(between);
                    }
                    line(depth + 1, out, self)?;
                    match key {
                        Value::Text(_) => self.write_json(key, None, 0, out)?,
                        other => {
                            out.push('"');
                            self.write_json(other, None, 0, out)?;
                            out.push('"');
                        }
                    }
                    out.push_str(": ");
                    self.write_json(entry, indent, depth + 1, out)?;
                }
                if !map.entries.is_empty() {
                    line(depth, out, self)?;
                }
                out.push('}');
            }
            other => return Err(Fault::new(format!("tojson: the value is {}", other.kind()))),
        }
        Ok(())
    }

    pub fn method(&mut self, of: &Value<'t>, name: &str, values: Values<'t>) -> Result<Value<'t>> {
        let mut arguments = Reader { what: format!("{name}()"), values };
        let result = match of {
            Value::Text(text) => {
                self.steps(text.len() / 32)?;
                self.text_method(text, name, &mut arguments)?
            }
            Value::Map(map) => match name {
                "items" => self.entries(of)?,
                "keys" => {
                    let keys = self.items(of)?;
                    self.list(keys.to_vec())?
                }
                "values" => {
                    let values = map.entries.iter().map(|(_, value)| value.clone()).collect();
                    self.list(values)?
                }
                "get" => {
                    let key = arguments.take("key");
                    let key = arguments.required("a key", key)?;
                    let default = arguments.take("default").unwrap_or(Value::None);
                    let mut found = default;
                    for (other, value) in &map.entries {
                        if self.equal(other, &key)? {
                            found = value.clone();
                            break;
                        }
                    }
                    found
                }
                _ => return Err(unknown(name, of)),
            },
            Value::List(list) => match name {
                "index" | "count" => {
                    let wanted = arguments.take("value");
                    let wanted = arguments.required("a value", wanted)?;
                    let mut hits = Vec::new();
                    for (at, item) in list.items.iter().enumerate() {
                        if self.equal(item, &wanted)? {
                            hits.push(at as i64);
                        }
                    }
                    match (name, hits.first()) {
                        ("count", _) => Value::Int(hits.len() as i64),
                        (_, Some(at)) => Value::Int(*at),
                        _ => return Err(Fault::new("index(): the value is not in the list")),
                    }
                }
                _ => return Err(unknown(name, of)),
            },
            Value::Loop(state) if name == "cycle" => {
                let values = std::mem::take(&mut arguments.values.positional);
                let at = state.index.checked_rem(values.len()).ok_or_else(|| Fault::new("cycle() needs values"))?;
                values[at].clone()
            }
            _ => return Err(unknown(name, of)),
        };
        arguments.finish()?;
        Ok(result)
    }

    fn text_method(&mut self, text: &str, name: &str, arguments: &mut Reader<'t>) -> Result<Value<'t>> {
        let all = |test: fn(char) -> bool| Value::Bool(!text.is_empty() && text.chars().all(test));
        Ok(match name {
            "strip" | "lstrip" | "rstrip" => {
                let chars = arguments.text("chars")?;
                let chars = chars.as_ref().and_then(Value::as_text);
                self.text(strip(text, chars, name != "rstrip", name != "lstrip").to_string())?
            }
            "upper" => self.cased(Filter::Upper, text)?,
            "lower" => self.cased(Filter::Lower, text)?,
            "capitalize" => self.cased(Filter::Capitalize, text)?,
            "title" => self.text(title(text, |c| !c.is_alphabetic()))?,
            "startswith" | "endswith" => {
                let affix = arguments.take("prefix");
                let affix = arguments.required("a string", affix)?;
                let affixes = match &affix {
                    Value::List(list) => list.items.clone(),
                    _ => vec![affix.clone()],
                };
                let mut hit = false;
                for affix in &affixes {
                    self.steps(1)?;
                    let affix = affix.as_text().ok_or_else(|| Fault::new(format!("{name}() of {}", affix.kind())))?;
                    hit |= if name == "startswith" { text.starts_with(affix) } else { text.ends_with(affix) };
                }
                Value::Bool(hit)
            }
            "removeprefix" | "removesuffix" | "find" | "rfind" | "count" | "index" => {
                let other = arguments.text("sub")?;
                let other = arguments.required("a string", other)?;
                let other = other.as_text().unwrap_or_default();
                let chars = |bytes: usize| Value::Int(text[..bytes].chars().count() as i64);
                match name {
                    "removeprefix" => self.text(text.strip_prefix(other).unwrap_or(text).to_string())?,
                    "removesuffix" => self.text(text.strip_suffix(other).unwrap_or(text).to_string())?,
                    "count" => Value::Int(text.matches(other).count() as i64),
                    "find" => text.find(other).map_or(Value::Int(-1), chars),
                    "rfind" => text.rfind(other).map_or(Value::Int(-1), chars),
                    _ => text.find(other).map(chars).ok_or_else(|| Fault::new("index(): not found"))?,
                }
            }
            "replace" => {
                let (old, new) = (arguments.text("old")?, arguments.text("new")?);
                let (old, new) = (arguments.required("old", old)?, arguments.required("new", new)?);
                let count = arguments.int("count")?;
                self.replace(text, old.as_text().unwrap_or_default(), new.as_text().unwrap_or_default(), count)?
            }
            "split" | "rsplit" => {
                let separator = arguments.text("sep")?;
                let limit = arguments.int("maxsplit")?.and_then(|limit| usize::try_from(limit).ok());
                self.split(text, separator.as_ref().and_then(Value::as_text), limit, name == "rsplit")?
            }
            "splitlines" => {
                self.bytes(text.matches('\n').count().saturating_add(1).saturating_mul(SLOT) + text.len())?;
                Value::list(text.lines().map(Value::text).collect(), false)?
            }
            "join" => {
                let list = arguments.take("iterable");
                let list = arguments.required("a list", list)?;
                self.join(&list, text, None)?
            }
            "isdigit" | "isnumeric" | "isdecimal" => all(char::is_numeric),
            "isalpha" => all(char::is_alphabetic),
            "isalnum" => all(char::is_alphanumeric),
            "isspace" => all(char::is_whitespace),
            "isupper" => Value::Bool(text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)),
            "islower" => Value::Bool(text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase)),
            _ => return Err(Fault::new(format!("a string has no method {name:?} here"))),
        })
    }

    fn split(
        &mut self,
        text: &str,
        separator: Option<&str>,
        limit: Option<usize>,
        from_end: bool,
    ) -> Result<Value<'t>> {
        let most = limit.map_or(usize::MAX, |limit| limit.saturating_add(1));
        let parts: Vec<&str> = match separator {
            Some("") => return Err(Fault::new("split() at an empty string")),
            Some(separator) => {
                self.bytes(text.matches(separator).count().saturating_mul(SLOT))?;
                if from_end {
                    let mut parts: Vec<&str> = text.rsplitn(most, separator).collect();
                    parts.reverse();
                    parts
                } else {
                    text.splitn(most, separator).collect()
                }
            }
            None if limit.is_some() => return Err(Fault::new("split() with a limit needs a separator here")),
            None => {
                self.bytes(text.split_whitespace().count().saturating_mul(SLOT))?;
                text.split_whitespace().collect()
            }
        };
        self.bytes(text.len() + parts.len().saturating_mul(SLOT))?;
        Value::list(parts.into_iter().map(Value::text).collect(), false)
    }
}

fn unknown(name: &str, of: &Value<'_>) -> Fault {
    Fault::new(format!("{} has no method {name:?} here", of.kind()))
}

/// Without white space, or without any of `chars`, at the chosen ends.
fn strip<'s>(text: &'s str, chars: Option<&str>, start: bool, end: bool) -> &'s str {
    let strips = |c: char| chars.map_or(c.is_whitespace(), |chars| chars.contains(c));
    let text = if start { text.trim_start_matches(strips) } else { text };
    if end { text.trim_end_matches(strips) } else { text }
}

/// First letters in upper case, the others in lower case; words begin behind `separates`.
fn title(text: &str, separates: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut first = true;
    for c in text.chars() {
        if separates(c) {
            out.push(c);
            first = true;
        } else {
            if first {
                out.extend(c.to_uppercase())
            } else {
                out.extend(c.to_lowercase())
            }
            first = false;
        }
    }
    out
}
