use std::ffi::OsString;
use std::sync::Barrier;

use super::*;

fn entries(folder: &Path) -> Vec<OsString> {
    let mut names: Vec<OsString> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    names
}

#[test]
fn appears_only_on_commit() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("model.gguf");
    fs::write(&target, b"old").unwrap();
    let mut file = AtomicFile::create(&target).unwrap();
    file.write(b"new").unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"old");
    file.commit().unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"new");
    assert_eq!(entries(folder.path()), ["model.gguf"]);
}

#[test]
fn a_header_can_be_written_last() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("x");
    let mut file = AtomicFile::create(&target).unwrap();
    file.write(b"????body").unwrap();
    file.overwrite(0, b"head").unwrap();
    file.write(b" end").unwrap();
    file.commit().unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"headbody end");
}

#[test]
fn what_is_dropped_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = AtomicFile::create(&folder.path().join("x")).unwrap();
    file.write(b"half").unwrap();
    let staged = AtomicFolder::create(&folder.path().join("y")).unwrap();
    fs::write(staged.path().join("z"), b"half").unwrap();
    assert_eq!(entries(folder.path()).len(), 2);
    drop((file, staged));
    assert!(entries(folder.path()).is_empty());
}

#[test]
fn what_exists_stays_unless_it_may_be_replaced() {
    let place = tempfile::tempdir().unwrap();
    let (file, folder) = (place.path().join("file"), place.path().join("folder"));
    fs::write(&file, b"first").unwrap();
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a"), b"first").unwrap();
    let mut second = AtomicFile::create(&file).unwrap();
    second.set_replace(false);
    second.write(b"second").unwrap();
    let error = second.commit().unwrap_err().to_string();
    assert!(error.contains("file: cannot write: it exists"), "{error}");
    for target in [&file, &folder] {
        let error = AtomicFolder::create(target).unwrap().commit(false).unwrap_err().to_string();
        assert!(error.contains("cannot create: it exists"), "{error}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"first");
    assert_eq!(fs::read(folder.join("a")).unwrap(), b"first");
    assert_eq!(entries(place.path()), ["file", "folder"]);
    // A folder, then a file replaced by a folder.
    for target in [&folder, &file] {
        let staged = AtomicFolder::create(target).unwrap();
        fs::write(staged.path().join("b"), b"second").unwrap();
        staged.commit(true).unwrap();
        assert_eq!(entries(target), ["b"]);
    }
    assert_eq!(entries(place.path()), ["file", "folder"]);
}

/// Of several that write one name at the same time exactly one succeeds, and what is there is whole.
#[test]
fn one_of_many_wins() {
    const MANY: usize = 6;
    let place = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let (file, folder) = (place.path().join(format!("file{round}")), place.path().join(format!("folder{round}")));
        let barrier = Barrier::new(MANY);
        let write = |number: usize| {
            let mut made = AtomicFile::create(&file).unwrap();
            made.set_replace(false);
            made.write(&[number as u8; 9]).unwrap();
            let staged = AtomicFolder::create(&folder).unwrap();
            fs::write(staged.path().join("number"), [number as u8; 9]).unwrap();
            barrier.wait();
            (made.commit().is_ok(), staged.commit(false).is_ok())
        };
        let won: Vec<(bool, bool)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..MANY).map(|number| scope.spawn(move || write(number))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let only = |winners: Vec<usize>| <[usize; 1]>::try_from(winners).expect("one winner")[0] as u8;
        let of_file = only((0..MANY).filter(|&i| won[i].0).collect());
        let of_folder = only((0..MANY).filter(|&i| won[i].1).collect());
        assert_eq!(fs::read(&file).unwrap(), [of_file; 9]);
        assert_eq!(fs::read(folder.join("number")).unwrap(), [of_folder; 9]);
    }
    assert_eq!(entries(place.path()).len(), 40);
}

/// Those that may replace each other all succeed or say why not; one of their folders is there, whole.
#[test]
fn replacing_at_the_same_time_loses_nothing() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("folder");
    for _ in 0..20 {
        let barrier = Barrier::new(4);
        std::thread::scope(|scope| {
            for number in 0..4u8 {
                let (barrier, folder) = (&barrier, &folder);
                scope.spawn(move || {
                    let staged = AtomicFolder::create(folder).unwrap();
                    fs::write(staged.path().join("a"), [number; 9]).unwrap();
                    fs::write(staged.path().join("b"), [number; 9]).unwrap();
                    barrier.wait();
                    let _ = staged.commit(true);
                });
            }
        });
        let read = |name: &str| fs::read(folder.join(name)).unwrap();
        assert_eq!((read("a"), read("a").len()), (read("b"), 9));
    }
    drop(AtomicFolder::create(&folder).unwrap());
    assert_eq!(entries(place.path()), ["folder"]);
}

