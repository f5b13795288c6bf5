//! Every item of the real benchmark sets, and the requests of the reference harness.

use serde_json::Value;
use sherry_measure::eval::data::{DataSource, read_text};
use sherry_measure::eval::tasks::TASKS;
use sherry_measure::eval::{Item, Limit, Task};
use sherry_testing::{Outcome, data};

sherry_testing::main![prompts_equal_the_reference_requests, every_item_of_every_set_becomes_requests];

fn prompts_equal_the_reference_requests() -> Outcome {
    let text = read_text(&data("reference/smollm2_lmeval.json")?).unwrap();
    let reference: Value = serde_json::from_str(&text).unwrap();
    let mut checked = 0;
    for (name, entry) in reference["tasks"].as_object().unwrap() {
        let run =
            Task::find(name).unwrap().prepare(&[DataSource::Folder(data("eval")?)], Limit::Items(200), 0, 0).unwrap();
        for expected in entry["per_item"].as_array().unwrap() {
            let item = &run.items[expected["item"].as_u64().unwrap() as usize];
            assert_eq!(item.gold as u64, expected["gold"].as_u64().unwrap(), "{name} item {}", item.index);
            assert_eq!(item.requests.len(), expected["logprobs"].as_array().unwrap().len());
            if let Some(request) = expected.get("first_request") {
                assert_eq!(item.requests[0].context, request[0].as_str().unwrap());
                assert_eq!(item.requests[0].continuation, request[1].as_str().unwrap());
                checked += 1;
            }
        }
    }
    assert!(checked >= 5, "{checked}");
    Ok(())
}

fn every_item_of_every_set_becomes_requests() -> Outcome {
    let expected = [2376, 1172, 10042, 1838, 1267, 500, 3270, 5153];
    for (task, count) in TASKS.iter().zip(expected) {
        let run = task.prepare(&[DataSource::Folder(data("eval")?)], Limit::All, 0, 0).unwrap();
        assert_eq!((run.items.len(), run.original), (count, count), "{}", task.name);
        let lengths = |item: &Item| item.requests.len() == item.lengths.len() || task.name == "winogrande";
        assert!(run.items.iter().all(lengths));
        if task.name == "hellaswag" {
            let spaced = |item: &&Item| item.requests.iter().any(|request| request.continuation.starts_with("  "));
            // The README of the data counts 4835 items with a leading space in an ending.
            assert_eq!(run.items.iter().filter(spaced).count(), 4835);
        }
    }
    Ok(())
}
