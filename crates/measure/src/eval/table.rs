//! The harness's result table, character for character.
//!
//! The harness writes it with pytablewriter, which decides per column: numbers are shown with as many decimals as the
//! longest of them needs (after rounding to four and dropping trailing zeros) and stand right; a column that holds a
//! word stands left.

use std::fmt::Write;

use super::metrics::Estimate;
use super::tasks::Metric;

/// One task's part of the table.
#[derive(Clone, Debug)]
pub struct TableTask {
    /// The task's name.
    pub name: String,
    /// Version of its definition.
    pub version: u32,
    /// Few-shot examples; of a group none.
    pub num_fewshot: Option<usize>,
    /// Its metrics, in any order.
    pub metrics: Vec<(Metric, Estimate)>,
}

const HEADS: [&str; 9] = ["", "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr"];

/// The table of `what` ("Tasks", "Groups"), each line ended by a line feed.
pub fn markdown(what: &str, tasks: &[TableTask]) -> String {
    let mut heads = HEADS;
    heads[0] = what;
    let mut rows: Vec<[String; 9]> = Vec::new();
    for task in tasks {
        let mut metrics = task.metrics.clone();
        metrics.sort_by_key(|(metric, _)| metric.name());
        for (i, (metric, estimate)) in metrics.iter().enumerate() {
            let first = i == 0;
            rows.push([
                if first { task.name.clone() } else { String::new() },
                if first { task.version.to_string() } else { String::new() },
                "none".to_string(),
                task.num_fewshot.map_or(" ".to_owned(), |count| count.to_string()),
                metric.name().to_string(),
                if metric.higher_is_better() { "↑" } else { "↓" }.to_string(),
                number(estimate.value),
                "±".to_string(),
                estimate.stderr.map_or("   N/A".to_string(), number),
            ]);
        }
    }
    let right: Vec<bool> = (0..heads.len())
        .map(|column| {
            let numeric = |row: &[String; 9]| row[column].is_empty() || is_number(&row[column]);
            !heads[column].is_empty() && !rows.is_empty() && rows.iter().all(numeric)
        })
        .collect();
    for column in [6, 8] {
        let decimals = rows.iter().map(|row| decimals(&row[column])).max().unwrap_or(0);
        for row in &mut rows {
            if let Ok(value) = row[column].parse::<f64>()
                && value.is_finite()
            {
                row[column] = format!("{value:.decimals$}");
            }
        }
    }
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(heads[column].len()).max(3)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut out = String::new();
    // Writing to a string cannot fail.
    for (head, width) in heads.iter().zip(&widths) {
        let _ = write!(out, "|{head:^width$}");
    }
    out.push_str("|\n");
    for (width, right) in widths.iter().zip(&right) {
        let _ = if *right { write!(out, "|{:->1$}", ":", width) } else { write!(out, "|{:->1$}", "", width) };
    }
    out.push_str("|\n");
    for row in &rows {
        for ((cell, width), right) in row.iter().zip(&widths).zip(&right) {
            let _ = if *right { write!(out, "|{cell:>width$}") } else { write!(out, "|{cell:<width$}") };
        }
        out.push_str("|\n");
    }
    out
}

/// Four decimals, as the harness formats before the table is made; words as pytablewriter shows them.
fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_string()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity" } else { "-Infinity" }.to_string()
    } else {
        format!("{value:.4}")
    }
}

fn is_number(cell: &str) -> bool {
    matches!(cell, "NaN" | "Infinity" | "-Infinity") || cell.parse::<f64>().is_ok()
}

