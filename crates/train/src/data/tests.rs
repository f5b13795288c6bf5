use std::collections::HashSet;
use std::fs;
use std::io::Write;

use sherry::NoProgress;

use super::*;

fn open(folder: &Path, name: &str, length: usize) -> Result<Dataset> {
    Dataset::open(&[folder.join(name)], "text", &Coder::Bytes, length, &folder.join("cache"), &NoProgress)
}

#[test]
fn every_token_but_the_first_is_a_target_once() {
    for count in 2..40u32 {
        for length in 1..9 {
            let data = Dataset::new((0..count).collect(), length).unwrap();
            let (mut tokens, mut targets) = (Vec::new(), Vec::new());
            for window in 0..data.windows() {
                data.push_window(window, &mut tokens, &mut targets);
            }
            assert_eq!((tokens.len(), targets.len()), (data.windows() * length, data.windows() * length));
            let live: Vec<u32> = targets.iter().copied().filter(|&t| t != IGNORED).collect();
            assert_eq!(live, (1..count).collect::<Vec<u32>>());
            assert!(tokens.iter().zip(&targets).all(|(&input, &target)| target == IGNORED || target == input + 1));
        }
    }
}

#[test]
fn the_order_visits_everything_and_resumes_anywhere() {
    let all: Vec<usize> = {
        let mut order = Order::new(3, 10, 0);
        (0..35).map(|_| order.next_window()).collect()
    };
    for pass in all.chunks_exact(10) {
        assert_eq!(pass.iter().collect::<HashSet<_>>().len(), 10);
    }
    assert_ne!(all[..10], all[10..20]);
    for start in 0..35 {
        let mut order = Order::new(3, 10, start as u64);
        assert_eq!((start..35).map(|_| order.next_window()).collect::<Vec<_>>(), all[start..]);
        assert_eq!(order.cursor(), 35);
    }
}

#[test]
fn every_container_gives_the_same_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let lines = "{\"text\": \"héllo\"}\n\n{\"id\": 1, \"text\": \"wor\\nld\"}\n{\"text\": \"\"}\n";
    fs::write(path("a.jsonl"), lines).unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(lines.as_bytes()).unwrap();
    fs::write(path("a.jsonl.gz"), gz.finish().unwrap()).unwrap();
    fs::write(path("a.jsonl.zst"), zstd::encode_all(lines.as_bytes(), 1).unwrap()).unwrap();
    let expected: Vec<u32> =
        "héllo".bytes().map(u32::from).chain([256]).chain("wor\nld".bytes().map(u32::from)).chain([256]).collect();
    for name in ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"] {
        let data = open(folder.path(), name, 4).unwrap();
        assert_eq!(data.tokens, expected, "{name}");
        assert_eq!(open(folder.path(), name, 4).unwrap(), data, "from the cache");
    }
    fs::write(path("b.txt"), "wörld").unwrap();
    assert_eq!(open(folder.path(), "b.txt", 4).unwrap().tokens(), 7);
    fs::write(path("b.txt"), "other text").unwrap();
    assert_eq!(open(folder.path(), "b.txt", 4).unwrap().tokens(), 11, "a changed file is read again");
}

#[test]
fn a_damaged_cache_is_noticed_and_made_again() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.txt"), "some text").unwrap();
    let data = open(folder.path(), "a.txt", 4).unwrap();
    let cached = fs::read_dir(folder.path().join("cache")).unwrap().next().unwrap().unwrap().path();
    let good = fs::read(&cached).unwrap();
    for cut in 0..good.len() {
        fs::write(&cached, &good[..cut]).unwrap();
        assert_eq!(open(folder.path(), "a.txt", 4).unwrap(), data);
        let mut bad = good.clone();
        bad[cut] ^= 0x40;
        fs::write(&cached, bad).unwrap();
        assert_eq!(open(folder.path(), "a.txt", 4).unwrap(), data);
    }
    assert_eq!(fs::read(&cached).unwrap(), good);
}

#[test]
fn bad_files_are_named_with_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all("{\"text\": \"a long enough line of text\"}\n".repeat(50).as_bytes()).unwrap();
    let gz = gz.finish().unwrap();
    let zst = zstd::encode_all(&b"{\"text\": \"a\"}\n{\"text\": \"b\"}\n"[..], 1).unwrap();
    let cases: [(&str, &[u8], &str); 9] = [
        ("empty.txt", b"", "no text"),
        ("empty.jsonl", b"\n\n", "no text"),
        ("one.txt", b"", "no text"),
        ("latin.txt", b"caf\xe9", "not UTF-8 at byte 3"),
        ("broken.jsonl", b"{\"text\": \"a\"}\n{\"text\": ", "line 2"),
        ("field.jsonl", b"{\"body\": \"a\"}\n", "no field 'text'"),
        ("type.jsonl", b"{\"text\": 3}\n", "field 'text' is not a string"),
        ("cut.jsonl.gz", &gz[..gz.len() - 9], "cannot be read to its end"),
        ("cut.jsonl.zst", &zst[..zst.len() - 5], "cannot be read to its end"),
    ];
    for (name, bytes, expected) in cases {
        fs::write(folder.path().join(name), bytes).unwrap();
        let message = open(folder.path(), name, 4).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains(expected), "{name}: {message}");
    }
    assert!(open(folder.path(), "absent.txt", 4).unwrap_err().to_string().contains("absent.txt"));
}
