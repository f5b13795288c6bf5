//! `sherry serve` as those who run it meet it: the service manager, signals, sockets, and what stands before it.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sherry_testing::{Outcome, program, python, workspace};

sherry_testing::main![
    the_service_manager_is_told_and_answers_are_finished,
    a_slow_client_gets_all_of_its_answer,
    a_killed_server_leaves_nothing_in_the_way,
    any_user_and_a_root_that_is_read_only,
    load_leaves_no_memory_behind,
    nginx_as_documented,
    vllm_router_as_documented,
    every_option_is_documented,
    the_examples_of_the_documentation_work,
];

const SHERRY: &str = env!("CARGO_BIN_EXE_sherry");

/// A server, which is killed when it is no longer needed.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// `sherry serve` with the model inside it, `args` after it.
    fn start(args: &[&str]) -> Self {
        Self::of(Command::new(SHERRY).arg("serve").args(args))
    }

    /// Waits until the server that `command` starts says where it listens.
    fn of(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let found = lines.find_map(|line| {
            line.unwrap().strip_prefix("listening on ").map(|rest| rest.split_whitespace().next().unwrap().to_owned())
        });
        // What it says later is read, so that no full pipe stops it.
        std::thread::spawn(move || lines.for_each(drop));
        let Some(address) = found else { panic!("it ended: {:?}", child.wait()) };
        Self { child, address: address.trim_start_matches("http://").to_owned() }
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Its exit code, within 30 seconds.
    fn ended(&mut self) -> Option<i32> {
        for _ in 0..3000 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            sleep(Duration::from_millis(10));
        }
        panic!("it does not end");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Sends a request, and gives the connection from which the answer comes.
fn send<S: Write>(mut stream: S, method: &str, path: &str, headers: &str, body: &str) -> S {
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n{headers}\r\n{body}"
    )
    .unwrap();
    stream
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

fn rest(mut stream: impl Read) -> String {
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    all
}

/// Reads a stream until `end` has come.
fn read_to(stream: &mut TcpStream, end: &str) -> String {
    let mut all = Vec::new();
    let mut byte = [0; 256];
    while !String::from_utf8_lossy(&all).contains(end) {
        let n = stream.read(&mut byte).unwrap();
        assert!(n > 0, "it ended with {}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&byte[..n]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

fn get(address: &str, path: &str) -> String {
    rest(send(connect(address), "GET", path, "", ""))
}

/// A greedy continuation.
fn complete(address: &str, headers: &str, prompt: &str) -> Value {
    try_complete(address, headers, prompt).unwrap_or_else(|answer| panic!("{answer}"))
}

/// The same, or the whole of another answer.
fn try_complete(address: &str, headers: &str, prompt: &str) -> Result<Value, String> {
    let body = json!({ "prompt": prompt, "max_tokens": 8, "temperature": 0 }).to_string();
    let answer = rest(send(connect(address), "POST", "/v1/completions", headers, &body));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    if !head.contains(" 200 ") {
        return Err(answer);
    }
    // A proxy may send it in chunks.
    let start = body.find('{').unwrap();
    Ok(serde_json::Deserializer::from_str(&body[start..]).into_iter().next().unwrap().unwrap())
}

const STREAM: &str = r#"{"prompt": "Once upon a time", "max_tokens": 400, "ignore_eos": true, "stream": true}"#;

fn the_service_manager_is_told_and_answers_are_finished() -> Outcome {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let told = || {
        let mut message = [0; 64];
        let n = socket.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..n]).into_owned()
    };
    let mut server = Server::of(Command::new(SHERRY).args(["serve", "--port", "0"]).env("NOTIFY_SOCKET", &path));
    assert_eq!(told(), "READY=1");
    assert!(get(&server.address, "/health").contains(" 200 "));
    let mut stream = send(connect(&server.address), "POST", "/v1/completions", "", STREAM);
    let begun = read_to(&mut stream, "data: ");
    server.signal("-TERM");
    assert_eq!(told(), "STOPPING=1");
    assert!(!begun.contains("[DONE]") && rest(&mut stream).contains("data: [DONE]"));
    assert_eq!(server.ended(), Some(0));
    Ok(())
}

fn a_slow_client_gets_all_of_its_answer() -> Outcome {
    // More than fits between the two, so that the engine is done long before the client has read it.
    let long = STREAM.replace('}', r#", "logprobs": 5}"#);
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("socket");
    let mut server = Server::start(&["--listen", &format!("unix:{}", path.display())]);
    let mut stream = send(UnixStream::connect(&path).unwrap(), "POST", "/v1/completions", "", &long);
    stream.read_exact(&mut [0; 256]).unwrap();
    // Nobody has asked anything here; it must not keep the server.
    let _idle = UnixStream::connect(&path).unwrap();
    server.signal("-TERM");
    sleep(Duration::from_secs(1));
    assert!(rest(stream).contains("data: [DONE]"));
    assert_eq!(server.ended(), Some(0));
    Ok(())
}

fn a_killed_server_leaves_nothing_in_the_way() -> Outcome {
    // A port, of which a connection is still open when the server is killed.
    let port = free_port().to_string();
    for _ in 0..3 {
        let mut server = Server::start(&["--port", &port]);
        let mut stream = send(connect(&server.address), "POST", "/v1/completions", "", STREAM);
        read_to(&mut stream, "data: ");
        server.signal("-KILL");
        assert_eq!(server.ended(), None);
    }
    // A socket file, which stays behind; one that somebody listens on is not taken away.
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("socket");
    let listen = format!("unix:{}", path.display());
    let asks = || rest(send(UnixStream::connect(&path).unwrap(), "GET", "/health", "", ""));
    let mut server = Server::start(&["--listen", &listen]);
    assert!(asks().contains(" 200 "));
    let second = Command::new(SHERRY).args(["serve", "--listen", &listen]).output().unwrap();
    let error = String::from_utf8_lossy(&second.stderr);
    assert!(second.status.code() == Some(2) && error.contains(path.to_str().unwrap()), "{second:?}");
    server.signal("-KILL");
    server.ended();
    assert!(path.exists());
    let mut server = Server::start(&["--listen", &listen]);
    assert!(asks().contains(" 200 "));
    server.signal("-INT");
    assert_eq!((server.ended(), path.exists()), (Some(0), false));
    // A port that is taken.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let second = Command::new(SHERRY).args(["serve", "--port", &port]).output().unwrap();
    let error = String::from_utf8_lossy(&second.stderr);
    assert!(second.status.code() == Some(2) && error.contains(&port) && error.contains("--port"), "{second:?}");
    Ok(())
}

fn any_user_and_a_root_that_is_read_only() -> Outcome {
    let [unshare, setpriv] = [program(&["unshare"])?, program(&["setpriv"])?];
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("sherry");
    fs::copy(SHERRY, &copy).unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // A namespace of its own, in which nothing can be written.
    let script = format!(
        "mount --make-rprivate / && mount -o remount,bind,ro / && ! touch {copy}.x 2>/dev/null && \
         exec {} --reuid=65534 --regid=65534 --clear-groups {copy} serve --port 0",
        setpriv.display(),
        copy = copy.display()
    );
    let shell = |script: &str| {
        let mut command = Command::new(&unshare);
        command.args(["--mount", "sh", "-c", script]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.current_dir("/");
        command
    };
    if !shell("mount --make-rprivate / && mount -o remount,bind,ro /").output().is_ok_and(|it| it.status.success()) {
        program(&["a right to mount"])?;
    }
    let server = Server::of(&mut shell(&script));
    complete(&server.address, "", "Once");
    Ok(())
}

/// Resident memory in bytes.
fn resident(child: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn load_leaves_no_memory_behind() -> Outcome {
    let server = Server::start(&["--port", "0", "--kv-memory", "16"]);
    // Answers of all lengths at once: whole, streamed, left alone in the middle, refused, several with log-probabilities.
    let storm = || {
        std::thread::scope(|scope| {
            for client in 0..8_usize {
                let address = &server.address;
                scope.spawn(move || {
                    for job in 0..12_usize {
                        let words = "word ".repeat(1 + 37 * client + 5 * job);
                        let tokens = 1 + (client * 12 + job) * 7 % 90;
                        let mut body =
                            json!({ "prompt": words, "max_tokens": tokens, "ignore_eos": true, "seed": job });
                        match job % 4 {
                            0 => body["stream"] = json!(true),
                            1 => (body["n"], body["logprobs"]) = (json!(2), json!(3)),
                            2 => body["temperature"] = json!(-1),
                            _ => body["stop"] = json!(["the"]),
                        }
                        let stream = send(connect(address), "POST", "/v1/completions", "", &body.to_string());
                        if job != 8 {
                            rest(stream);
                        }
                    }
                });
            }
        });
    };
    storm();
    let before = resident(&server.child);
    for _ in 0..3 {
        storm();
    }
    let after = resident(&server.child);
    assert!(after < before + (5 << 20), "{before} and {after} bytes");
    Ok(())
}

/// `docs/serving.md`.
fn guide() -> String {
    fs::read_to_string(workspace().join("docs/serving.md")).unwrap()
}

/// Its block in this language.
fn documented(language: &str) -> String {
    let text = guide();
    let (_, rest) = text.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// How many tokens a server has written.
fn written(address: &str) -> f64 {
    let text = get(address, "/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix("sherry_generated_tokens_total "));
    line.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

/// A proxy before two servers, of which the first to be asked ends in the end. `learns`: the proxy needs a while to learn of
/// that.
fn before_two(mut servers: [Server; 2], proxy: &str, headers: &str, learns: bool) {
    for _ in 0..600 {
        if TcpStream::connect(proxy).is_ok() && get(proxy, "/v1/models").contains("sherry-tiny") {
            break;
        }
        sleep(Duration::from_millis(50));
    }
    // Streams come as they are written.
    let mut stream = send(connect(proxy), "POST", "/v1/completions", headers, STREAM);
    let begun = read_to(&mut stream, "data: ");
    assert!(!begun.contains("[DONE]") && rest(stream).contains("[DONE]"));
    // What was computed is found again, by equal beginnings or sessions.
    let prompt = "A little girl went to the park with her mother and they saw a big dog. ".repeat(24);
    let answers: Vec<Value> = (0..4).map(|_| complete(proxy, headers, &prompt)).collect();
    let cached = |answer: &Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(answers.iter().all(|answer| answer["choices"] == answers[0]["choices"]));
    assert!(answers.iter().skip(2).all(|answer| cached(answer) >= 256), "{answers:?}");
    // One of them ends while requests come: all are answered, or are once the proxy knows.
    let first = usize::from(written(&servers[0].address) < written(&servers[1].address));
    servers[first].signal("-TERM");
    let begun = Instant::now();
    let mut answered = 0;
    while answered < 100 {
        match try_complete(proxy, headers, &prompt) {
            Ok(answer) => {
                assert_eq!(answer["choices"], answers[0]["choices"]);
                answered += 1;
            }
            Err(answer) => {
                assert!(learns && begun.elapsed() < Duration::from_secs(60), "{answer}");
                sleep(Duration::from_millis(50));
            }
        }
    }
    assert_eq!(servers[first].ended(), Some(0));
}

fn nginx_as_documented() -> Outcome {
    let nginx = program(&["nginx"]).or_else(|_| program(&["/usr/sbin/nginx"]))?;
    let servers = [Server::start(&["--port", "0"]), Server::start(&["--port", "0"])];
    let place = tempfile::tempdir().unwrap();
    let proxy = format!("127.0.0.1:{}", free_port());
    let site = documented("nginx")
        .replace("127.0.0.1:8081", &servers[0].address)
        .replace("127.0.0.1:8082", &servers[1].address)
        .replace("listen 80;", &format!("listen {proxy};"));
    let folder = place.path().display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|of| format!("{of}_temp_path {folder}/{of};\n"))
        .concat();
    let config = format!(
        "daemon off; pid {folder}/pid; error_log stderr; worker_processes 1;\nevents {{}}\n\
         http {{ access_log off;\n{temporary}{site}}}\n"
    );
    let path = place.path().join("nginx.conf");
    fs::write(&path, config).unwrap();
    let _proxy = Running::start(Command::new(nginx).arg("-c").arg(&path).arg("-p").arg(place.path()));
    before_two(servers, &proxy, "X-Session-Id: 7\r\n", false);
    Ok(())
}

/// A program that ends with the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Those of nginx's workers end with a signal that it can pass on.
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

fn vllm_router_as_documented() -> Outcome {
    let mut router = python(&["vllm_router"])?;
    let servers = [Server::start(&["--port", "0"]), Server::start(&["--port", "0"])];
    let [first, second] = [&servers[0].address, &servers[1].address];
    let port = free_port().to_string();
    let text = guide();
    let line = text.lines().find_map(|line| line.strip_prefix("vllm-router ")).unwrap();
    let line = line.replace("127.0.0.1:8081", first).replace("127.0.0.1:8082", second).replace("8080", &port);
    let monitoring = free_port().to_string();
    router.args(["-m", "vllm_router.launch_router"]).args(line.split(' '));
    let _router = Running::start(router.args(["--prometheus-port", &monitoring]));
    before_two(servers, &format!("127.0.0.1:{port}"), "", true);
    Ok(())
}

/// The output of a command that succeeds.
fn output(command: impl AsRef<OsStr>, args: &[&str], folder: &Path) -> String {
    let output = Command::new(command).args(args).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn every_option_is_documented() -> Outcome {
    let place = tempfile::tempdir().unwrap();
    let help = output(SHERRY, &["serve", "--help"], place.path());
    let run = output(SHERRY, &["run", "--help"], place.path());
    let text = guide();
    let (_, options) = text.split_once("## Options\n").unwrap();
    let options = options.split_once("\n## ").unwrap().0;
    // "      --name <VALUE>", or "  -n, --name".
    fn names(text: &str) -> Vec<&str> {
        let lines = text.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
        let names = lines.filter_map(|line| line.split_whitespace().take(2).find(|word| word.starts_with("--")));
        names.collect()
    }
    // Those of `sherry run` are described there.
    let shared = names(&run);
    let missing: Vec<&str> = names(&help)
        .into_iter()
        .filter(|name| !shared.contains(name) && !options.contains(&format!("`{name}")))
        .collect();
    assert!(missing.is_empty() && names(&help).len() > 20, "not in docs/serving.md: {missing:?}");
    let known = names(&help);
    let named = options
        .split('`')
        .skip(1)
        .step_by(2)
        .flat_map(|code| code.split([' ', ',']))
        .filter(|word| word.starts_with("--"));
    let strange: Vec<&str> = named.filter(|name| !known.contains(name)).collect();
    assert!(strange.is_empty(), "not in --help: {strange:?}");
    Ok(())
}

fn the_examples_of_the_documentation_work() -> Outcome {
    program(&["curl"])?;
    let place = tempfile::tempdir().unwrap();
    let server = Server::start(&["--port", "0"]);
    let text = guide();
    let lines: Vec<String> = text
        .lines()
        .filter(|line| line.starts_with("curl "))
        // The model inside the program has no chat template.
        .filter(|line| !line.contains("/chat/"))
        .map(|line| line.replace("127.0.0.1:8080", &server.address))
        .collect();
    assert!(!lines.is_empty());
    for line in lines {
        let answer = output("sh", &["-c", &line], place.path());
        let answer: Value = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{line}: {error}: {answer}"));
        assert!(answer.get("error").is_none(), "{line}: {answer}");
    }
    Ok(())
}
