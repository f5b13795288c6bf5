//! What the dashboard looks like.

use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Chart, Dataset, Gauge, GraphType, Paragraph, Row, Table};
use sherry_train::metrics::duration;

use super::State;

/// Draws `state` as it is at `now`.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State, now: Instant) {
    let rows = [Constraint::Length(1), Constraint::Length(1), Constraint::Length(2), Constraint::Min(10)];
    let [title, gauge, numbers, middle, remarks, help] = {
        let rows = rows.into_iter().chain([Constraint::Length(6), Constraint::Length(1)]);
        Layout::vertical(rows).areas(frame.area())
    };
    frame.render_widget(Line::from(vec!["sherry train ".bold(), Span::raw(state.name.as_str())]), title);
    progress(frame, state, now, gauge);
    frame.render_widget(Paragraph::new(headline(state)), numbers);
    let [left, right] = Layout::horizontal([Constraint::Min(30), Constraint::Length(40)]).areas(middle);
    losses(frame, state, left);
    kinds(frame, state, right);
    let block = Block::bordered().title(" remarks ");
    let shown = block.inner(remarks).height as usize;
    let lines = state.remarks.iter().skip(state.remarks.len().saturating_sub(shown));
    let styled = lines.map(|line| {
        let line = Line::from(line.as_str());
        if line.spans.first().is_some_and(|span| span.content.starts_with("warning")) { line.yellow() } else { line }
    });
    frame.render_widget(Paragraph::new(styled.collect::<Vec<_>>()).block(block), remarks);
    let hint = if state.stopping {
        Line::from("finishing this step, then saving; Ctrl-C again stops at once (the last checkpoint stays)").yellow()
    } else {
        Line::from("Ctrl-C: finish the step, save, end").dim()
    };
    frame.render_widget(hint, help);
}

fn progress(frame: &mut Frame<'_>, state: &State, now: Instant, area: Rect) {
    let (label, share) = match &state.job {
        Some((what, total, done)) => (what.clone(), *done as f64 / (*total).max(1) as f64),
        None => {
            let left = state.speed(now).map(|speed| {
                let tokens = state.steps.saturating_sub(state.step) as f64 * state.tokens_per_step as f64;
                format!("   {speed:.0} tok/s   ETA {}", duration(tokens / speed))
            });
            let done = state.step as f64 / state.steps.max(1) as f64;
            (format!("step {}/{}{}", state.step, state.steps, left.unwrap_or_default()), done)
        }
    };
    let gauge = Gauge::default().gauge_style(Style::new().fg(Color::Blue)).ratio(share.clamp(0.0, 1.0)).label(label);
    frame.render_widget(gauge, area);
}

fn headline(state: &State) -> Vec<Line<'static>> {
    let number = |name: &'static str, value: Option<f64>, digits: usize| {
        let value = value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
        [format!("{name} ").dim(), format!("{value}   ").bold()]
    };
    let rate = state.lr.map_or("-".to_owned(), |lr| format!("{lr:.2e}"));
    let first = [
        number("loss", state.loss, 4),
        number("valid", state.valid, 4),
        ["lr ".dim(), format!("{rate}   ").bold()],
        number("lambda", state.lambda, 3),
    ];
    let saved = state.saved.clone().unwrap_or_else(|| "none yet".to_owned());
    let second = [
        number("gradient", state.grad_norm, 3),
        number("flips", state.flip_rate, 5),
        ["tokens ".dim(), format!("{:.2} M   ", state.tokens as f64 / 1e6).bold()],
        ["saved ".dim(), saved.bold()],
    ];
    vec![Line::from(first.concat()), Line::from(second.concat())]
}

fn losses(frame: &mut Frame<'_>, state: &State, area: Rect) {
    let all = || state.losses.iter().chain(&state.valids).filter(|point| point.1.is_finite());
    let start = all().fold(state.first as f64, |start, point| start.min(point.0));
    let end = all().fold(start + 1.0, |end, point| end.max(point.0));
    let low = all().fold(f64::INFINITY, |low, point| low.min(point.1));
    let high = all().fold(f64::NEG_INFINITY, |high, point| high.max(point.1));
    let block = Block::bordered().title(" loss (blue), validation (orange) ");
    if low > high {
        return frame.render_widget(block, area);
    }
    let (low, high) = if high > low { (low, high) } else { (low - 0.5, high + 0.5) };
    let curve = |points, color, marker, graph| {
        Dataset::default().data(points).style(Style::new().fg(color)).marker(marker).graph_type(graph)
    };
    let curves = vec![
        curve(&state.losses, Color::Blue, Marker::Braille, GraphType::Line),
        curve(&state.valids, Color::LightRed, Marker::Dot, GraphType::Scatter),
    ];
    let label = |value: f64, digits: usize| format!("{value:.digits$}");
    let x = Axis::default().bounds([start, end]).labels([label(start, 0), label(end, 0)]);
    let y = Axis::default().bounds([low, high]).labels([label(low, 2), label((low + high) / 2.0, 2), label(high, 2)]);
    frame.render_widget(Chart::new(curves).block(block).x_axis(x).y_axis(y), area);
}

