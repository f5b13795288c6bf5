//! Charts as inline SVG.

use std::fmt::Write;

use super::escape;
use crate::metrics::REACH;

/// Colors that also differ to colour-blind eyes (Okabe & Ito).
const COLORS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b", "#999999"];

/// The color of series `index`.
pub(super) fn color(index: usize) -> &'static str {
    COLORS[index % COLORS.len()]
}

// Size and margins of a chart, in pixels of its own.
const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 8.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 22.0;
/// Most points drawn of a curve; neighbours are averaged.
const POINTS: usize = 400;
/// Most columns of a heat map; columns between are left out.
const COLUMNS: usize = 48;

/// One curve.
pub(super) struct Series<'a> {
    pub name: &'a str,
    pub color: &'static str,
    /// Steps and values, by step.
    pub points: Vec<(f64, f64)>,
}

/// Curves over steps.
pub(super) struct Chart<'a> {
    pub title: &'a str,
    pub series: Vec<Series<'a>>,
}

impl Chart<'_> {
    /// A figure; nothing when no curve has a point.
    pub fn svg(&self) -> String {
        let finite = |point: &&(f64, f64)| point.1.is_finite();
        let all = || self.series.iter().flat_map(|series| series.points.iter().filter(finite));
        if all().next().is_none() {
            return String::new();
        }
        let end = all().fold(1.0f64, |end, point| end.max(point.0));
        let low = all().fold(f64::INFINITY, |low, point| low.min(point.1));
        let high = all().fold(f64::NEG_INFINITY, |high, point| high.max(point.1));
        // A curve near zero is shown from zero, a constant one in the middle.
        let low = if low >= 0.0 && low < 0.3 * high { 0.0 } else { low };
        let (low, high) = if high > low { (low, high) } else { (low - 0.5, high + 0.5) };
        let place_x = |x: f64| LEFT + x / end * (WIDTH - LEFT - RIGHT);
        let place_y = |y: f64| TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM);

        let mut out = format!("<figure><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
        // Writing to a string cannot fail.
        for tick in ticks(low, high, 4) {
            let (y, label) = (place_y(tick), short(tick));
            let _ = write!(out, "<path class=\"axis\" d=\"M{LEFT} {y:.1}H{}\"/>", WIDTH - RIGHT);
            let _ = write!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", LEFT - 5.0, y + 4.0);
        }
        for tick in ticks(0.0, end, 4) {
            let (x, y) = (place_x(tick), HEIGHT - 6.0);
            let _ = write!(out, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{}</text>", short(tick));
        }
        for series in &self.series {
            let points: Vec<(f64, f64)> = series.points.iter().filter(finite).copied().collect();
            let Some(last) = points.last() else { continue };
            let mut path = String::new();
            for part in points.chunks(points.len().div_ceil(POINTS)) {
                let count = part.len() as f64;
                let x = part.iter().map(|point| point.0).sum::<f64>() / count;
                let y = part.iter().map(|point| point.1).sum::<f64>() / count;
                let verb = if path.is_empty() { 'M' } else { 'L' };
                let _ = write!(path, "{verb}{:.1} {:.1}", place_x(x), place_y(y));
            }
            let (name, color) = (escape(series.name), series.color);
            let _ = write!(out, "<path class=\"curve\" stroke=\"{color}\" d=\"{path}\">");
            let _ = write!(out, "<title>{name}: {} at step {}</title></path>", short(last.1), last.0);
            // A curve of one point would not be seen.
            let (x, y) = (place_x(last.0), place_y(last.1));
            let _ = write!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\" fill=\"{color}\"/>");
        }
        let _ = writeln!(out, "</svg><figcaption>{}</figcaption></figure>", escape(self.title));
        out
    }
}

