//! Metrics as TensorBoard reads them: event files of the TensorFlow record format.
//!
//! A record is its length (u64), the masked CRC-32C of these eight bytes, the data, and the masked CRC-32C of the data, all
//! little-endian. The data is a protocol buffer `Event` (`tensorflow/core/util/event.proto`): `wall_time` = 1, `step` = 2,
//! `file_version` = 3, `summary` = 5, `session_log` = 7. Every start of a run begins a file; a session log with the next
//! step tells readers to forget what an earlier file has from that step on.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::error::Result;
use crate::metrics::{BINS, Line, REACH};

/// The event file of one start of a run, made when there is something to write.
#[derive(Debug)]
pub(crate) struct Events {
    folder: PathBuf,
    /// Steps done when the run was started.
    step: u64,
    file: Option<(PathBuf, File)>,
}

impl Events {
    /// Events of a run in `folder` that goes on after `step`.
    pub fn new(folder: &Path, step: u64) -> Self {
        Self { folder: folder.to_path_buf(), step, file: None }
    }

    /// Appends what `line` says.
    ///
    /// # Errors
    /// [`sherry::Error::Io`].
    pub fn write(&mut self, line: &Line) -> Result<()> {
        let now = since_epoch();
        let mut data = Vec::new();
        if self.file.is_none() {
            // Readers go through the files of a folder by name.
            let name = format!("events.out.tfevents.{:010}.{:09}.sherry", now.as_secs(), now.subsec_nanos());
            let path = self.folder.join(name);
            let file = OpenOptions::new().create_new(true).write(true).open(&path);
            self.file = Some((path.clone(), file.map_err(sherry::Error::io(&path, "create"))?));
            data.extend(record(&event(now, 0, |out| bytes(out, 3, b"brain.Event:2"))));
            if self.step > 0 {
                let start = |out: &mut Vec<u8>| message(out, 7, |log| integer(log, 1, 1));
                data.extend(record(&event(now, self.step + 1, start)));
            }
        }
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        data.extend(record(&event(now, line.step, |out| message(out, 5, |summary| summarize(summary, line)))));
        Ok(file.write_all(&data).map_err(sherry::Error::io(path, "write"))?)
    }
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// A `Summary` with a value for each number of `line`.
fn summarize(summary: &mut Vec<u8>, line: &Line) {
    let single = [
        ("loss/train", line.loss),
        ("loss/divergence", line.divergence),
        ("loss/valid", line.valid_loss),
        ("loss/valid_with_lambda", line.valid_loss_with_lambda),
        ("train/learning_rate", line.lr),
        ("train/lambda", line.lambda),
        ("train/gradient_norm", line.grad_norm),
        ("train/tokens_per_second", line.tokens_per_second),
        ("train/tokens", line.tokens.map(|tokens| tokens as f64)),
        ("weights/flip_rate", line.flip_rate),
    ];
    let single = single.into_iter().filter_map(|(tag, value)| Some((tag.to_owned(), value?)));
    let per_kind = [
        ("effective_rank", &line.effective_rank),
        ("valley_share", &line.valley_share),
        ("gradient_norm", &line.grad_norms),
    ];
    let per_kind = per_kind
        .into_iter()
        .flat_map(|(group, values)| values.iter().map(move |(kind, value)| (format!("{group}/{kind}"), *value)));
    for (tag, value) in single.chain(per_kind) {
        message(summary, 1, |out| {
            bytes(out, 1, tag.as_bytes());
            out.push(2 << 3 | 5);
            out.extend((value as f32).to_le_bytes());
        });
    }
    for (kind, shares) in &line.histogram {
        message(summary, 1, |out| {
            bytes(out, 1, format!("weight_over_alpha/{kind}").as_bytes());
            message(out, 5, |histogram| describe(histogram, shares));
        });
    }
}

/// A `HistogramProto` of the shares of [`BINS`] bins over -[`REACH`]..[`REACH`], as so many of 100,000 weights.
fn describe(histogram: &mut Vec<u8>, shares: &[f64]) {
    let width = 2.0 * REACH / BINS as f64;
    let middle = |bin: usize| (bin as f64 + 0.5) * width - REACH;
    let sum = |power: i32| shares.iter().enumerate().map(|(bin, share)| 1e5 * share * middle(bin).powi(power)).sum();
    for (field, value) in [(1, -REACH), (2, REACH), (3, sum(0)), (4, sum(1)), (5, sum(2))] {
        double(histogram, field, value);
    }
    let limits = (1..=shares.len()).flat_map(|bin| (bin as f64 * width - REACH).to_le_bytes());
    bytes(histogram, 6, &limits.collect::<Vec<u8>>());
    bytes(histogram, 7, &shares.iter().flat_map(|share| (1e5 * share).to_le_bytes()).collect::<Vec<u8>>());
}

/// An `Event` at `step` with what `what` adds.
fn event(time: Duration, step: u64, what: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    double(&mut out, 1, time.as_secs_f64());
    integer(&mut out, 2, step);
    what(&mut out);
    out
}

fn double(out: &mut Vec<u8>, field: u8, value: f64) {
    out.push(field << 3 | 1);
    out.extend(value.to_le_bytes());
}

fn integer(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(field << 3);
    variable(out, value);
}

fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    out.push(field << 3 | 2);
    variable(out, value.len() as u64);
    out.extend(value);
}

