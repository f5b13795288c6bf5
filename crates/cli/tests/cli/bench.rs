//! `sherry bench` end to end on tiny models: shapes of tables and documents, never times.

use serde_json::Value;

use crate::fixture::{document, refuses, run, succeeds, with_model, workplace};

const QUICK: &str = "-r 1 -p 8 -n 4 -t 1,2";

/// The table with every digit replaced by 9 and runs of blanks and dashes by one: its shape.
fn shape(table: &str) -> String {
    let mut text: String = table.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    for (long, short) in [("99", "9"), ("9.9", "9"), ("  ", " "), ("--", "-")] {
        while text.contains(long) {
            text = text.replace(long, short);
        }
    }
    text
}

#[test]
fn random_weights_make_llama_benchs_table() {
    let place = workplace();
    let line = format!("bench --synthetic tiny --type sherry-1.25,q8_0 --isa scalar {QUICK} -d 0,3 -q");
    let table = succeeds(place.path(), &line);
    let mut lines = table.lines();
    let head = lines.next().unwrap();
    let names: Vec<&str> = head.trim_matches('|').split('|').map(str::trim).collect();
    let expected = ["model", "size", "params", "backend", "threads", "test", "t/s", "weights GB/s", "of read limit"];
    assert_eq!(names, expected);
    let rule = lines.next().unwrap();
    assert!(rule.starts_with("| ---") && rule.trim_end_matches(" |").ends_with("-:"), "{rule}");
    let rows: Vec<Vec<&str>> = lines
        .by_ref()
        .take_while(|line| !line.is_empty())
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    // Two formats, tests in the order of the depths, threads in turn.
    let tests = ["pp8", "tg4", "pp8 @ d3", "tg4 @ d3"];
    let cases = ["llama 1M sherry-1.25", "llama 1M Q8_0"]
        .into_iter()
        .flat_map(|model| tests.into_iter().flat_map(move |test| ["1", "2"].map(|threads| (model, test, threads))));
    assert_eq!(rows.iter().map(|row| (row[0], row[5], row[4])).collect::<Vec<_>>(), cases.collect::<Vec<_>>());
    for row in &rows {
        assert_eq!((row[2], row[3]), ("1.31 M", "CPU scalar"), "{row:?}");
        assert!(row[1].ends_with(" MiB") && shape(row[6]) == "9 ± 9", "{row:?}");
        let limit = if row[5].starts_with("tg") { "9 % of 9" } else { "" };
        assert_eq!(shape(row[8]), limit, "{row:?}");
    }
    assert!(lines.next().unwrap().starts_with(&format!("sherry {}", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn models_from_files_are_measured_together() {
    let place = with_model();
    let place = place.path();
    succeeds(place, "quantize dense packed -q");
    let records = document(place, "bench dense packed -r 2 -p 5 -n 3 -t 1 --kv f16,f32 --isa scalar");
    let records = records.as_array().unwrap();
    assert_eq!(records.len(), 2 * 2 * 2);
    for record in records {
        for name in ["version", "cpu_info", "model_filename", "model_type", "type_kv", "test"] {
            assert!(!record[name].as_str().unwrap().is_empty(), "{name}: {record}");
        }
        for name in
            ["model_size", "model_n_params", "avg_ns", "median_ns", "avg_ts", "median_ts", "linear_bits_per_weight"]
        {
            assert!(record[name].as_f64().unwrap() > 0.0, "{name}: {record}");
        }
        assert_eq!(record["samples_ns"].as_array().unwrap().len(), 2);
        let generates = record["n_gen"] == 3;
        assert_eq!(record["n_prompt"], if generates { 0 } else { 5 });
        for name in ["weight_bytes_per_second", "read_limit_bytes_per_second", "read_limit_share"] {
            assert_eq!(record[name].is_number(), generates, "{name}: {record}");
        }
    }
    assert_eq!(
        (&records[0]["model_type"], &records[4]["model_type"]),
        (&"llama 1M F32".into(), &"llama 1M sherry-1.25".into())
    );
    // The same in other forms.
    let lines = succeeds(place, "bench packed -r 1 -p 0 -n 2 -t 1 -o jsonl -q");
    assert_eq!(lines.lines().count(), 1);
    let record: Value = serde_json::from_str(&lines).unwrap();
    assert_eq!(record["test"], "tg2");
    let csv = succeeds(place, "bench packed -r 1 -p 2 -n 2 -t 1 -o csv -q");
    let mut rows = csv.lines();
    assert!(rows.next().unwrap().starts_with("version,os,arch,cpu_info,backend,isa,model_filename,"), "{csv}");
    assert_eq!(rows.count(), 2);
}

#[test]
fn the_largest_logits_are_asked_for_beside_all() {
    let place = workplace();
    let line = "bench --synthetic tiny --isa scalar -r 1 -p 4 -n 4 -t 1 --head whole,two-stage --top-k 1,2";
    let records = document(place.path(), &format!("{line} --embed q8_0"));
    let found: Vec<_> = records
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["test"].as_str().unwrap(), &r["top_logits"], r["weight_bytes_per_second"].is_number()))
        .collect();
    // Prompts are read once, since no head changes them. Of a head that is read in part nobody knows the bytes.
    let expected = [("pp4", 0, false), ("tg4", 0, true), ("tg4", 1, false), ("tg4", 2, false)];
    assert_eq!(found, expected.map(|(test, top, rate)| (test, &*Box::leak(Box::new(top.into())), rate)));
    let table = succeeds(place.path(), &format!("{line} -q"));
    assert!(table.lines().next().unwrap().contains("| head ") && table.contains("| two-stage, top 2 |"), "{table}");
    refuses(place.path(), &format!("{line} --embed f16"), &["--head two-stage: this head has no coarse copy"]);
}

#[test]
fn sequences_are_continued_together() {
    let place = workplace();
    let line = "bench --synthetic tiny --isa scalar -r 1 -p 4 -n 4 -d 0,300 -t 1 -b 1,3";
    let records = document(place.path(), line);
    let tests: Vec<_> = records.as_array().unwrap().iter().map(|r| r["test"].as_str().unwrap()).collect();
    assert_eq!(tests, ["pp4", "tg4", "tg4 x3", "pp4 @ d300", "tg4 @ d300", "tg4 x3 @ d300"]);
    let samples = |index: usize| {
        let record = &records[index];
        record["samples_ts"][0].as_f64().unwrap() * record["samples_ns"][0].as_f64().unwrap() / 1e9
    };
    assert_eq!((samples(1).round(), samples(2).round()), (4.0, 12.0));
    refuses(place.path(), "bench --synthetic tiny -b 0", &["--batch", "a whole number from 1 to"]);
    refuses(place.path(), "bench --synthetic tiny -b 9999", &["--batch", "from 1 to 1024"]);
}

#[test]
fn ratios_to_an_earlier_run() {
    let place = workplace();
    let line = "bench --synthetic tiny --isa scalar -r 1 -p 4 -n 4 -t 1";
    let mut before = document(place.path(), line);
    before[1]["median_ts"] = 1e-3.into();
    std::fs::write(place.path().join("before.json"), before.to_string()).unwrap();
    let after = document(place.path(), &format!("{line} -n 4,5 --vs before.json"));
    assert!(after[0]["vs_ratio"].as_f64().unwrap() > 0.0 && after[1]["vs_ratio"].as_f64().unwrap() > 1000.0);
    assert!(after[2]["vs_ratio"].is_null());
    let table = succeeds(place.path(), &format!("{line} --vs before.json -q"));
    assert!(table.lines().next().unwrap().ends_with("vs |") && table.contains("x |"), "{table}");
    for (text, error) in [("[]", "there is no result"), ("{\"a\": 1}", "median_ts"), ("[1", "sherry bench --json")] {
        std::fs::write(place.path().join("bad.json"), text).unwrap();
        refuses(place.path(), &format!("{line} --vs bad.json"), &["bad.json", error]);
    }
    refuses(place.path(), &format!("{line} --vs none.json"), &["none.json"]);
}

#[test]
fn the_speed_table_has_a_row_per_method() {
    let place = workplace();
    let line = "bench --table --synthetic tiny -r 1 -p 8 -n 4 -t 1,2";
    let outcome = run(place.path(), line);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stderr.contains("[7/7] Sherry 1.25-bit, scale per 128"), "{outcome:?}");
    let rows: Vec<Vec<&str>> = outcome
        .stdout
        .lines()
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let columns = [
        "method",
        "bits per weight",
        "size",
        "pp8 t/s, 1 thread",
        "vs BF16",
        "pp8 t/s, 2 threads",
        "vs BF16",
        "tg4 t/s, 1 thread",
        "vs BF16",
        "of read limit",
        "tg4 t/s, 2 threads",
        "vs BF16",
        "of read limit",
    ];
    assert_eq!(rows[0], columns);
    let bits: Vec<(&str, &str)> = rows[2..].iter().map(|row| (row[0], row[1])).collect();
    // Codes, and f16 scales per row (of 256 or 512 weights) or per 128.
    assert_eq!(
        bits,
        [
            ("BF16", "16.00"),
            ("Q8_0", "8.50"),
            ("Q4_0", "4.50"),
            ("ternary 2-bit", "2.06"),
            ("ternary 1.67-bit", "1.77"),
            ("Sherry 1.25-bit", "1.31"),
            ("Sherry 1.25-bit, scale per 128", "1.38")
        ]
    );
    assert_eq!((rows[2][4], rows[2][8]), ("1.00x", "1.00x"));
    assert!(rows[2..].iter().all(|row| shape(row[3]) == "9" && shape(row[4]) == "9x"), "{rows:?}");
    assert!(outcome.stdout.contains("Shapes of tiny, vocabulary 512, head Q6_K, 1 repetitions"), "{outcome:?}");

    let records = document(place.path(), "bench --table --synthetic tiny --type bf16,sherry-1.25 -r 1 -n 2 -t 1");
    let ratios: Vec<_> =
        records.as_array().unwrap().iter().map(|r| (&r["model_type"], r["ratio_to_first"].is_number())).collect();
    assert_eq!(ratios, [(&"BF16".into(), true), (&"Sherry 1.25-bit".into(), true)]);
}

#[cfg(target_os = "linux")] // elsewhere nobody tells how much memory there is
#[test]
fn a_row_that_does_not_fit_is_skipped() {
    let place = workplace();
    let line = "bench --table --synthetic llama-3-8b --vocab 16777216 --embed f32 --type bf16 -r 1 -n 1 -t 1";
    let outcome = run(place.path(), line);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stderr.contains("[1/1] BF16: skipped: needs "), "{outcome:?}");
    assert!(outcome.stdout.contains("| BF16 "), "{outcome:?}");
}

