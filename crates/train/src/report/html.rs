//! Parts of the page that several figures have.

use serde_json::Value;

/// Text that is safe inside an element or a quoted attribute.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The colour of series `index`; page.css has eight, for light and dark pages.
pub(super) fn color(index: usize) -> String {
    format!("var(--c{})", index % 8)
}

/// Names, and the indices of their colours.
pub(super) fn legend<'a>(entries: impl Iterator<Item = (&'a str, usize)>) -> String {
    let entry = |(name, index): (&str, usize)| {
        format!("<li><i class=\"swatch\" style=\"background:{}\"></i>{}</li>", color(index), escape(name))
    };
    format!("<ul class=\"legend\">{}</ul>\n", entries.map(entry).collect::<String>())
}

/// Numbers for page.js, which finds them inside the same figure. No text in them can end the element.
pub(super) fn data(value: &Value) -> String {
    format!("<script type=\"application/json\">{}</script>", value.to_string().replace('<', "\\u003c"))
}

/// A table that scrolls by itself where it is wider than the page. Cells are HTML.
pub(super) fn table(label: &str, head: &[String], rows: &[Vec<String>]) -> String {
    let mut out =
        format!("<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{}\"><table>", escape(label));
    let head: String = head.iter().map(|cell| format!("<th scope=\"col\">{cell}</th>")).collect();
    out += &format!("<thead><tr>{head}</tr></thead><tbody>");
    for row in rows {
        let mut cells = row.iter();
        let first = cells.next().map(|cell| format!("<th scope=\"row\">{cell}</th>")).unwrap_or_default();
        let rest: String = cells.map(|cell| format!("<td>{cell}</td>")).collect();
        out += &format!("<tr>{first}{rest}</tr>");
    }
    out + "</tbody></table></div>\n"
}

/// Two digits behind the point, for places on the page.
pub(super) fn rounded(x: f64) -> f64 {
    (x * 100.0).round() / 100.0
}
