use std::sync::{Arc, Mutex};

use sherry::NoProgress;
use tempfile::TempDir;

use super::*;
use crate::pull::Settings;
use crate::pull::test_hub::{Answer, COMMIT, Request, TestFile, TestHub, file, large, repository};

const REPO: Repo<'_> = Repo::Model("o/n");

fn settings(endpoint: &str) -> Settings {
    Settings { endpoint: endpoint.to_owned(), token: None, cache: None, offline: false }
}

fn hub(server: &TestHub) -> Hub {
    Hub::new(settings(&server.endpoint))
}

fn place() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn bytes(count: u32) -> Vec<u8> {
    (0..count).map(|i| ((i * 7) >> 3) as u8).collect()
}

/// Brings the first file of the repository into `folder`.
fn fetch(hub: &Hub, folder: &Path) -> Result<PathBuf, HubError> {
    let files = hub.list(REPO, COMMIT)?;
    hub.download(REPO, COMMIT, &files[0], folder, &NoProgress)
}

/// The repository's answers, each changed by `change` for files.
fn changed(
    files: Vec<TestFile>,
    mut change: impl FnMut(&Request, Answer) -> Option<Answer> + Send + 'static,
) -> impl FnMut(&Request) -> Option<Answer> + Send + 'static {
    let mut answer = repository("models", files, 100);
    move |request| {
        let answer = answer(request)?;
        if request.path.contains("/resolve/") { change(request, answer) } else { Some(answer) }
    }
}

