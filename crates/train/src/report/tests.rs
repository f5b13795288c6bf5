use std::fs;
use std::path::Path;

use super::*;
use crate::error::Result;

fn run(folder: &Path, name: &str, lines: &str) -> Result<Run> {
    let folder = folder.join(name);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("metrics.jsonl"), lines).unwrap();
    crate::run_folder::note_command(&folder, "sherry train 'a<b.toml'").unwrap();
    crate::run_folder::note_command(&folder, "sherry train 'a<b.toml'").unwrap();
    Run::read(&folder)
}

fn results(folder: &Path, name: &str, text: &str) -> ResultsFile {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    ResultsFile::read(&path).unwrap()
}

/// The page, whose elements are checked to be closed.
fn page(runs: &[Run], evaluations: &[ResultsFile], calibrations: &[Calibration]) -> String {
    let page = Page { runs, evaluations, calibrations, metric: Metric::AccNorm }.html();
    for outside in ["http:", "https:", " src=", "url(", "@import", "NaN", "a<b"] {
        assert!(!page.contains(outside), "{outside}");
    }
    for tag in
        ["figure", "svg", "div", "table", "tr", "td", "th", "h2", "h3", "p", "ul", "li", "section", "script", "dl"]
    {
        let (open, close) = (format!("<{tag}"), format!("</{tag}>"));
        let opened =
            page.match_indices(&open).filter(|(at, _)| !page[at + open.len()..].starts_with(char::is_alphanumeric));
        assert_eq!(opened.count(), page.matches(&close).count(), "{tag}");
    }
    page
}

#[test]
fn a_page_holds_all_runs_and_needs_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let line = |step: u64, rank: f64| {
        format!(
            "{{\"step\":{step},\"loss\":{},\"valid_loss\":2.5,\"lr\":1e-3,\"lambda\":0.5,\"tokens\":{step}00,\
             \"effective_rank\":{{\"q\":{rank},\"k\":null}},\"grad_norms\":{{\"q\":1,\"k\":2}},\
             \"histogram\":{{\"q\":[0.5,0.5]}}}}\n",
            3.0 - step as f64 / 100.0
        )
    };
    let healthy: String = (1..=60).map(|step| line(step, 20.0)).collect();
    let collapsed: String = (1..=60).map(|step| line(step, if step > 30 { 2.0 } else { 20.0 })).collect();
    let runs =
        [run(folder.path(), "a<b", &healthy).unwrap(), run(folder.path(), "second", &(collapsed + "{\"st")).unwrap()];
    assert!(runs[0].warnings().is_empty());
    assert!(runs[1].warnings()[0].contains("collapsed: 2.0 at step 31"));
    let page = page(&runs, &[], &[]);
    for part in [
        "a&lt;b",
        "<b>second</b>: effective rank collapsed",
        "<h3>Validation loss</h3><span class=\"unit\">nats per token",
        "2.5000 at step 1<",
        "<b>12.18</b> validation perplexity",
        "<h3>q</h3>",
        "<pre><code>sherry train 'a&lt;b.toml'</code></pre>",
    ] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn bad_metrics_are_named_with_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let message = run(folder.path(), "x", "{\"step\":1}\n{\"step\":\"two\"}\n").unwrap_err().to_string();
    assert!(message.contains("metrics.jsonl") && message.contains("line 2"), "{message}");
    assert!(run(folder.path(), "y", "").unwrap_err().to_string().contains("no metrics yet"));
    assert!(Run::read(&folder.path().join("absent")).is_err());
    assert!(!Run::is_at(folder.path()));
}

#[test]
fn evaluations_have_bars_with_their_errors() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, right: f64, error: &str| {
        let text = format!(
            r#"{{"results": {{"piqa": {{"acc,none": 0.9, "acc_norm,none": {right}, "acc_norm_stderr,none": {error}}},
                "lambada_openai": {{"acc,none": 0.25, "perplexity,none": 40.5, "perplexity_stderr,none": 2.5}}}},
                "sherry": {{"command": "sherry eval a<b",
                "perplexity": [{{"perplexity": 22.5, "perplexity_stderr": 0.5}}]}}}}"#
        );
        results(folder.path(), name, &text)
    };
    let page = page(&[], &[file("a.json", 0.5, "0.125"), file("b.json", 0.75, "\"N/A\"")], &[]);
    for part in [
        "<span class=\"what\">piqa</span>",
        // From 0.375 to 0.625.
        "<i class=\"whisker\" style=\"left:37.50%;width:25.00%\">",
        "0.500 <small>± 0.125</small>",
        "<span class=\"value\">0.750</span>",
        "40.50 <small>± 2.50</small>",
        "22.50 <small>± 0.50</small>",
        "sherry eval a&lt;b",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("N/A"));
}

#[test]
fn post_training_is_drawn_as_far_as_it_went() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.sherry.report.json");
    let block = |at: u64| {
        format!(r#"{{"block": {at}, "maps": [{{"map": "q,k,v", "rounding_error": 0.1}}], "held_out_error": 0.2}}"#)
    };
    let text = format!(r#"{{"held_out": 64, "tokens": 100, "blocks": [{}, {}],"#, block(0), block(1));
    let read = |rest: &str| {
        fs::write(&path, format!("{text} {rest}}}")).unwrap();
        Calibration::read(&path)
    };
    let rounded = read(r#""original_perplexity": 10.0, "rounded": {"perplexity": 40.0, "divergence": 1.5}"#);
    let rounded = rounded.unwrap().unwrap();
    assert_eq!(
        (rounded.name().as_str(), rounded.perplexity(), rounded.divergence()),
        ("out.sherry", Some(40.0), Some(1.5))
    );
    let written = read(r#""written": {"written_perplexity": 30.0, "int8_perplexity": 31.0}"#).unwrap().unwrap();
    let page = page(&[], &[], &[rounded, written]);
    for part in
        ["Perplexity by stage", ">written, int8<", "<h3>out.sherry</h3>", ">q,k,v<", "Difference of the streams"]
    {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("Tuning of scales"));
    let message = read(r#""rounded": 3"#).unwrap_err().to_string();
    assert!(message.contains("out.sherry.report.json"), "{message}");
    fs::write(&path, r#"{"results": {}}"#).unwrap();
    assert!(Calibration::read(&path).unwrap().is_none());
}