fn message(out: &mut Vec<u8>, field: u8, what: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    what(&mut inner);
    bytes(out, field, &inner);
}

/// A number in groups of seven bits, the lowest first.
fn variable(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = length.to_vec();
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked_crc(data).to_le_bytes());
    out
}

/// CRC-32C, rotated and offset as the record format has it.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32 with the Castagnoli polynomial (RFC 3720, appendix B.4), bits reflected.
fn crc32c(data: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    };
    !data.iter().fold(!0, step)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn checksums_are_those_of_the_standards() {
        // RFC 3720, appendix B.4, and the check value of the catalogue of CRC algorithms.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        // The header of the first record of every event file that TensorFlow has written: 24 bytes follow.
        assert_eq!(record(&[0; 24])[..12], [24, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22]);
    }

    /// The records of a file, each checked.
    fn records(path: &Path) -> Vec<Vec<u8>> {
        let all = fs::read(path).unwrap();
        let (mut rest, mut found) = (&all[..], Vec::new());
        while !rest.is_empty() {
            let (length, after) = rest.split_at(8);
            let (crc, after) = after.split_at(4);
            assert_eq!(crc, masked_crc(length).to_le_bytes());
            let (data, after) = after.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
            let (crc, after) = after.split_at(4);
            assert_eq!(crc, masked_crc(data).to_le_bytes());
            found.push(data.to_vec());
            rest = after;
        }
        found
    }

    #[test]
    fn a_start_makes_a_file_that_says_where_it_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let files = || {
            let entries = fs::read_dir(folder.path()).unwrap();
            let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
            paths.sort();
            paths
        };
        let mut events = Events::new(folder.path(), 0);
        assert!(files().is_empty(), "a run with nothing left to do leaves no file");
        let line = |step| Line { step, loss: Some(2.5), ..Line::default() };
        events.write(&line(300)).unwrap();
        events.write(&line(301)).unwrap();
        let written = records(&files()[0]);
        assert_eq!(written.len(), 3);
        assert!(written[0].ends_with(b"\x1a\x0dbrain.Event:2"));
        // After the time: step 300, then a summary of one value with its tag and a float.
        let mut expected = vec![2 << 3, 0xac, 0x02, 5 << 3 | 2, 19, 1 << 3 | 2, 17, 1 << 3 | 2, 10];
        expected.extend(b"loss/train");
        expected.push(2 << 3 | 5);
        expected.extend(2.5f32.to_le_bytes());
        assert_eq!(written[1][9..], expected);

        let mut resumed = Events::new(folder.path(), 300);
        resumed.write(&line(301)).unwrap();
        let written = records(&files()[1]);
        assert_eq!(written.len(), 3);
        // Step 301, and a session log with status START.
        assert_eq!(written[1][9..], [2 << 3, 0xad, 0x02, 7 << 3 | 2, 2, 1 << 3, 1]);
    }
}
