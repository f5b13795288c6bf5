//! Chat templates against Python's Jinja2: cases made from a seed, and templates of real models.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;
use sherry::chat::{ChatTemplate, Conversation, LocalTime};
use sherry_testing::{Outcome, python, workspace};

sherry_testing::main![generated_templates_render_as_jinja2_does, templates_of_models_render_as_jinja2_does];

/// What is refused by name where Jinja2 gives a text: it would be another one each time, or is of a kind that no chat
/// template uses.
const REFUSED: [&str; 2] = ["lies in memory", "not supported"];

/// Ours, for a case of `reference.py`.
fn render(case: &Value) -> Result<String, String> {
    let now = LocalTime::new((2024, 7, 6), (5, 3, 9)).expect("a date");
    let template = ChatTemplate::new(case["template"].as_str().expect("a template"), Some("<B>"), Some("<E>"));
    let conversation = Conversation {
        tools: case["tools"].as_array().map(Vec::as_slice),
        add_generation_prompt: case["prompt"].as_bool().expect("a boolean"),
        variables: case["variables"].as_object(),
        ..Conversation::new(case["messages"].as_array().expect("messages"))
    };
    let prompt = template.and_then(|template| template.with_time(now).render_conversation(&conversation));
    prompt.map(|prompt| prompt.text).map_err(|err| err.to_string())
}

/// Renders all cases that `reference.py` makes of `arguments`, and says how many came to a text, to an error, and to a
/// refusal by name.
fn compare(arguments: &[&str]) -> Result<[usize; 3], sherry_testing::Missing> {
    let script = workspace().join("crates/sherry/src/chat/golden/reference.py");
    let mut python = python(&["jinja2"])?.arg(script).args(arguments).stdout(Stdio::piped()).spawn().expect("python3");
    let mut counts = [0; 3];
    let mut wrong = Vec::new();
    for line in BufReader::new(python.stdout.take().expect("piped")).lines() {
        let case: Value = serde_json::from_str(&line.expect("text")).expect("JSON");
        let ours = render(&case);
        match (&ours, case["expected"].as_str()) {
            (Ok(text), Some(expected)) if text == expected => counts[0] += 1,
            (Err(_), None) => counts[1] += 1,
            (Err(err), Some(_)) if REFUSED.iter().any(|refused| err.contains(refused)) => counts[2] += 1,
            _ => wrong.push(format!(
                "{}\n  ours {ours:?}\n  Jinja2 {}{}",
                case["file"].as_str().or(case["template"].as_str()).expect("text"),
                case["expected"],
                case["error"]
            )),
        }
    }
    assert!(python.wait().expect("python3").success());
    assert!(wrong.is_empty(), "{} wrong, such as\n{}", wrong.len(), wrong[..wrong.len().min(10)].join("\n"));
    Ok(counts)
}

fn generated_templates_render_as_jinja2_does() -> Outcome {
    let [texts, errors, refused] = compare(&["generated", "1", "3000"])?;
    assert!(texts > 1000 && errors > 500 && refused < 100, "{texts} texts, {errors} errors, {refused} refused");
    Ok(())
}

/// Those below `SHERRY_TEMPLATES`, with conversations of all kinds.
fn templates_of_models_render_as_jinja2_does() -> Outcome {
    let folder: PathBuf = sherry_testing::folder("SHERRY_TEMPLATES")?;
    let [texts, _, refused] = compare(&["folder", folder.to_str().expect("UTF-8")])?;
    assert!(texts > 0 && refused == 0, "{texts} texts, {refused} refused");
    Ok(())
}
