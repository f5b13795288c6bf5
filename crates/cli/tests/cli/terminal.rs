//! Sessions at a terminal: what a newcomer types and sees, as docs/terminal has it. With SHERRY_WRITE_SESSIONS=1 the files are
//! written instead of being compared.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

use crate::fixture::{with_model, write_config, write_piqa};

/// The window of all sessions, a classic one but high enough that nothing scrolls away.
const COLUMNS: u16 = 80;
/// Longest time that something may take to appear.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command at a terminal.
struct Terminal {
    screen: Arc<Mutex<vt100::Parser>>,
    child: Box<dyn Child + Send + Sync>,
    keys: Box<dyn std::io::Write + Send>,
    reader: Option<std::thread::JoinHandle<()>>,
    _master: Box<dyn MasterPty + Send>,
}

impl Terminal {
    /// Starts `sherry` with the words of `line`, which may be quoted, in `folder`.
    fn start(folder: &Path, line: &str, rows: u16) -> Self {
        let size = PtySize { rows, cols: COLUMNS, pixel_width: 0, pixel_height: 0 };
        let pair = native_pty_system().openpty(size).unwrap();
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_sherry"));
        let pieces = line.split('"').enumerate();
        command.args(pieces.flat_map(|(at, piece)| match at % 2 {
            0 => piece.split_whitespace().collect::<Vec<_>>(),
            _ => vec![piece],
        }));
        // Instruction sets round floats differently, which can change a word near a tie; the scalar kernels write the same
        // everywhere.
        if ["run", "eval"].iter().any(|name| line.split_whitespace().next() == Some(name)) {
            command.args(["--isa", "scalar"]);
        }
        command.cwd(folder);
        command.env_clear();
        command.env("TERM", "xterm-256color");
        command.env("HOME", folder);
        command.env("HF_HUB_OFFLINE", "1");
        let child = pair.slave.spawn_command(command).unwrap();
        drop(pair.slave);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, COLUMNS, 0)));
        let mut output = pair.master.try_clone_reader().unwrap();
        let reader = std::thread::spawn({
            let screen = Arc::clone(&screen);
            move || {
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = output.read(&mut bytes) {
                    screen.lock().unwrap().process(&bytes[..count]);
                }
            }
        });
        let keys = pair.master.take_writer().unwrap();
        Self { screen, child, keys, reader: Some(reader), _master: pair.master }
    }

    fn shown(&self) -> String {
        let contents = self.screen.lock().unwrap().screen().contents();
        contents.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
    }

    /// Waits until `text` is on the screen `times` times.
    fn wait_for(&self, text: &str, times: usize) {
        self.wait_until(text, |shown| shown.matches(text).count() >= times);
    }

    /// Waits until the screen is as `is_there` wants it, and gives it.
    fn wait_until(&self, what: &str, is_there: impl Fn(&str) -> bool) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let shown = self.shown();
            if is_there(&shown) {
                return shown;
            }
            assert!(Instant::now() < until, "{what:?} does not appear:\n{shown}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Waits for the end of the command, which must have the exit code `code`, and gives what is on the screen.
    fn end(mut self, code: u32) -> String {
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > until {
                let _ = self.child.kill();
                panic!("it does not end:\n{}", self.shown());
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let _ = self.reader.take().unwrap().join();
        assert_eq!(status.exit_code(), code, "{}", self.shown());
        self.shown()
    }
}

/// A command that nobody has to talk to, as it stands in a session.
fn plain(folder: &Path, line: &str) -> String {
    format!("$ sherry {line}\n{}\n", Terminal::start(folder, line, 60).end(0))
}

fn first_run(folder: &Path) -> String {
    plain(folder, "run -p \"Once upon a time\" --seed 10")
}

/// The model inside, with commands and a pasted text; what is typed while it speaks waits for the next prompt.
fn chat(folder: &Path) -> String {
    let line = "run --temp 0 -n 24";
    let mut terminal = Terminal::start(folder, line, 90);
    terminal.wait_for("\n>\n", 1);
    terminal.press("/help\r");
    terminal.wait_for("message of it.", 1);
    terminal.press("The old man\r");
    terminal.wait_for("cut off after 24 tokens", 1);
    // Bracketed: the terminal marks what was pasted, so that its line end is no Enter.
    terminal.press("\u{1b}[200~The sea was calm.\nThe boat\u{1b}[201~");
    terminal.wait_for("The boat", 1);
    terminal.press("\r");
    terminal.wait_for("cut off after 24 tokens", 2);
    terminal.press("/set max-tokens 8\r");
    terminal.wait_for("max-tokens is 8", 1);
    terminal.press("/regenerate\r");
    terminal.wait_for("cut off after 8 tokens", 1);
    terminal.press("/statistics\r");
    terminal.wait_for("There is no command", 1);
    terminal.press("/stats\r");
    terminal.wait_for("tokens in use", 1);
    // Before the prompt is there, Ctrl-C is a signal and no key.
    terminal.wait_until("a prompt", |shown| shown.trim_end().ends_with("tokens in use\n\n>"));
    terminal.press("\u{3}");
    terminal.wait_for("Ctrl-C at the empty prompt leaves", 1);
    terminal.press("/bye\r");
    format!("$ sherry {line}\n{}", terminal.end(0))
}

fn quantize(folder: &Path) -> String {
    plain(folder, "quantize dense dense.sherry") + &plain(folder, "inspect dense.sherry --verify")
}

/// A run that is interrupted at the dashboard and goes on: what stays on the screen, and the dashboard once.
fn train(folder: &Path) -> String {
    let line = "train small.toml";
    let mut session = String::new();
    let mut terminal = Terminal::start(folder, line, 28);
    // Everything has been measured once.
    let dashboard = terminal.wait_until("a validation, and a checkpoint", |shown| {
        let is_measured =
            shown.split("valid ").nth(1).is_some_and(|value| value.starts_with(|c: char| c.is_ascii_digit()));
        is_measured && shown.contains("saved checkpoint-")
    });
    terminal.press("\u{3}");
    session += &format!("$ sherry {line}\n{dashboard}^C\n{}\n", terminal.end(130));
    session + &format!("$ sherry {line}\n{}", Terminal::start(folder, line, 28).end(0))
}

fn eval(folder: &Path) -> String {
    plain(folder, "eval dense.sherry --tasks piqa -o sherry.json")
        + &plain(folder, "eval dense.sherry --ppl text.txt --ppl-window 64")
}

fn report(folder: &Path) -> String {
    plain(folder, "eval dense --tasks piqa -o dense.json -q")
        + &plain(folder, "report dense.json sherry.json")
        + &plain(folder, "report runs/small")
}

/// A session of the document.
struct Session {
    name: &'static str,
    play: fn(&Path) -> String,
    /// Whether all numbers depend on the moment.
    is_live: bool,
}

/// In the order of a newcomer; later ones use what earlier ones left.
const SESSIONS: [Session; 6] = [
    Session { name: "first-run", play: first_run, is_live: false },
    Session { name: "chat", play: chat, is_live: false },
    Session { name: "quantize", play: quantize, is_live: false },
    Session { name: "train", play: train, is_live: true },
    Session { name: "eval", play: eval, is_live: false },
    Session { name: "report", play: report, is_live: false },
];

/// `text` without what differs from run to run and from machine to machine: times, rates, memory, digits behind the second one
/// of a fraction; in live sessions every number and curve.
fn masked(text: &str, is_live: bool) -> String {
    const UNITS: [&str; 7] = [" tok/s", " s", " MB (peak", " MB)", " items/s", " MB/s", " GB/s"];
    let is_curve = |c: char| ('\u{2800}'..='\u{28ff}').contains(&c) || "•─│┌┐└┘█▏▎▍▌▋▊▉".contains(c);
    let mut lines = Vec::new();
    for line in text.lines().filter(|line| !is_live || !line.contains(is_curve)) {
        let (mut out, mut rest) = (String::new(), line);
        while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
            let number = &rest[at..];
            let end =
                number.find(|c: char| !(c.is_ascii_alphanumeric() || ".,:+-".contains(c))).unwrap_or(number.len());
            let digits = number[..end].trim_end_matches([',', '.', ':']).len();
            let (word, after) = number.split_at(digits.max(1));
            let is_time = word.contains(':') || UNITS.iter().any(|unit| after.starts_with(unit));
            let is_long = word.split_once('.').is_some_and(|(_, fraction)| fraction.len() > 2);
            out += &rest[..at];
            out += if is_live || is_time || is_long { "#" } else { word };
            rest = after;
        }
        out += rest;
        // Columns are as wide as their numbers.
        lines.push(out.replace(['-', ':'], ""));
    }
    // Longer numbers move words to the next line.
    let mut words: Vec<&str> = lines.iter().flat_map(|line| line.split_whitespace()).collect();
    // "| 3 of 3 tokens foreseen": how many are tried depends on the time that steps take.
    while let Some(at) = words.windows(2).position(|pair| pair == ["tokens", "foreseen"]) {
        words.drain(at.saturating_sub(4)..at + 2);
    }
    words.join(" ")
}

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "..", "docs", "terminal", &format!("{name}.txt")].iter().collect()
}

