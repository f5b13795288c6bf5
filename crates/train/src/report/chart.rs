//! Curves and heat maps. What is drawn is SVG that is stretched to its place; labels are text of the page at places in
//! percent, so that they keep their size at any width. What a pointer shows lies beside each figure as JSON for page.js.

use std::fmt::Write;

use serde_json::{Value, json};

use super::html::{self, color, escape};
use super::scale::{Scale, short};

/// Most points drawn of a curve; neighbours are averaged.
const POINTS: usize = 400;
/// A curve of at least so many points is drawn smooth, too, where that is asked for.
const SMOOTHED: usize = 40;
/// Most columns of a heat map; columns between are left out.
const COLUMNS: usize = 48;

/// One curve.
pub(super) struct Series<'a> {
    pub name: &'a str,
    /// Index of its colour.
    pub color: usize,
    /// Places along the axis and values, ascending.
    pub points: Vec<(f64, f64)>,
}

/// Curves over steps, blocks or the like.
pub(super) struct Chart<'a> {
    pub title: &'a str,
    /// Name or unit of the values.
    pub unit: &'a str,
    /// Name of what they lie over.
    pub over: &'a str,
    /// Whether noise is to be expected, through which a running mean is drawn.
    pub noisy: bool,
    pub series: Vec<Series<'a>>,
}

/// Neighbours that are drawn as one.
struct Point {
    first: f64,
    last: f64,
    x: f64,
    y: f64,
}

fn thinned(points: &[(f64, f64)]) -> Vec<Point> {
    let finite: Vec<(f64, f64)> = points.iter().filter(|point| point.1.is_finite()).copied().collect();
    let mean = |part: &[(f64, f64)]| {
        let (x, y) = part.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1 / part.len() as f64));
        Point { first: part[0].0, last: part[part.len() - 1].0, x: x / part.len() as f64, y }
    };
    finite.chunks(finite.len().div_ceil(POINTS).max(1)).map(mean).collect()
}

/// Means over the neighbours of each point, as many on either side.
fn smooth(points: &[Point]) -> Vec<(f64, f64)> {
    let reach = points.len() / 20;
    let mean = |at: usize| {
        let side = reach.min(at).min(points.len() - 1 - at);
        let part = &points[at - side..=at + side];
        part.iter().map(|point| point.y / part.len() as f64).sum()
    };
    (0..points.len()).map(|at| (points[at].x, mean(at))).collect()
}

impl Chart<'_> {
    /// A figure; nothing when no curve has a point.
    pub fn html(&self) -> String {
        let curves: Vec<Vec<Point>> = self.series.iter().map(|series| thinned(&series.points)).collect();
        let Some(up) = Scale::around(curves.iter().flatten().map(|point| point.y), 5) else { return String::new() };
        let along = Scale::exact(0.0, curves.iter().flatten().fold(1.0f64, |end, point| end.max(point.last)), 4);
        let mut drawn = String::new();
        let (mut told, mut data) = (Vec::new(), Vec::new());
        // Writing to a string cannot fail.
        for (tick, _) in &up.ticks {
            let _ = write!(drawn, "<path class=\"grid\" d=\"M0 {:.2}H100\"/>", 100.0 - up.place(*tick));
        }
        let line = |points: &mut dyn Iterator<Item = (f64, f64)>| {
            let mut path = String::new();
            for (x, y) in points {
                let verb = if path.is_empty() { 'M' } else { 'L' };
                let _ = write!(path, "{verb}{:.2} {:.2}", along.place(x), 100.0 - up.place(y));
            }
            path
        };
        let mut dots = String::new();
        for (series, points) in self.series.iter().zip(&curves) {
            let (Some(first), Some(last)) = (points.first(), points.last()) else { continue };
            let color = color(series.color);
            let is_smoothed = self.noisy && points.len() >= SMOOTHED;
            let raw = line(&mut points.iter().map(|point| (point.x, point.y)));
            let class = if is_smoothed { "curve faint" } else { "curve" };
            let _ = write!(drawn, "<path class=\"{class}\" stroke=\"{color}\" d=\"{raw}\"/>");
            if is_smoothed {
                let path = line(&mut smooth(points).into_iter());
                let _ = write!(drawn, "<path class=\"curve\" stroke=\"{color}\" d=\"{path}\"/>");
            }
            // Curves of few points are measurements, each of which is to be seen.
            if points.len() <= 24 {
                for point in points {
                    let (x, y) = (along.place(point.x), 100.0 - up.place(point.y));
                    let _ = write!(dots, "<i class=\"dot\" style=\"left:{x:.2}%;top:{y:.2}%;background:{color}\"></i>");
                }
            }
            told.push(format!("{} from {} to {}", series.name, short(first.y), short(last.y)));
            let point = |point: &Point| {
                let (x, y) = (html::rounded(along.place(point.x)), html::rounded(100.0 - up.place(point.y)));
                json!([point.first, point.last, point.y, x, y])
            };
            let points: Vec<Value> = points.iter().map(point).collect();
            data.push(json!({ "name": series.name, "color": color, "points": points }));
        }
        let labels: String = up
            .ticks
            .iter()
            .map(|(tick, label)| {
                format!("<span class=\"up\" style=\"top:{:.2}%\">{label}</span>", 100.0 - up.place(*tick))
            })
            .chain(along.ticks.iter().map(|(tick, label)| {
                format!("<span class=\"along\" style=\"left:{:.2}%\">{label}</span>", along.place(*tick))
            }))
            .collect();
        let told = format!("{} ({}) over {}: {}", self.title, self.unit, self.over, told.join("; "));
        let data = json!({ "over": self.over, "series": data });
        figure(self.title, self.unit, self.over, &told, "", &format!("{}{dots}{labels}", svg(&drawn)), &data)
    }
}

