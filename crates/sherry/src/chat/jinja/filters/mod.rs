//! Filters: what stands behind `|`.

mod layout;
mod links;
mod numbers;
pub(super) mod select;
mod sequences;
mod texts;

pub(super) use sequences::sorted_positions;

use super::call::Args;
use super::interpreter::Interpreter;
use super::value::Value;
use super::{Fault, Result};

/// All filters of Jinja2.
const NAMES: [&str; 54] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "random",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "urlize",
    "wordcount",
    "wordwrap",
    "xmlattr",
];

pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Applies a filter.
pub(super) fn apply<'t>(
    interpreter: &mut Interpreter<'t>,
    name: &str,
    value: Value<'t>,
    arguments: Args<'t>,
) -> Result<Value<'t>> {
    match name {
        "map" | "select" | "reject" | "selectattr" | "rejectattr" | "unique" | "batch" | "slice" | "items" => {
            select::apply(interpreter, name, value, arguments)
        }
        "first" | "last" | "length" | "count" | "list" | "reverse" | "join" | "sort" | "dictsort" | "groupby"
        | "min" | "max" | "sum" => sequences::apply(interpreter, name, value, arguments),
        "abs" | "int" | "float" | "round" | "filesizeformat" => numbers::apply(interpreter, name, value, arguments),
        "upper" | "lower" | "capitalize" | "title" | "trim" | "replace" | "center" | "indent" | "truncate"
        | "string" | "safe" | "e" | "escape" | "forceescape" | "striptags" | "format" | "wordcount" | "urlencode"
        | "xmlattr" => texts::apply(interpreter, name, value, arguments),
        "wordwrap" => layout::wordwrap(interpreter, &value, arguments),
        "pprint" => layout::pprint(interpreter, &value, arguments),
        "urlize" => links::urlize(interpreter, &value, arguments),
        "default" | "d" => {
            let [default, boolean] = arguments.bind(name, ["default_value", "boolean"])?;
            let boolean = boolean.is_some_and(|boolean| boolean.is_true());
            if value.is_undefined() || (boolean && !value.is_true()) {
                return default.map_or_else(|| Value::plain(interpreter.meter, ""), Ok);
            }
            Ok(value)
        }
        "attr" => attr(interpreter, &value, arguments),
        "tojson" => texts::tojson(interpreter, &value, arguments),
        "random" => Err(Fault::new("the filter \"random\" gives a different text each time, which is not supported")),
        _ => Err(Fault::new(format!("there is no filter {name:?}"))),
    }
}

/// An attribute, never an item.
fn attr<'t>(interpreter: &mut Interpreter<'t>, value: &Value<'t>, arguments: Args<'t>) -> Result<Value<'t>> {
    let [name] = arguments.bind("attr", ["name"])?;
    let name = super::call::required(name, "attr", "name")?;
    let Some(name) = name.as_str() else { return Err(Fault::new("attr: the name must be a string")) };
    if let Some(found) = interpreter.attribute_of(value, name)? {
        return Ok(found);
    }
    if let Value::Undefined(missing) = value {
        return Err(missing.fault());
    }
    let message = format!("'{} object' has no attribute '{name}'", value.kind());
    Ok(Value::Undefined(interpreter.told(message)?))
}

#[cfg(test)]
mod tests {
    use super::super::meter::{Budget, Meter};
    use super::super::{Dialect, Globals, Template};
    use super::*;

    #[test]
    fn every_name_is_a_filter() {
        let meter = Meter::new(Budget { steps: 10_000, bytes: 100_000 });
        let template = Template::new("", Dialect::Chat).unwrap();
        let globals = Globals { variables: &[], strftime: &|_| Ok(String::new()) };
        let mut interpreter = Interpreter::new(&template.compiled, &meter, &globals, Dialect::Chat).unwrap();
        for name in NAMES {
            let applied = apply(&mut interpreter, name, Value::None, Args::default());
            let message = applied.err().map(|fault| fault.message).unwrap_or_default();
            assert!(!message.starts_with("there is no filter"), "{name}: {message}");
        }
    }
}