/// Histograms (shares from low to high values) side by side by step; `None` without any.
pub(super) fn heat_map(title: &str, columns: &[(u64, &[f64])]) -> Option<String> {
    let every = columns.len().div_ceil(COLUMNS).max(1);
    let shown: Vec<_> = columns.iter().rev().step_by(every).rev().filter(|(_, bins)| !bins.is_empty()).collect();
    let (first, last) = (shown.first()?, shown.last()?);
    let top = shown.iter().flat_map(|(_, bins)| bins.iter()).fold(0.0f64, |top, &share| top.max(share));
    let (width, height, left) = (260.0, 170.0, 24.0);
    let cell = (width - left) / shown.len() as f64;
    let mut out = format!("<figure><svg viewBox=\"0 0 {width} {}\" role=\"img\">", height + 16.0);
    for (column, (_, bins)) in shown.iter().enumerate() {
        let tall = height / bins.len() as f64;
        for (bin, share) in bins.iter().enumerate() {
            let strength = (share / top).sqrt();
            if strength >= 0.02 {
                let (x, y) = (left + column as f64 * cell, height - (bin + 1) as f64 * tall);
                let _ = write!(
                    out,
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"var(--heat)\" \
                     fill-opacity=\"{strength:.2}\"/>",
                    cell + 0.2,
                    tall + 0.2
                );
            }
        }
    }
    for value in [-2.0, -1.0, 0.0, 1.0, 2.0] {
        let y = height * (0.5 - value / (2.0 * REACH));
        let _ = write!(out, "<path class=\"axis\" d=\"M{left} {y:.1}H{width}\"/>");
        let _ = write!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>", left - 4.0, y + 4.0);
    }
    let y = height + 12.0;
    let _ = write!(out, "<text x=\"{left}\" y=\"{y}\">step {}</text>", first.0);
    let _ = write!(out, "<text x=\"{width}\" y=\"{y}\" text-anchor=\"end\">{}</text>", last.0);
    let _ = writeln!(out, "</svg><figcaption>{}</figcaption></figure>", escape(title));
    Some(out)
}

/// About `count` round numbers from `low` to `high`, `low < high`.
fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let rough = (high - low) / count as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * power).find(|step| *step >= rough).unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    (first..first + 2 * count as i64 + 4).map(|n| n as f64 * step).take_while(|x| *x <= high + 1e-9 * step).collect()
}

/// Few digits.
fn short(x: f64) -> String {
    match x.abs() {
        0.0 => "0".to_owned(),
        size if size >= 1e6 => format!("{:.1}M", x / 1e6),
        size if size >= 1e4 => format!("{:.0}k", x / 1e3),
        size if size < 1e-3 => format!("{x:.1e}"),
        _ => {
            let digits = format!("{x:.3}");
            digits.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 100.0, 4), [0.0, 50.0, 100.0]);
        assert_eq!(ticks(0.0, 8.0, 4), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(ticks(2.1, 2.9, 4).len(), 4);
        assert!(ticks(-1e-9, 1e-9, 4).len() <= 8);
    }

    #[test]
    fn numbers_are_short() {
        for (x, expected) in
            [(0.0, "0"), (0.5, "0.5"), (12.0, "12"), (1e-5, "1.0e-5"), (25_000.0, "25k"), (3.2e6, "3.2M")]
        {
            assert_eq!(short(x), expected);
        }
    }

    #[test]
    fn charts_of_little_or_odd_data_are_whole() {
        let chart = |points: Vec<(f64, f64)>| {
            let series = vec![Series { name: "<a & b>", color: color(9), points }];
            Chart { title: "t", series }.svg()
        };
        assert_eq!(chart(vec![]), "");
        assert_eq!(chart(vec![(1.0, f64::NAN)]), "");
        for points in [vec![(0.0, 3.0)], vec![(5.0, 0.0), (6.0, 0.0)], (0..5000).map(|i| (i as f64, -1.0)).collect()] {
            let svg = chart(points);
            assert!(svg.contains("&lt;a &amp; b&gt;") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            assert!(svg.len() < 20_000);
        }
        assert!(heat_map("x", &[]).is_none());
        let bins = [0.25, 0.75];
        let many: Vec<(u64, &[f64])> = (0..1000).map(|step| (step, &bins[..])).collect();
        let map = heat_map("x", &many).unwrap();
        assert!(map.matches("<rect").count() <= 2 * COLUMNS && map.contains(">999<"));
    }
}
