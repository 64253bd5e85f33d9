//! Processes of the program, and what they say.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jsonschema::Validator;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;

/// What takes longer hangs.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(120);

/// A temporary directory with the homes of devices.
pub(crate) struct Stage {
    path: PathBuf,
    transport: &'static str,
}

/// A home, and the program that uses it.
#[derive(Clone)]
pub(crate) struct Device {
    home: PathBuf,
    transport: &'static str,
}

/// A running process.
pub(crate) struct Running {
    line: String,
    child: Child,
    events: Receiver<Value>,
    seen: Vec<Value>,
    words: Option<JoinHandle<String>>,
    until: Instant,
}

/// Where somebody sits who is asked.
pub(crate) struct Terminal {
    file: fs::File,
    said: String,
}

/// A process that ended.
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) events: Vec<Value>,
    pub(crate) words: String,
}

impl Stage {
    /// Devices that speak bare TCP.
    pub(crate) fn new() -> Self {
        Self::over("tcp")
    }

    /// Devices that speak this transport.
    pub(crate) fn over(transport: &'static str) -> Self {
        let mut random = [0; 8];
        getrandom::fill(&mut random).unwrap();
        let path = std::env::temp_dir().join(format!("kin-processes-{:016x}", u64::from_ne_bytes(random)));
        fs::create_dir(&path).unwrap();
        Self { path, transport }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn device(&self, name: &str) -> Device {
        Device { home: self.path(&format!("home-{name}")), transport: self.transport }
    }

    /// Two devices that are paired.
    pub(crate) fn pair(&self) -> (Device, Device) {
        let (a, b) = (self.device("a"), self.device("b"));
        let (showing, code, addresses) = self.show_code(&a, &["--yes"]);
        let joined = join(&b, &code, &addresses, &["--yes", "--name", "device b"]).end();
        assert_eq!(joined.code, 0, "{}", joined.words);
        let shown = showing.end();
        assert_eq!(shown.code, 0, "{}", shown.words);
        (a, b)
    }

    /// Starts `kin pair`, and gives it back with the file of the code and the addresses.
    pub(crate) fn show_code(&self, device: &Device, more: &[&str]) -> (Running, String, Vec<String>) {
        let home = device.home.file_name().unwrap().to_str().unwrap();
        let (code, name) = (self.text(&format!("code-{home}")), home.replace("home-", "device "));
        let mut line = vec!["pair", "--name", &name, "--code-file", &code];
        line.extend(more);
        let mut showing = device.start(&line);
        let addresses = strings(&showing.until("listening")["addresses"]);
        showing.until("code");
        (showing, code, addresses)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.path).unwrap_or(());
    }
}

/// Starts `kin join` with the code of a file.
pub(crate) fn join(device: &Device, code_file: &str, addresses: &[String], more: &[&str]) -> Running {
    let mut line = vec!["join", "--code-file", code_file];
    for address in addresses {
        line.extend(["--address", address]);
    }
    line.extend(more);
    device.start(&line)
}

impl Device {
    /// The same device with these transports.
    pub(crate) fn over(&self, transport: &'static str) -> Self {
        Self { home: self.home.clone(), transport }
    }

    /// The same device where its home is somewhere else now.
    #[allow(dead_code, reason = "for the power that goes")]
    pub(crate) fn moved(&self, home: PathBuf) -> Self {
        Self { home, transport: self.transport }
    }

