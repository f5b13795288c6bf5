use sherry::NoProgress;

use super::super::hub::Hub;
use super::super::test_hub::{COMMIT, TestFile, TestHub, file, large, repository};
use super::*;
use crate::pull::Settings;

const REPO: Repo<'_> = Repo::Model("o/n");

fn place() -> (tempfile::TempDir, Cache) {
    let place = tempfile::tempdir().unwrap();
    let settings =
        Settings { endpoint: String::new(), token: None, cache: Some(place.path().to_owned()), offline: false };
    let cache = Cache::new(&settings).unwrap();
    (place, cache)
}

fn hub(server: &TestHub) -> Hub {
    Hub::new(Settings { endpoint: server.endpoint.clone(), token: None, cache: None, offline: false })
}

fn store(cache: &Cache, server: &TestHub) -> Result<PathBuf, HubError> {
    let hub = hub(server);
    let listing = hub.list(REPO, COMMIT)?;
    let files: Vec<&RemoteFile> = listing.iter().collect();
    cache.store(&hub, REPO, ["main", COMMIT], &files, &NoProgress)
}

fn files() -> Vec<TestFile> {
    vec![file("config.json", "{}"), large("sub/dir/model.safetensors", vec![7; 3000])]
}

#[test]
fn files_lie_where_other_programs_look_for_them() {
    let (place, cache) = place();
    let server = TestHub::start(repository("models", files(), 100));
    let listing = hub(&server).list(REPO, COMMIT).unwrap();
    let all: Vec<&RemoteFile> = listing.iter().collect();
    assert_eq!(cache.missing(REPO, &all), 3002);
    let snapshot = store(&cache, &server).unwrap();
    assert_eq!(cache.missing(REPO, &all), 0);
    let folder = place.path().join("models--o--n");
    assert_eq!(snapshot, folder.join("snapshots").join(COMMIT));
    assert_eq!(cache.snapshot(REPO, "main"), Some(snapshot.clone()));
    assert_eq!(fs::read_to_string(folder.join("refs/main")).unwrap(), COMMIT);
    for file in files() {
        let name = if file.large { file.sha256() } else { file.blob() };
        assert_eq!(fs::read(folder.join("blobs").join(&name)).unwrap(), file.contents, "{}", file.path);
        assert_eq!(fs::read(snapshot.join(&file.path)).unwrap(), file.contents, "{}", file.path);
        #[cfg(unix)]
        {
            let ups = "../".repeat(file.path.matches('/').count() + 2);
            let expected = PathBuf::from(format!("{ups}blobs/{name}"));
            assert_eq!(fs::read_link(snapshot.join(&file.path)).unwrap(), expected, "{}", file.path);
        }
    }
    // Again nothing is fetched, and a link that leads elsewhere is set right.
    fs::remove_file(snapshot.join("config.json")).unwrap();
    fs::write(snapshot.join("config.json"), "edited").unwrap();
    store(&cache, &server).unwrap();
    assert_eq!(fs::read_to_string(snapshot.join("config.json")).unwrap(), "{}");
    assert_eq!(server.paths().iter().filter(|path| path.contains("/resolve/")).count(), 2);
}

#[test]
fn names_appear_when_all_files_are_there() {
    let (place, cache) = place();
    // The listing and the first file; then the hub is gone.
    let (mut answer, mut left) = (repository("models", files(), 100), 2);
    let server = TestHub::start(move |request| {
        left -= 1;
        if left < 0 { None } else { answer(request) }
    });
    assert!(matches!(store(&cache, &server), Err(HubError::Unreachable { .. })));
    assert_eq!(cache.snapshot(REPO, "main"), None);
    assert!(!place.path().join("models--o--n/snapshots").exists());
    let server = TestHub::start(repository("models", files(), 100));
    store(&cache, &server).unwrap();
    assert!(!server.paths().iter().any(|path| path.ends_with("config.json")), "it was there");
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in ["../evil", "a/../../evil", "/etc/evil", "nul"] {
        let (place, cache) = place();
        let server = TestHub::start(repository("models", vec![file(name, "x")], 100));
        assert!(matches!(store(&cache, &server), Err(HubError::BadName { .. })), "{name}");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "{name}");
    }
}
