//! Bars with error bars: groups (tasks, stages) of a bar per model.

use std::fmt::Write;

use super::html::{color, escape};
use super::scale::{Scale, fixed};

/// A number with its standard error, where that is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bar {
    pub value: f64,
    pub error: Option<f64>,
}

/// Groups of bars, one colour per place in the group.
pub(super) struct Bars<'a> {
    pub title: &'a str,
    /// Name or unit of the values.
    pub unit: &'a str,
    /// The end of the axis, where it does not depend on the values.
    pub end: Option<f64>,
    /// Digits behind the point.
    pub digits: usize,
    /// Names of the bars of a group, and the indices of their colours.
    pub names: Vec<(&'a str, usize)>,
    /// Names of groups and their bars, in the order of the names.
    pub groups: Vec<(String, Vec<Option<Bar>>)>,
}

impl Bars<'_> {
    /// A figure; nothing without any number.
    pub fn html(&self) -> String {
        let bars = || self.groups.iter().flat_map(|(_, bars)| bars).flatten();
        let Some(around) = Scale::around(bars().map(|bar| bar.value.max(0.0) + bar.error.unwrap_or(0.0)), 4) else {
            return String::new();
        };
        // Bars begin at zero: their lengths are compared.
        let most = bars().map(|bar| bar.value + bar.error.unwrap_or(0.0)).filter(|x| x.is_finite()).fold(0.0, f64::max);
        let scale = match self.end {
            Some(end) => Scale::exact(0.0, end, 4),
            None if most > 0.0 => Scale::exact(0.0, 1.04 * most, 4),
            None => around,
        };
        let mut out = format!(
            "<figure class=\"bars{}\"><figcaption><h3>{}</h3><span class=\"unit\">{}</span></figcaption>\n",
            if bars().any(|bar| bar.error.is_some()) { "" } else { " short" },
            escape(self.title),
            escape(self.unit)
        );
        let grid: String = scale
            .ticks
            .iter()
            .map(|(tick, _)| format!("<i class=\"rule\" style=\"left:{:.2}%\"></i>", scale.place(*tick)))
            .collect();
        // Writing to a string cannot fail.
        for (name, bars) in &self.groups {
            let _ =
                write!(out, "<div class=\"group\"><span class=\"what\">{}</span><div class=\"lines\">", escape(name));
            for (bar, (bar_name, index)) in bars.iter().zip(&self.names) {
                let Some(Bar { value, error }) = bar.filter(|bar| bar.value.is_finite()) else { continue };
                let digits = |x: f64| fixed(x, self.digits);
                let plus = error.map_or(String::new(), |error| format!(" <small>± {}</small>", digits(error)));
                let shown = digits(value);
                let whisker = error.filter(|error| error.is_finite()).map_or(String::new(), |error| {
                    let (low, high) = (scale.place(value - error), scale.place(value + error));
                    format!("<i class=\"whisker\" style=\"left:{low:.2}%;width:{:.2}%\"></i>", high - low)
                });
                let _ = write!(
                    out,
                    "<div class=\"line\"><div class=\"track\" title=\"{}\">{grid}\
                     <i class=\"bar\" style=\"width:{:.2}%;background:{}\"></i>{whisker}</div>\
                     <span class=\"value\">{shown}{plus}</span></div>",
                    escape(&format!("{}, {name}: {shown}", bar_name)),
                    scale.place(value),
                    color(*index)
                );
            }
            out += "</div></div>\n";
        }
        let labels: String = scale
            .ticks
            .iter()
            .map(|(tick, label)| {
                format!("<span class=\"along\" style=\"left:{:.2}%\">{label}</span>", scale.place(*tick))
            })
            .collect();
        let _ = writeln!(
            out,
            "<div class=\"group ticks\" aria-hidden=\"true\"><span class=\"what\"></span><div class=\"lines\">\
             <div class=\"line\"><div class=\"track\">{labels}</div><span class=\"value\"></span></div></div></div></figure>"
        );
        out
    }
}