fn kinds(frame: &mut Frame<'_>, state: &State, area: Rect) {
    let cell = |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
    // In the order of the block, not of the alphabet.
    let order = ["q", "k", "v", "o", "gate", "up", "down"];
    let rows = order.iter().filter_map(|kind| {
        let [rank, valley, norm] = *state.kinds.get(kind)?;
        Some(Row::new([(*kind).to_owned(), cell(rank, 1), cell(valley, 3), cell(norm, 4)]))
    });
    let widths = [Constraint::Length(5), Constraint::Length(9), Constraint::Length(8), Constraint::Length(10)];
    let table = Table::new(rows, widths).header(Row::new(["", "eff.rank", "valley", "gradient"]).dim());
    frame.render_widget(table.block(Block::bordered().title(" linear layers ")), area);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use sherry_train::Event;
    use sherry_train::metrics::Line as Metrics;

    use super::*;

    fn screen(state: &State, now: Instant, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, state, now)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn everything_promised_is_on_the_screen() {
        let mut state = State { name: "runs/x".into(), steps: 100, tokens_per_step: 64, ..State::default() };
        let start = Instant::now();
        assert!(screen(&state, start, 100, 30).contains("step 0/100"));
        for step in 1..=40u64 {
            state.event(&Event::Step { step, loss: 5.0 - step as f64 / 20.0, tokens: 64 * step });
        }
        let line = Metrics {
            step: 40,
            lr: Some(1e-3),
            lambda: Some(0.75),
            grad_norm: Some(1.5),
            valid_loss: Some(3.25),
            flip_rate: Some(0.0125),
            effective_rank: [("q", 17.5), ("down", 44.0)].into(),
            valley_share: [("q", 0.25)].into(),
            ..Metrics::default()
        };
        state.event(&Event::Line(&line));
        state.event(&Event::Saved("runs/x/checkpoint-00000040".as_ref()));
        state.remark("warning: effective rank collapsed");
        let now = state.started.unwrap() + Duration::from_secs(39);
        let shown = screen(&state, now, 100, 30);
        for part in [
            "step 40/100",
            "64 tok/s",
            "ETA 1:00",
            "loss 3.0000",
            "valid 3.2500",
            "lr 1.00e-3",
            "lambda 0.750",
            "gradient 1.500",
            "flips 0.01250",
            "17.5",
            "44.0",
            "0.250",
            "checkpoint-00000040",
            "rank collapsed",
            "Ctrl-C: finish the step",
        ] {
            assert!(shown.contains(part), "{part}\n{shown}");
        }
        state.stopping = true;
        assert!(screen(&state, now, 100, 30).contains("Ctrl-C again"));
        // Any size is drawn without a panic.
        for (width, height) in [(1, 1), (20, 5), (40, 10), (300, 100)] {
            screen(&state, now, width, height);
        }
    }

    #[test]
    fn a_resumed_run_shows_what_came_before() {
        let folder = tempfile::tempdir().unwrap();
        let lines = (1..=60).map(|step| {
            let valid = if step % 10 == 0 { ", \"valid_loss\": 2.5" } else { "" };
            format!("{{\"step\": {step}, \"loss\": {}{valid}}}\n", 6.0 - f64::from(step) / 20.0)
        });
        std::fs::write(folder.path().join("metrics.jsonl"), lines.collect::<String>()).unwrap();
        let run = sherry_train::report::Run::read(folder.path()).unwrap();
        let state = State { steps: 100, first: 40, step: 40, ..State::default() }.with_history(Some(&run));
        // Lines of steps that are done again are none of its past.
        assert_eq!((state.losses.len(), state.valids.len()), (40, 4));
        let shown = screen(&state, Instant::now(), 100, 30);
        for part in ["step 40/100", "loss 4.0000", "valid 2.5000", "5.95"] {
            assert!(shown.contains(part), "{part}\n{shown}");
        }
    }

    #[test]
    fn long_runs_keep_few_points_in_order() {
        let mut state = State::default();
        for step in 1..=100_000u64 {
            state.event(&Event::Step { step, loss: 1.0, tokens: step });
        }
        assert!(state.losses.len() <= super::super::POINTS);
        assert!(state.losses.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(state.losses.last().unwrap().0, 100_000.0);
    }
}