fn svg(drawn: &str) -> String {
    format!("<svg viewBox=\"0 0 100 100\" preserveAspectRatio=\"none\" aria-hidden=\"true\">{drawn}</svg>")
}

/// A figure with its axes' names; `told` is for those who do not see it.
fn figure(title: &str, unit: &str, over: &str, told: &str, class: &str, inside: &str, data: &Value) -> String {
    format!(
        "<figure><figcaption><h3>{}</h3><span class=\"unit\">{}</span></figcaption>\
         <div class=\"plot{class}\" role=\"img\" tabindex=\"0\" aria-label=\"{}\">{inside}</div>\
         <p class=\"over\">{}</p>{}</figure>\n",
        escape(title),
        escape(unit),
        escape(told),
        escape(over),
        html::data(data)
    )
}

/// Shares of values by step.
pub(super) struct HeatMap<'a> {
    pub title: &'a str,
    /// Name of the values, and the largest on the axis, which begins at its opposite.
    pub unit: &'a str,
    pub reach: f64,
    /// Steps and shares from low to high values.
    pub columns: Vec<(u64, &'a [f64])>,
}

impl HeatMap<'_> {
    /// A figure; nothing without any shares.
    pub fn html(&self) -> String {
        let every = self.columns.len().div_ceil(COLUMNS).max(1);
        let kept = self.columns.iter().rev().step_by(every).rev();
        let shown: Vec<_> = kept.filter(|(_, bins)| !bins.is_empty()).collect();
        let (Some(first), Some(last)) = (shown.first(), shown.last()) else { return String::new() };
        let all = shown.iter().flat_map(|(_, bins)| bins.iter()).filter(|share| share.is_finite());
        let top = all.fold(f64::MIN_POSITIVE, |top, &share| top.max(share));
        let wide = 100.0 / shown.len() as f64;
        let mut drawn = String::new();
        for (column, (_, bins)) in shown.iter().enumerate() {
            let tall = 100.0 / bins.len() as f64;
            for (bin, share) in bins.iter().enumerate() {
                // The root tells small shares from none.
                let strength = (share / top).sqrt();
                if strength >= 0.02 {
                    let (x, y) = (column as f64 * wide, 100.0 - (bin + 1) as f64 * tall);
                    let _ = write!(
                        drawn,
                        "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{wide:.2}\" height=\"{tall:.2}\" \
                         fill=\"var(--heat)\" fill-opacity=\"{strength:.2}\"/>"
                    );
                }
            }
        }
        let up = Scale::exact(-self.reach, self.reach, 6);
        let mut labels = String::new();
        for (tick, label) in &up.ticks {
            let y = 100.0 - up.place(*tick);
            let _ = write!(drawn, "<path class=\"grid\" d=\"M0 {y:.2}H100\"/>");
            let _ = write!(labels, "<span class=\"up\" style=\"top:{y:.2}%\">{label}</span>");
        }
        let _ = write!(labels, "<span class=\"along first\">{}</span>", first.0);
        if first.0 != last.0 {
            let _ = write!(labels, "<span class=\"along last\">{}</span>", last.0);
        }
        let steps: Vec<u64> = shown.iter().map(|(step, _)| *step).collect();
        let digits = |share: &f64| if share.is_finite() { json!((share * 1e5).round() / 1e5) } else { Value::Null };
        let bins: Vec<Vec<Value>> = shown.iter().map(|(_, bins)| bins.iter().map(digits).collect()).collect();
        let data = json!({ "reach": self.reach, "unit": self.unit, "steps": steps, "bins": bins });
        let told = format!(
            "Shares of {} of {} from step {} to {}, at most {:.1} %",
            self.unit,
            self.title,
            first.0,
            last.0,
            100.0 * top
        );
        figure(self.title, self.unit, "step", &told, " heat", &format!("{}{labels}", svg(&drawn)), &data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_of_little_or_odd_data_are_whole() {
        let chart = |points: Vec<(f64, f64)>| {
            let series = vec![Series { name: "</script><a & b>", color: 9, points }];
            Chart { title: "t", unit: "u", over: "step", noisy: true, series }.html()
        };
        assert_eq!(chart(vec![]), "");
        assert_eq!(chart(vec![(1.0, f64::NAN)]), "");
        for points in [
            vec![(0.0, 3.0)],
            vec![(5.0, 0.0), (6.0, 0.0)],
            vec![(1.0, 1e308), (2.0, -1e308)],
            (0..5000).map(|i| (i as f64, -1.0)).collect(),
        ] {
            let html = chart(points);
            assert!(html.contains("&lt;a &amp; b&gt;") && html.matches("</script>").count() == 1, "{html}");
            assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
            assert!(html.len() < 60_000, "{}", html.len());
        }
    }

    #[test]
    fn maps_of_many_steps_have_few_columns() {
        let map = |columns| HeatMap { title: "x", unit: "w", reach: 3.0, columns }.html();
        assert_eq!(map(vec![]), "");
        let bins = [0.25, 0.75];
        let html = map((0..1000).map(|step| (step, &bins[..])).collect());
        assert!(html.matches("<rect").count() <= 2 * COLUMNS && html.contains(">999<"));
        assert!(!map(vec![(3, &[f64::NAN, 0.0][..])]).contains("NaN"));
    }
}
