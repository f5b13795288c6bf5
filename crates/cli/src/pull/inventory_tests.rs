use super::*;
use crate::pull::Settings;

/// A cache of two repositories: a model of two revisions that share `blobs/a`, and a data set of plain files.
struct Tree {
    place: tempfile::TempDir,
    cache: Cache,
}

impl Tree {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("hub");
        let settings = Settings { endpoint: String::new(), token: None, cache: Some(root.clone()), offline: false };
        let tree = Self { place, cache: Cache::new(&settings).unwrap() };
        let model = tree.model();
        for (name, size) in [("a", 1000), ("b", 200), ("c", 30)] {
            write(&model.join("blobs").join(name), &vec![0; size]);
        }
        for (commit, names) in [("11", ["a", "b"]), ("22", ["a", "c"])] {
            for name in names {
                link(&format!("../../blobs/{name}"), &model.join("snapshots").join(commit).join(name));
            }
        }
        write(&model.join("refs/main"), b"22");
        write(&model.join("refs/pr/1"), b"11");
        write(&root.join("datasets--o--data/snapshots/33/test/0.parquet"), &[0; 50]);
        write(&root.join("version.txt"), b"1");
        tree
    }

    fn model(&self) -> PathBuf {
        self.cache.root().join("models--prism-ml--Bonsai-4B-gguf")
    }

    fn outside(&self) -> PathBuf {
        self.place.path().join("outside")
    }
}

const MODEL: &str = "prism-ml/Bonsai-4B-gguf";

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn link(target: &str, path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(target, path).unwrap();
    #[cfg(not(unix))]
    std::os::windows::fs::symlink_file(target, path).unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn repositories_are_listed_with_what_they_take() {
    let tree = Tree::new();
    let entries = tree.cache.entries();
    let seen: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.alias, entry.bytes)).collect();
    // Contents that two revisions share count once; the files that name commits count, too.
    assert_eq!(seen, [("datasets/o/data", None, 50), (MODEL, Some("bonsai-4b"), 1234)]);
    assert!(entries.iter().all(|entry| entry.last_used.is_some()));
    assert_eq!(entries[0].path, tree.cache.root().join("datasets--o--data/snapshots/33"));
    assert_eq!(entries[1].path, tree.model().join("snapshots/22"));
    // What an unfinished download left can be seen and removed.
    write(&tree.cache.root().join("models--x--y/blobs/z.part"), &[0; 9]);
    let entries = tree.cache.entries();
    assert_eq!((entries[2].name.as_str(), entries[2].bytes), ("x/y", 9));
    tree.cache.removal("x/y", None).unwrap().run().unwrap();
    assert_eq!(tree.cache.entries().len(), 2);
}

#[test]
fn a_repository_goes_as_a_whole() {
    let tree = Tree::new();
    let removal = tree.cache.removal(MODEL, None).unwrap();
    assert_eq!((removal.files, removal.bytes), (5, 1234));
    removal.run().unwrap();
    assert_eq!(names(tree.cache.root()), ["datasets--o--data", "version.txt"]);
    tree.cache.removal("datasets/o/data", None).unwrap().run().unwrap();
    assert_eq!(names(tree.cache.root()), ["version.txt"]);
    let error = tree.cache.removal(MODEL, None).unwrap_err();
    assert!(error.to_string().contains("is not in the cache"), "{error}");
}

#[test]
fn a_revision_goes_with_what_no_other_has() {
    for (revision, left, size) in [("main", "11", 30), ("22", "11", 30), ("11", "22", 200), ("pr/1", "", 0)] {
        let tree = Tree::new();
        // A revision under "refs/pr/1" is a path below refs.
        let left = if left.is_empty() { "22" } else { left };
        let removal = tree.cache.removal(MODEL, Some(revision)).unwrap();
        if size > 0 {
            assert_eq!((removal.files, removal.bytes), (1, size), "{revision}");
        }
        removal.run().unwrap();
        assert_eq!(names(&tree.model().join("snapshots")), [left], "{revision}");
        let blobs = if left == "11" { ["a", "b"] } else { ["a", "c"] };
        assert_eq!(names(&tree.model().join("blobs")), blobs, "{revision}");
        assert_eq!(tree.model().join("refs/main").exists(), left == "22", "{revision}");
        assert_eq!(tree.model().join("refs/pr/1").exists(), left == "11", "{revision}");
        // The last one takes everything with it.
        tree.cache.removal(MODEL, Some(left)).unwrap().run().unwrap();
        assert!(!tree.model().exists());
    }
}

#[cfg(unix)]
#[test]
fn nothing_outside_is_removed() {
    let outside = |tree: &Tree| names(&tree.outside());
    let refused = |tree: &Tree, revision: Option<&str>| {
        let error = tree.cache.removal(MODEL, revision).unwrap_err().to_string();
        assert!(error.contains("leads out of the cache"), "{error}");
        assert_eq!(outside(tree), ["precious"]);
    };
    // A repository, all snapshots and one snapshot that lie elsewhere.
    for (part, revision) in [("", None), ("snapshots", Some("11")), ("snapshots/11", Some("11"))] {
        let tree = Tree::new();
        let (from, to) = (tree.model().join(part), tree.place.path().join("moved"));
        fs::rename(from.as_path(), &to).unwrap();
        write(&tree.outside().join("precious"), b"x");
        link(to.to_str().unwrap(), &tree.model().join(part).components().collect::<PathBuf>());
        refused(&tree, revision);
        assert!(to.exists());
    }
    // Contents, names of commits and a file of a snapshot that lie elsewhere: only what is inside goes.
    let tree = Tree::new();
    write(&tree.outside().join("precious"), b"11");
    fs::remove_dir_all(tree.model().join("refs")).unwrap();
    link("../../outside", &tree.model().join("refs"));
    link("../../../../outside/precious", &tree.model().join("snapshots/11/precious"));
    link("../../../../outside/../outside/precious", &tree.model().join("snapshots/11/other"));
    tree.cache.removal(MODEL, Some("11")).unwrap().run().unwrap();
    assert_eq!(outside(&tree), ["precious"]);
    assert_eq!(names(&tree.model().join("blobs")), ["a", "c"]);
    let tree = Tree::new();
    fs::rename(tree.model().join("blobs"), tree.outside()).unwrap();
    link("../../outside", &tree.model().join("blobs"));
    tree.cache.removal(MODEL, Some("11")).unwrap().run().unwrap();
    assert_eq!(outside(&tree), ["a", "b", "c"]);
    tree.cache.removal(MODEL, None).unwrap().run().unwrap();
    assert_eq!(outside(&tree), ["a", "b", "c"]);
    assert!(!tree.model().exists());
}

#[test]
fn names_do_not_lead_out() {
    let tree = Tree::new();
    write(&tree.outside().join("snapshots/11/x"), b"x");
    for name in ["../outside", "..", "/", "", "datasets/../../outside", "prism-ml/../outside", "version.txt"] {
        assert!(tree.cache.removal(name, None).is_err(), "{name}");
        for revision in ["..", "../..", "/", "", "main/..", "../refs"] {
            assert!(tree.cache.removal(MODEL, Some(revision)).is_err(), "{revision}");
        }
    }
    assert_eq!(tree.cache.entries().len(), 2);
    assert!(tree.outside().join("snapshots/11/x").exists());
}