#[test]
fn sessions_at_a_terminal_are_as_documented() {
    let place = with_model();
    let folder = place.path();
    // Long enough to be interrupted on a fast machine.
    write_config(folder, 400);
    write_piqa(&folder.join("data"), 20);
    fs::write(folder.join("text.txt"), "The tide rises, the tide falls, the twilight darkens. ".repeat(8)).unwrap();
    let writes = std::env::var_os("SHERRY_WRITE_SESSIONS").is_some();
    for Session { name, play, is_live } in SESSIONS {
        let shown = play(folder).replace(&*folder.to_string_lossy(), "~");
        // The terminal has cut nothing: a line that it continues by itself is one line here.
        let is_whole = |line: &str| line.chars().count() <= usize::from(COLUMNS);
        assert!(!["first-run", "chat"].contains(&name) || shown.lines().all(is_whole), "{name}:\n{shown}");
        let path = path(name);
        if writes {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &shown).unwrap();
            continue;
        }
        let expected = fs::read_to_string(&path).unwrap();
        let (expected, found) = (masked(&expected, is_live), masked(&shown, is_live));
        assert!(expected == found, "{name} is not as in {}:\n{shown}\n-- masked:\n{found}", path.display());
    }
}

/// What is typed while a model speaks appears at the next prompt, and not in the answer.
#[test]
fn keys_pressed_during_an_answer_wait_for_the_prompt() {
    let place = with_model();
    let mut terminal = Terminal::start(place.path(), "run --temp 0 -n 100", 80);
    terminal.wait_for("\n>\n", 1);
    terminal.press("The old man\r");
    // The answer has begun on the line after the message.
    terminal.wait_until("an answer", |shown| {
        shown.split("The old man\n").nth(1).is_some_and(|answer| answer.trim().len() > 10)
    });
    terminal.press("XYZZY");
    terminal.wait_for("cut off after 100 tokens", 1);
    terminal.wait_for("> XYZZY", 1);
    assert_eq!(terminal.shown().matches("XYZZY").count(), 1, "{}", terminal.shown());
    terminal.press("\u{15}/bye\r");
    terminal.end(0);
}