    /// The command, with a clean environment, events on standard output, and nobody to ask.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kin"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KIN_")) {
            command.env_remove(name);
        }
        command.env("KIN_HOME", &self.home).env("KIN_BIND", "127.0.0.1:0").env("KIN_TRANSPORT", self.transport).stdin(Stdio::null());
        // Who is to be found says so.
        command.env("KIN_NO_LAN", "1");
        command
    }

    pub(crate) fn start(&self, line: &[&str]) -> Running {
        let mut command = self.command();
        command.arg("--json").args(line);
        Running::new(command, line.join(" "))
    }

    /// Starts it as the last words of another command, which runs it as `"$@"`.
    pub(crate) fn start_by(&self, before: &[&str], line: &[&str]) -> Running {
        let kin = self.command();
        let mut command = Command::new(before[0]);
        for (name, value) in kin.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.args(&before[1..]).arg(kin.get_program()).arg("--json").args(line).stdin(Stdio::null());
        Running::new(command, line.join(" "))
    }

    /// Starts it with somebody at a terminal: it is asked there, and what it says to people is read there.
    pub(crate) fn start_at_terminal(&self, line: &[&str]) -> (Running, Terminal) {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let theirs = fs::File::options().read(true).write(true).open(Path::new(name.to_str().unwrap())).unwrap();
        let mut command = self.command();
        command.arg("--json").args(line).stdin(theirs.try_clone().unwrap()).stderr(theirs);
        let running = Running::spawn(command.stdout(Stdio::piped()), line.join(" "));
        (running, Terminal { file: fs::File::from(ours), said: String::new() })
    }

    pub(crate) fn run(&self, line: &[&str]) -> Ended {
        self.start(line).end()
    }

    /// Standard output of a run for people.
    pub(crate) fn say(&self, line: &[&str]) -> String {
        let output = self.command().args(line).output().unwrap();
        assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn id(&self) -> String {
        self.run(&["id"]).event("identity")["device_id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn fingerprint(&self) -> String {
        self.run(&["id"]).event("identity")["fingerprint"].as_str().unwrap().to_owned()
    }
}

impl Running {
    pub(crate) fn new(mut command: Command, line: String) -> Self {
        Self::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()), line)
    }

    fn spawn(command: &mut Command, line: String) -> Self {
        let mut child = command.spawn().unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take());
        let (sender, events) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let line = line.unwrap();
                // A line that is no JSON matches no event of the schema, where it is not the last one of a process that was killed.
                let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if sender.send(event).is_err() {
                    break;
                }
            }
        });
        let words = std::thread::spawn(move || {
            let mut text = String::new();
            if let Some(mut stderr) = stderr {
                stderr.read_to_string(&mut text).unwrap_or(0);
            }
            text
        });
        Self { line, child, events, seen: Vec::new(), words: Some(words), until: Instant::now() + WATCHDOG }
    }

    fn next(&mut self) -> Option<Value> {
        match self.events.recv_timeout(self.until.saturating_duration_since(Instant::now())) {
            Ok(event) => {
                let errors: Vec<String> = schema().iter_errors(&event).map(|error| error.to_string()).collect();
                assert!(errors.is_empty(), "{event}: {errors:?}");
                self.seen.push(event.clone());
                Some(event)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("`kin {}` hangs after {:?}", self.line, self.seen),
        }
    }

    /// The next event of this name, unless the process ends without one.
    pub(crate) fn until_or_end(&mut self, name: &str) -> Option<Value> {
        loop {
            match self.next() {
                Some(event) if event["event"] == name => return Some(event),
                Some(_) => {}
                None => return None,
            }
        }
    }

    /// The next event of this name.
    pub(crate) fn until(&mut self, name: &str) -> Value {
        self.until_or_end(name).unwrap_or_else(|| panic!("`kin {}` ended without `{name}`: {:?}", self.line, self.seen))
    }

    /// The events of this name so far.
    #[allow(dead_code, reason = "for the lab")]
    pub(crate) fn seen(&self, name: &str) -> Vec<&Value> {
        self.seen.iter().filter(|event| event["event"] == name).collect()
    }

    /// Listens to it for so long, or until it ends.
    pub(crate) fn listen(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while let Ok(event) = self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
            self.seen.push(event);
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Ends it as a power cut would: nothing of it runs any more when this returns. What it said until then.
    pub(crate) fn kill(mut self) -> Vec<Value> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        // A line that was cut in the middle says nothing.
        while let Ok(event) = self.events.recv() {
            self.seen.push(event);
        }
        std::mem::take(&mut self.seen)
    }

    /// Waits for the end.
    pub(crate) fn end(mut self) -> Ended {
        while self.next().is_some() {}
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        let words = self.words.take().unwrap().join().unwrap();
        let events = std::mem::take(&mut self.seen);
        assert_eq!(events.first().map(|event| &event["event"]), Some(&Value::from("hello")), "{words}");
        assert_eq!(code != 0, events.last().is_some_and(|event| event["event"] == "error"), "exit {code}: {events:?}");
        if let Some(error) = events.iter().find(|event| event["event"] == "error") {
            assert_eq!(error["code"], code, "the event and the exit code say the same");
        }
        Ended { code, events, words }
    }
}

impl Terminal {
    /// Reads until this is said; what was read is not read again.
    pub(crate) fn until(&mut self, what: &str) {
        let mut bytes = [0; 1_024];
        loop {
            if let Some(at) = self.said.find(what) {
                self.said.drain(..at + what.len());
                return;
            }
            let mut ready = [PollFd::new(&self.file, PollFlags::IN)];
            let there = poll(&mut ready, Some(&WATCHDOG.try_into().unwrap())).unwrap();
            assert!(there > 0, "no {what:?} in {:?}", self.said);
            let len = self.file.read(&mut bytes).unwrap_or_else(|error| panic!("no {what:?} in {:?}: {error}", self.said));
            self.said += &String::from_utf8_lossy(&bytes[..len]);
        }
    }

    /// Types a line.
    pub(crate) fn types(&mut self, line: &str) {
        writeln!(self.file, "{line}").unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test that failed leaves nobody behind.
        self.child.kill().unwrap_or(());
        drop(self.child.wait());
    }
}

impl Ended {
    pub(crate) fn all(&self, name: &str) -> Vec<&Value> {
        self.events.iter().filter(|event| event["event"] == name).collect()
    }

    pub(crate) fn event(&self, name: &str) -> &Value {
        self.all(name).first().unwrap_or_else(|| panic!("no `{name}` in {:?}\n{}", self.events, self.words))
    }

    /// The message of its error.
    pub(crate) fn message(&self) -> &str {
        self.event("error")["message"].as_str().unwrap()
    }
}

pub(crate) fn strings(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}

/// The committed schema: scripts are written against that one.
fn schema() -> &'static Validator {
    static SCHEMA: OnceLock<Validator> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema/events.schema.json");
        jsonschema::validator_for(&serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()).unwrap()
    })
}