/// Decimals a cell needs, trailing zeros dropped.
fn decimals(cell: &str) -> usize {
    match cell.split_once('.') {
        Some((_, fraction)) if is_number(cell) => fraction.trim_end_matches('0').len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(name: &str, num_fewshot: usize, metrics: &[(Metric, f64, Option<f64>)]) -> TableTask {
        let metrics = metrics.iter().map(|&(metric, value, stderr)| (metric, Estimate { value, stderr })).collect();
        TableTask { name: name.to_string(), version: 1, num_fewshot: Some(num_fewshot), metrics }
    }

    // The expected tables are the output of the harness's own `make_table` (0.4.13, pytablewriter 1.2.1).

    #[test]
    fn equals_the_harness() {
        let tasks = [
            task(
                "arc_easy",
                0,
                &[(Metric::Acc, 0.51, Some(0.035_436_9)), (Metric::AccNorm, 0.465, Some(0.035_357_11))],
            ),
            task("winogrande", 0, &[(Metric::Acc, 0.5, Some(0.03535))]),
        ];
        assert_eq!(
            markdown("Tasks", &tasks),
            "\
|  Tasks   |Version|Filter|n-shot| Metric |   |Value|   |Stderr|
|----------|------:|------|-----:|--------|---|----:|---|-----:|
|arc_easy  |      1|none  |     0|acc     |↑  |0.510|±  |0.0354|
|          |       |none  |     0|acc_norm|↑  |0.465|±  |0.0354|
|winogrande|      1|none  |     0|acc     |↑  |0.500|±  |0.0353|
"
        );
    }

    #[test]
    fn decimals_follow_the_longest_number() {
        let tasks = [task("piqa", 10, &[(Metric::Acc, 1.0, Some(0.0)), (Metric::AccNorm, 1.0, Some(0.0))])];
        assert_eq!(
            markdown("Tasks", &tasks),
            "\
|Tasks|Version|Filter|n-shot| Metric |   |Value|   |Stderr|
|-----|------:|------|-----:|--------|---|----:|---|-----:|
|piqa |      1|none  |    10|acc     |↑  |    1|±  |     0|
|     |       |none  |    10|acc_norm|↑  |    1|±  |     0|
"
        );
        let metrics = [(Metric::Perplexity, 1_234_567_890.5, Some(34_567_890.25)), (Metric::Acc, 0.0, Some(0.0))];
        assert_eq!(
            markdown("Tasks", &[task("lambada_openai", 0, &metrics)]),
            "\
|    Tasks     |Version|Filter|n-shot|  Metric  |   |   Value    |   |  Stderr   |
|--------------|------:|------|-----:|----------|---|-----------:|---|----------:|
|lambada_openai|      1|none  |     0|acc       |↑  |         0.0|±  |       0.00|
|              |       |none  |     0|perplexity|↓  |1234567890.5|±  |34567890.25|
"
        );
    }

    #[test]
    fn words_move_left() {
        assert_eq!(
            markdown("Tasks", &[task("a", 0, &[(Metric::Acc, 0.25, None), (Metric::AccNorm, 0.5, None)])]),
            "\
|Tasks|Version|Filter|n-shot| Metric |   |Value|   |Stderr|
|-----|------:|------|-----:|--------|---|----:|---|------|
|a    |      1|none  |     0|acc     |↑  | 0.25|±  |   N/A|
|     |       |none  |     0|acc_norm|↑  | 0.50|±  |   N/A|
"
        );
        let metrics = [(Metric::Perplexity, f64::INFINITY, Some(f64::NAN)), (Metric::Acc, 0.5, Some(0.0))];
        assert_eq!(
            markdown("Tasks", &[task("lambada_openai", 0, &metrics)]),
            "\
|    Tasks     |Version|Filter|n-shot|  Metric  |   | Value  |   |Stderr|
|--------------|------:|------|-----:|----------|---|-------:|---|-----:|
|lambada_openai|      1|none  |     0|acc       |↑  |     0.5|±  |     0|
|              |       |none  |     0|perplexity|↓  |Infinity|±  |   NaN|
"
        );
    }

    #[test]
    fn groups_have_a_table_of_their_own() {
        let group = |name: &str, value, stderr| TableTask {
            name: name.to_string(),
            version: 2,
            num_fewshot: None,
            metrics: vec![(Metric::Acc, Estimate { value, stderr: Some(stderr) })],
        };
        let groups = [
            group("mmlu", 0.25431, 0.00371),
            group(" - humanities", 0.25, 0.0063),
            group(" - social sciences", 0.2612, 0.0083),
        ];
        assert_eq!(
            markdown("Groups", &groups),
            "\
|      Groups      |Version|Filter|n-shot|Metric|   |Value |   |Stderr|
|------------------|------:|------|------|------|---|-----:|---|-----:|
|mmlu              |      2|none  |      |acc   |↑  |0.2543|±  |0.0037|
| - humanities     |      2|none  |      |acc   |↑  |0.2500|±  |0.0063|
| - social sciences|      2|none  |      |acc   |↑  |0.2612|±  |0.0083|
"
        );
    }
}