#[test]
fn stale_temporaries_go_and_living_ones_stay() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let target = folder.join("x");
    // What processes left behind, this one's own number in their names or not.
    fs::write(folder.join(format!(".x.tmp-{}", std::process::id())), b"half").unwrap();
    fs::write(folder.join(".x.tmp-0123456789abcdef"), b"half").unwrap();
    if cfg!(unix) {
        // Elsewhere folders have no locks, so that this one stays for a day.
        fs::create_dir(folder.join(".x.tmp-1")).unwrap();
        fs::write(folder.join(".x.tmp-1/half"), b"half").unwrap();
    }
    // Others' names.
    fs::write(folder.join(".xy.tmp-1"), b"").unwrap();
    fs::write(folder.join("x.tmp-1"), b"").unwrap();
    let living = (AtomicFile::create(&target).unwrap(), AtomicFolder::create(&target).unwrap());
    let before = entries(folder);
    assert_eq!(before.len(), 4, "{before:?}");
    // Somebody else who begins sees that they are in work.
    drop((AtomicFile::create(&target).unwrap(), AtomicFolder::create(&target).unwrap()));
    temporary::sweep(folder);
    assert_eq!(entries(folder), before.iter().filter(|name| *name != ".xy.tmp-1").cloned().collect::<Vec<_>>());
    let (mut file, staged) = living;
    file.write(b"whole").unwrap();
    file.commit().unwrap();
    drop(staged);
    assert_eq!(entries(folder), ["x", "x.tmp-1"]);
}

#[test]
fn names_differ() {
    let target = Path::new("folder/x.gguf");
    let names: std::collections::HashSet<PathBuf> = (0..1000).map(|_| fresh_name(target, ".tmp-")).collect();
    assert_eq!(names.len(), 1000);
    let name = names.iter().next().unwrap();
    assert_eq!(name.parent(), target.parent());
    let name = name.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with(".x.gguf.tmp-") && name.len() == ".x.gguf.tmp-".len() + 16, "{name}");
}

#[cfg(unix)]
#[test]
fn links_are_not_followed() {
    let place = tempfile::tempdir().unwrap();
    let precious = place.path().join("precious");
    fs::write(&precious, b"data").unwrap();
    std::os::unix::fs::symlink(&precious, place.path().join(".x.tmp-1")).unwrap();
    drop(AtomicFile::create(&place.path().join("x")).unwrap());
    assert_eq!(entries(place.path()), [".x.tmp-1", "precious"]);
    assert_eq!(fs::read(&precious).unwrap(), b"data");
}

/// A process killed between the two moves of a replacement leaves the old folder under another name.
#[test]
fn an_older_folder_comes_back() {
    let place = tempfile::tempdir().unwrap();
    let (target, aside) = (place.path().join("x"), place.path().join(".x.old-0123456789abcdef"));
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("a"), b"precious").unwrap();
    drop(AtomicFolder::create(&target).unwrap());
    assert_eq!(fs::read(target.join("a")).unwrap(), b"precious");
    // With the new one in its place it was to be removed.
    fs::create_dir(&aside).unwrap();
    drop(AtomicFolder::create(&target).unwrap());
    assert_eq!(entries(place.path()), ["x"]);
}
