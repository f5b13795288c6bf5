//! Axes: which part of the numbers they show, and their ticks with labels that tell one from the other.

/// One axis.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    /// Values and labels, ascending; no two labels are the same.
    pub ticks: Vec<(f64, String)>,
}

impl Scale {
    /// From exactly `low` to exactly `high`, with about `count` ticks. Both are finite, `low <= high`.
    pub fn exact(low: f64, high: f64, count: usize) -> Self {
        let (low, high) = if high > low { (low, high) } else { (low - 0.5, low + 0.5) };
        let (few, step) = ticks(low, high, count);
        let (ticks, step) = if few.len() < 2 { ticks(low, high, 2 * count) } else { (few, step) };
        Self { low, high, ticks: labelled(&ticks, step) }
    }

    /// Around the finite ones of `values`: from zero where they come near it, with some room above; `None` without any.
    pub fn around(values: impl Iterator<Item = f64>, count: usize) -> Option<Self> {
        let values = values.filter(|value| value.is_finite());
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if low > high {
            return None;
        }
        let (low, high) = match (low, high) {
            (0.0, 0.0) => (0.0, 1.0),
            (low, high) if low >= 0.0 && low < 0.3 * high || low == high && low > 0.0 => (0.0, 1.06 * high),
            (low, high) if low == high => (1.06 * low, 0.0),
            (low, high) => (low - 0.06 * (high - low), high + 0.06 * (high - low)),
        };
        // Numbers too large for their difference, or too close for it, are shown on an axis of their own.
        let fits = high.is_finite() && (high - low).is_finite() && high - low > 1e-12 * low.abs().max(high.abs());
        Some(if fits { Self::exact(low, high, count) } else { Self { low: -1.0, high: 1.0, ticks: Vec::new() } })
    }

    /// Where `x` is, in percent of the axis; inside it, whatever `x` is.
    pub fn place(&self, x: f64) -> f64 {
        let share = (x - self.low) / (self.high - self.low);
        if share.is_finite() { 100.0 * share.clamp(0.0, 1.0) } else { 50.0 }
    }
}

/// About `count` round numbers from `low` to `high`, `low < high`, and the step between them.
fn ticks(low: f64, high: f64, count: usize) -> (Vec<f64>, f64) {
    let rough = (high - low) / count as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * power).find(|step| *step >= rough).unwrap_or(rough);
    let first = (low / step - 1e-9).ceil() as i64;
    let inside = (first..first + 2 * count as i64 + 4).map(|n| n as f64 * step);
    (inside.take_while(|x| *x <= high + 1e-9 * step).collect(), step)
}

/// Labels of ticks that are `step` apart: all in the same unit, with the digits that the step needs.
fn labelled(ticks: &[f64], step: f64) -> Vec<(f64, String)> {
    let largest = ticks.iter().fold(0.0f64, |most, tick| most.max(tick.abs()));
    let (unit, suffix) = match largest {
        size if size >= 1e15 || size > 0.0 && size < 1e-2 => {
            let power = size.log10().floor() as i32;
            (10f64.powi(power), format!("·10{}", superscript(power)))
        }
        size if size >= 1e9 => (1e9, "G".to_owned()),
        size if size >= 1e6 => (1e6, "M".to_owned()),
        size if size >= 1e4 => (1e3, "k".to_owned()),
        _ => (1.0, String::new()),
    };
    let digits = (-(step / unit).log10().floor()).clamp(0.0, 12.0) as usize;
    let label = |tick: f64| {
        if tick.abs() < 1e-6 * step { "0".to_owned() } else { format!("{:.digits$}{suffix}", tick / unit) }
    };
    ticks.iter().map(|&tick| (tick, label(tick))).collect()
}

fn superscript(number: i32) -> String {
    let raised = |c: char| match c {
        '-' => '⁻',
        c => c.to_digit(10).and_then(|digit| "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().nth(digit as usize)).unwrap_or(c),
    };
    number.to_string().chars().map(raised).collect()
}

/// A number in few digits, for tables and texts.
pub(super) fn short(x: f64) -> String {
    match x.abs() {
        0.0 => "0".to_owned(),
        size if size >= 1e9 => format!("{:.2} G", x / 1e9),
        size if size >= 1e6 => format!("{:.2} M", x / 1e6),
        size if size >= 1e4 => format!("{:.1} k", x / 1e3),
        size if size >= 100.0 => format!("{x:.0}"),
        size if size < 1e-3 => format!("{x:.2e}"),
        _ => {
            let digits = format!("{x:.4}");
            digits.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

/// A number with so many digits behind the point, unless it is too large for them to mean anything.
pub(super) fn fixed(x: f64, digits: usize) -> String {
    if x.abs() < 1e4 { format!("{x:.digits$}") } else { format!("{x:.2e}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 100.0, 4).0, [0.0, 50.0, 100.0]);
        assert_eq!(ticks(0.0, 8.0, 4).0, [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(ticks(2.1, 2.9, 4).0.len(), 4);
        assert!(ticks(-1e-9, 1e-9, 4).0.len() <= 8);
    }

    #[test]
    fn labels_differ_and_places_lie_inside() {
        let mut low = 1e-9;
        let mut tried = 0;
        while low < 1e14 {
            for width in [1e-7, 1e-3, 0.04, 0.3, 1.0, 7.0, 1e4, 1e8] {
                for sign in [-1.0, 1.0] {
                    let scale = Scale::exact(sign * low, sign * low + low * width, 4);
                    let mut labels: Vec<&String> = scale.ticks.iter().map(|(_, label)| label).collect();
                    assert!((2..=8).contains(&labels.len()), "{scale:?}");
                    assert!(scale.ticks.iter().all(|(x, _)| (0.0..=100.0).contains(&scale.place(*x))));
                    let count = labels.len();
                    labels.dedup();
                    assert_eq!(labels.len(), count, "{scale:?}");
                    tried += 1;
                }
            }
            low *= 3.7;
        }
        assert!(tried > 500);
    }

    #[test]
    fn odd_numbers_have_an_axis_too() {
        assert!(Scale::around([f64::NAN, f64::INFINITY].into_iter(), 4).is_none());
        for values in [[0.0, 0.0], [3.0, 3.0], [-3.0, -3.0], [1e300, -1e300], [-1e308, 1e308], [5e-324, 0.0]] {
            let scale = Scale::around(values.into_iter(), 4).unwrap();
            assert!(values.iter().all(|x| (0.0..=100.0).contains(&scale.place(*x))), "{values:?} {scale:?}");
        }
        let labels = |low, high| Scale::exact(low, high, 4).ticks.into_iter().map(|(_, l)| l).collect::<Vec<_>>();
        assert_eq!(labels(0.0, 2e-3), ["0", "0.5·10⁻³", "1.0·10⁻³", "1.5·10⁻³", "2.0·10⁻³"]);
        assert_eq!(labels(0.0, 40_000.0), ["0", "10k", "20k", "30k", "40k"]);
        assert_eq!(labels(6.6, 8.4), ["7.0", "7.5", "8.0"]);
    }

    #[test]
    fn numbers_are_short() {
        for (x, expected) in [(0.0, "0"), (0.5, "0.5"), (12.0, "12"), (1e-5, "1.00e-5"), (3.2e6, "3.20 M")] {
            assert_eq!(short(x), expected);
        }
    }
}
