use super::*;

fn run(folder: &Path, name: &str, lines: &str) -> Result<Run> {
    let folder = folder.join(name);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("metrics.jsonl"), lines).unwrap();
    Run::read(&folder)
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
    let page = html(&runs);
    assert!(page.contains("a&lt;b") && !page.contains("a<b"));
    for part in ["second: effective rank collapsed", "validation loss", "2.5000 (1)", "12.18", "q</figcaption>"] {
        assert!(page.contains(part), "{part}");
    }
    for outside in ["http", "src=", "url(", "@import", "<script", "NaN"] {
        assert!(!page.contains(outside), "{outside}");
    }
    for tag in ["figure", "svg", "div", "table", "tr", "td", "h2", "p", "span"] {
        let (open, close) = (format!("<{tag}"), format!("</{tag}>"));
        let opened =
            page.match_indices(&open).filter(|(at, _)| !page[at + open.len()..].starts_with(char::is_alphanumeric));
        assert_eq!(opened.count(), page.matches(&close).count(), "{tag}");
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