#[test]
fn kernels_are_shown_beside_the_limits() {
    let place = workplace();
    let line = "bench --kernels --shape 64x256 --type sherry-1.25,q6_k -r 1 -p 4 -d 32 -t 1 --isa scalar";
    let table = succeeds(place.path(), &format!("{line} -q"));
    for part in [
        "One token",
        "Many tokens",
        "Attention of one token",
        "The rest of a token",
        "of read limit",
        "of int8 peak",
        "| sherry-1.25 |",
        "| Q6_K ",
        "| rms_norm",
        "int8 peak by scalar: plain Rust",
    ] {
        assert!(table.contains(part), "{part}: {table}");
    }
    let records = document(place.path(), line);
    let kinds = |kind: &str| records.as_array().unwrap().iter().filter(|r| r["kind"] == kind).count();
    assert_eq!(["one_token", "batch", "attention"].map(kinds), [2, 2, 1]);
    for record in records.as_array().unwrap().iter().filter(|r| r["kind"] == "one_token") {
        assert!(
            record["read_limit_share"].as_f64().unwrap() > 0.0 && record["bytes"].as_u64().unwrap() > 0,
            "{record}"
        );
    }
}

#[test]
fn bad_requests_are_named() {
    let place = with_model();
    for (line, parts) in [
        ("bench", ["no model", "--synthetic"]),
        ("bench missing", ["missing", "no such file or folder"]),
        ("bench dense -p 0 -n 0", ["nothing to measure", "-p"]),
        ("bench dense -p x", ["--n-prompt", "'x'"]),
        ("bench dense -p -2", ["-2", ""]),
        ("bench dense -r 0", ["--repetitions", "at least 1"]),
        ("bench dense -t 0", ["--threads", "0"]),
        ("bench dense -b 0", ["--batch", "a whole number from 1 to"]),
        ("bench dense --isa sse9", ["--isa sse9", "scalar"]),
        ("bench dense --kv q1", ["--kv", "q1"]),
        ("bench dense -o xml", ["--output", "xml"]),
        ("bench dense -p 5000", ["pp5000", "4096"]),
        ("bench dense -d 4096 -p 0 -n 1 -t 1", ["tg1 @ d4096", "4096"]),
        ("bench dense -d 99999999999", ["99999999999", "at most"]),
        ("bench dense --type q8_0", ["--type", "MODEL"]),
        ("bench dense --vocab 100", ["--vocab", "random weights"]),
        ("bench dense --synthetic tiny", ["--synthetic", "MODEL"]),
        ("bench dense --table", ["--table", "MODEL"]),
        ("bench dense --shape 64x64", ["--kernels", ""]),
        ("bench --synthetic gpt-5", ["--synthetic", "llama-3.2-1b"]),
        ("bench --synthetic tiny --type q9_0", ["--type", "q9_0"]),
        ("bench --synthetic tiny --type sherry-1.25/100", ["--type", "128"]),
        ("bench --synthetic tiny --embed sherry-1.25", ["--embed", "q6_k"]),
        ("bench --synthetic tiny --vocab 0", ["--vocab", "a whole number from 1 to"]),
        ("bench --synthetic smollm2-135m", ["Q6_K", "256"]),
        ("bench --kernels --shape 64", ["--shape", "ROWSxCOLS"]),
        ("bench --kernels --shape 64x100 --type q8_0", ["Q8_0", "blocks of 32"]),
        ("bench --kernels --table", ["--kernels", "--table"]),
    ] {
        refuses(place.path(), line, &parts);
    }
}
