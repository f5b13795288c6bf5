use sherry::NoProgress;
use sherry_measure::eval::data::{DataSource, Split};

use super::*;
use crate::pull::test_hub::{COMMIT, TestFile, TestHub, file, repository};

fn cache(root: &Path) -> Cache {
    Cache { root: root.to_path_buf() }
}

fn hub(server: &TestHub) -> Hub {
    Hub::new(Settings { endpoint: server.endpoint.clone(), token: None, cache: None, offline: false })
}

fn files() -> Vec<TestFile> {
    vec![
        file("README.md", "text"),
        file("a/test/0000.parquet", "a-test"),
        file("a/train/0000.parquet", "a-train-0"),
        file("a/train/0001.parquet", "a-train-1"),
        file("b/test/0000.parquet", "b-test"),
    ]
}

#[test]
fn splits_are_fetched_once_and_found_again() {
    let place = tempfile::tempdir().unwrap();
    let cache = cache(&place.path().join("hub"));
    assert_eq!(cache.dataset("o/n"), None);
    let server = TestHub::start(repository("datasets", files(), 2));
    let hub = hub(&server);
    let folder = cache.fetch(&hub, "o/n", Some("a"), Some(&["test"]), &NoProgress).unwrap();
    assert_eq!(cache.dataset("o/n"), Some(folder.clone()));
    assert_eq!(cache.snapshot(Repo::Dataset("o/n"), COMMIT), Some(folder.clone()));
    assert_eq!(fs::read_to_string(folder.join("a/test/0000.parquet")).unwrap(), "a-test");
    assert!(!folder.join("a/train").exists() && !folder.join("b").exists());
    // The training split comes later; what is there is not fetched again.
    assert_eq!(cache.fetch(&hub, "o/n", Some("a"), None, &NoProgress).unwrap(), folder);
    assert_eq!(fs::read_to_string(folder.join("a/train/0001.parquet")).unwrap(), "a-train-1");
    assert_eq!(server.paths().iter().filter(|path| path.contains("test/0000")).count(), 1);
    assert!(server.paths()[0].ends_with("/revision/refs%2Fconvert%2Fparquet"));
    assert!(!folder.with_file_name(format!("{COMMIT}.part")).exists());
    // A part that is lost later is noticed, the last one too.
    let source = DataSource::HubSet(folder.clone());
    assert_eq!(source.files(&["unused"], Some("a"), Split::Train).unwrap().len(), 2);
    fs::remove_file(folder.join("a/train/0001.parquet")).unwrap();
    let error = source.files(&["unused"], Some("a"), Split::Train).unwrap_err().to_string();
    assert!(error.contains("0001.parquet") && error.contains("missing"), "{error}");
}

#[test]
fn an_unfinished_split_is_not_there() {
    let place = tempfile::tempdir().unwrap();
    let cache = cache(place.path());
    // Commit, listing and the first of two files; then the hub is gone.
    let (mut answer, mut left) = (repository("datasets", files(), 100), 3);
    let server = TestHub::start(move |request| {
        left -= 1;
        if left < 0 { None } else { answer(request) }
    });
    let error = cache.fetch(&hub(&server), "o/n", Some("a"), Some(&["train"]), &NoProgress).unwrap_err();
    assert!(format!("{error:#}").contains("data set o/n: "), "{error:#}");
    assert_eq!(cache.dataset("o/n"), None);
    let server = TestHub::start(repository("datasets", files(), 100));
    let folder = cache.fetch(&hub(&server), "o/n", Some("a"), Some(&["train"]), &NoProgress).unwrap();
    assert_eq!(fs::read_to_string(folder.join("a/train/0001.parquet")).unwrap(), "a-train-1");
    assert!(!server.paths().iter().any(|path| path.contains("0000")), "the first file was there");
}

#[test]
fn what_the_hub_lacks_is_named() {
    let place = tempfile::tempdir().unwrap();
    let cache = cache(place.path());
    let server = TestHub::start(repository("datasets", files(), 100));
    let hub = hub(&server);
    let error = cache.fetch(&hub, "o/n", Some("c"), Some(&["test"]), &NoProgress).unwrap_err().to_string();
    assert!(error.contains("data set o/n, configuration c, split test: the hub has no Parquet files"), "{error}");
    let error = cache.fetch(&hub, "o/other", None, None, &NoProgress).unwrap_err();
    assert!(format!("{error:#}").contains("o/other: the hub answered 404"), "{error:#}");
    assert!(cache.dataset("o/n").is_none() && cache.dataset("o/other").is_none());
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("hub");
    for name in ["../../0000.parquet", "a/../0000.parquet", "a/nul/0.parquet", "a/test/nul.parquet"] {
        let server = TestHub::start(repository("datasets", vec![file(name, "x")], 100));
        assert!(cache(&root).fetch(&hub(&server), "o/n", None, None, &NoProgress).is_err(), "{name}");
        assert!(!place.path().join("0000.parquet").exists());
    }
    for revision in ["../x", "/etc", "a\\b", ""] {
        assert_eq!(cache(&root).snapshot(Repo::Dataset("o/n"), revision), None);
    }
}