#[test]
fn a_broken_download_resumes_and_verifies() {
    for contents in [large("m.bin", bytes(300_000)), file("m.bin", bytes(300_000))] {
        let mut first = true;
        let server = TestHub::start(changed(vec![contents.clone()], move |_, answer| {
            let sent = if std::mem::take(&mut first) { 100_000 } else { usize::MAX };
            Some(Answer { sent, ..answer })
        }));
        let (folder, hub) = (place(), hub(&server));
        let error = fetch(&hub, folder.path()).unwrap_err();
        assert!(
            matches!(error, HubError::Unreachable { .. }) && error.to_string().contains("m.bin broke off"),
            "{error}"
        );
        assert_eq!(fs::metadata(folder.path().join("m.bin.part")).unwrap().len(), 100_000);
        let path = fetch(&hub, folder.path()).unwrap();
        assert_eq!(fs::read(path).unwrap(), contents.contents);
        assert_eq!(server.asked.lock().unwrap().last().unwrap().from(), 100_000);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_wrong_checksum_is_refused_and_removed() {
    for wrong in [large("m.bin", bytes(5000)), file("m.bin", bytes(5000))] {
        let server = TestHub::start(changed(vec![wrong], |_, answer| Some(Answer { body: vec![1; 5000], ..answer })));
        let folder = place();
        let error = fetch(&hub(&server), folder.path()).unwrap_err();
        assert!(error.to_string().contains("m.bin: the checksum does not match"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[test]
fn an_edited_file_of_the_same_size_is_fetched_again() {
    for contents in [file("config.json", "{\"a\": 2}"), large("config.json", "{\"a\": 2}")] {
        let server = TestHub::start(repository("models", vec![contents], 100));
        let (folder, hub) = (place(), hub(&server));
        let path = folder.path().join("config.json");
        fs::write(&path, "{\"a\": 1}").unwrap();
        let requests = || server.paths().iter().filter(|path| path.contains("/resolve/")).count();
        fetch(&hub, folder.path()).unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), requests()), ("{\"a\": 2}", 1));
        fetch(&hub, folder.path()).unwrap();
        assert_eq!(requests(), 1, "it was current");
    }
}

#[test]
fn what_lies_here_of_another_version_is_not_a_beginning() {
    let contents = large("m.bin", bytes(5000));
    for junk in [vec![9; 100], vec![9; 5000], vec![9; 6000]] {
        let server = TestHub::start(repository("models", vec![contents.clone()], 100));
        let folder = place();
        fs::write(folder.path().join("m.bin.part"), junk).unwrap();
        let path = fetch(&hub(&server), folder.path()).unwrap();
        assert_eq!(fs::read(path).unwrap(), contents.contents);
    }
}

#[test]
fn servers_may_not_resume() {
    let contents = file("m.bin", bytes(5000));
    let whole = contents.contents.clone();
    let no_ranges = move |request: &Request, _: Answer| {
        assert!(request.from() == 0 || request.from() == 100);
        Some(Answer::new(200, whole.clone()))
    };
    let whole = contents.contents.clone();
    let other_range = move |request: &Request, _: Answer| {
        let answer = Answer::new(206, &whole[50..]).with("Content-Range", "bytes 50-4999/5000");
        Some(if request.from() == 0 { Answer::new(200, whole.clone()) } else { answer })
    };
    let whole = contents.contents.clone();
    let refusing = move |request: &Request, _: Answer| {
        Some(if request.from() == 0 { Answer::new(200, whole.clone()) } else { Answer::new(416, "no") })
    };
    let more = contents.contents.clone();
    let too_much = move |_: &Request, _: Answer| Some(Answer::new(200, [&more[..], &[7; 9000]].concat()));
    let files = || vec![contents.clone()];
    for server in [
        TestHub::start(changed(files(), no_ranges)),
        TestHub::start(changed(files(), other_range)),
        TestHub::start(changed(files(), refusing)),
        TestHub::start(changed(files(), too_much)),
    ] {
        let folder = place();
        fs::write(folder.path().join("m.bin.part"), &contents.contents[..100]).unwrap();
        let path = fetch(&hub(&server), folder.path()).unwrap();
        assert_eq!(fs::read(path).unwrap(), contents.contents);
    }
}

#[test]
fn all_pages_of_a_listing_are_read() {
    let files: Vec<TestFile> = (0..7).map(|i| file(&format!("{i}.txt"), [i])).collect();
    let server = TestHub::start(repository("models", files, 3));
    let found = hub(&server).list(REPO, COMMIT).unwrap();
    let names: Vec<&str> = found.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(names, ["0.txt", "1.txt", "2.txt", "3.txt", "4.txt", "5.txt", "6.txt"]);
    assert_eq!(server.paths().len(), 3);
    // A listing without end has one.
    let server = TestHub::start(|request| {
        Some(Answer::new(200, "[]").with("Link", format!("<{}>; rel=\"next\"", request.path)))
    });
    let error = hub(&server).list(REPO, COMMIT).unwrap_err().to_string();
    assert!(error.contains("o/n: a listing of more than 2000 pages"), "{error}");
}

#[test]
fn nonsense_is_named() {
    let listing = |text: &str| {
        let text = text.to_owned();
        let server = TestHub::start(move |_| Some(Answer::new(200, text.clone())));
        hub(&server).list(REPO, COMMIT).unwrap_err().to_string()
    };
    for (text, part) in [
        ("<html>", "not a file listing"),
        (r#"[{"type":"file","path":"a"}]"#, "a size"),
        (r#"[{"type":"file","path":"a","size":1,"oid":"xyz"}]"#, "an object id"),
        (r#"[{"type":"file","path":"a","size":1,"lfs":{"oid":"00","size":1}}]"#, "a SHA-256"),
        ("\u{feff}[]", "not a file listing"),
    ] {
        let error = listing(text);
        assert!(error.starts_with("o/n: ") && error.contains(part), "{text}: {error}");
    }
    let commit = |text: &str| {
        let text = text.to_owned();
        let server = TestHub::start(move |_| Some(Answer::new(200, text.clone())));
        hub(&server).commit(REPO, "main").unwrap_err().to_string()
    };
    for text in ["{}", "[]", r#"{"sha": "main"}"#, r#"{"sha": "../../0123456789abcdef0123456789abcdef01"}"#] {
        assert!(commit(text).contains("no commit is named"), "{text}");
    }
    let turning = TestHub::start(|_| Some(Answer::new(302, "").with("Location", "/again")));
    assert!(hub(&turning).commit(REPO, "main").unwrap_err().to_string().contains("redirects"));
    let error = Hub::new(settings("http://127.0.0.1:1")).list(REPO, COMMIT).unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
}

#[test]
fn names_and_revisions_are_escaped() {
    let name = "sub dir/100%#1?+é.bin";
    let server = TestHub::start(repository("models", vec![file(name, "x")], 100));
    let (folder, hub) = (place(), hub(&server));
    hub.commit(REPO, "refs/pr/1 #?").unwrap();
    // '?' cannot be in a name on every system.
    assert!(matches!(fetch(&hub, folder.path()), Err(HubError::BadName { .. })));
    let name = name.replace('?', "&");
    let server = TestHub::start(repository("models", vec![file(&name, "x")], 100));
    let path = fetch(&Hub::new(settings(&server.endpoint)), folder.path()).unwrap();
    assert_eq!(path, folder.path().join(name));
    assert_eq!(hub.commit(REPO, "main").unwrap(), COMMIT);
    assert!(server.paths().contains(&format!("/o/n/resolve/{COMMIT}/sub%20dir/100%25%231%26%2B%C3%A9.bin")));
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in ["../evil", "/evil", "a/../../evil", "..\\evil", "C:\\evil", "c:evil", "\\\\host\\evil", "nul", "a\0"] {
        let server = TestHub::start(repository("models", vec![file(name, "x")], 100));
        let place = place();
        let folder = place.path().join("in/ner");
        let error = fetch(&hub(&server), &folder).unwrap_err();
        assert!(matches!(error, HubError::BadName { .. }), "{name}: {error}");
        assert!(error.to_string().contains("o/n: file"), "{error}");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "{name}");
        assert!(server.paths().iter().all(|path| !path.contains("resolve")));
    }
}

#[test]
fn only_the_hub_learns_the_token() {
    let other = TestHub::start(|_| Some(Answer::new(200, "contents")));
    let elsewhere = format!("{}/blob", other.endpoint);
    let mut moved = true;
    let server = TestHub::start(changed(vec![file("a", "contents")], move |request, answer| {
        // First to another place on the same server, from there to another server.
        if std::mem::take(&mut moved) {
            return Some(Answer::new(307, "").with("Location", request.path.clone()));
        }
        drop(answer);
        Some(Answer::new(302, "").with("Location", elsewhere.clone()))
    }));
    let folder = place();
    let hub = Hub::new(Settings { token: Some("hf_secret".to_owned()), ..settings(&server.endpoint) });
    fetch(&hub, folder.path()).unwrap();
    let tokens = |server: &TestHub| -> Vec<Option<String>> {
        server.asked.lock().unwrap().iter().map(|request| request.headers.get("authorization").cloned()).collect()
    };
    assert_eq!(tokens(&server), vec![Some("Bearer hf_secret".to_owned()); 3]);
    assert_eq!(tokens(&other), [None]);
}

#[test]
fn two_do_not_write_the_same() {
    let server = TestHub::start(repository("models", vec![file("a", "contents")], 100));
    let (folder, hub) = (place(), hub(&server));
    let busy = File::create(folder.path().join("a.part")).unwrap();
    busy.lock().unwrap();
    let error = fetch(&hub, folder.path()).unwrap_err();
    assert!(matches!(error, HubError::Busy { .. }), "{error}");
    drop(busy);
    fetch(&hub, folder.path()).unwrap();
}

#[test]
fn the_cache_of_other_tools_saves_the_way() {
    for contents in [file("a", "contents"), large("a", "contents")] {
        let server = TestHub::start(repository("models", vec![contents.clone()], 100));
        let (folder, cache) = (place(), place());
        let blobs = cache.path().join("models--o--n/blobs");
        fs::create_dir_all(&blobs).unwrap();
        let name = if contents.large { contents.sha256() } else { contents.blob() };
        let hub = Hub::new(Settings { cache: Some(cache.path().to_owned()), ..settings(&server.endpoint) });
        let downloads = || server.paths().iter().filter(|path| path.contains("/resolve/")).count();
        // What is damaged there is of no use.
        for (there, asked) in [("contents", 0), ("c0ntents", 1)] {
            fs::write(blobs.join(&name), there).unwrap();
            let path = fetch(&hub, folder.path()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "contents");
            assert_eq!(downloads(), asked);
            fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn nothing_is_asked_offline() {
    let server = TestHub::start(repository("models", vec![file("a", "contents")], 100));
    let hub = Hub::new(Settings { offline: true, ..settings(&server.endpoint) });
    for error in [hub.commit(REPO, "main").unwrap_err(), hub.list(REPO, COMMIT).unwrap_err()] {
        assert!(matches!(error, HubError::Offline { .. }), "{error}");
        assert!(error.to_string().contains("o/n: not on this machine, and HF_HUB_OFFLINE"), "{error}");
    }
    assert!(server.paths().is_empty());
}

#[test]
fn an_interrupted_download_stays_for_the_next() {
    struct Stop(Arc<Mutex<u64>>);
    impl Progress for Stop {
        fn start(&self, _: &str, _: u64) {}
        fn advance(&self, done: u64) {
            *self.0.lock().unwrap() += done;
        }
        fn finish(&self) {}
        fn note(&self, _: &str) {}
        fn is_cancelled(&self) -> bool {
            *self.0.lock().unwrap() > 0
        }
    }
    let server = TestHub::start(repository("models", vec![large("a", bytes(2_000_000))], 100));
    let (folder, hub) = (place(), hub(&server));
    let files = hub.list(REPO, COMMIT).unwrap();
    let stop = Stop(Arc::default());
    assert!(matches!(hub.download(REPO, COMMIT, &files[0], folder.path(), &stop), Err(HubError::Interrupted)));
    assert!(folder.path().join("a.part").exists() && !folder.path().join("a").exists());
    fetch(&hub, folder.path()).unwrap();
}
