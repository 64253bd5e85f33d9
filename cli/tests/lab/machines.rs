//! Machines: network namespaces, the cables between them, and what sees and runs there. They are gone when they are dropped.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::stage::{Device, Running};

/// Runs a command that has to succeed, and returns what it said.
pub(crate) fn run(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A machine with nothing but a loopback interface at first.
pub(crate) struct Machine(String);

impl Machine {
    pub(crate) fn new(name: &str) -> Self {
        let mut random = [0; 4];
        getrandom::fill(&mut random).unwrap();
        let machine = Self(format!("kin-{:08x}-{name}", u32::from_ne_bytes(random)));
        run(&format!("ip netns add {}", machine.0));
        // What the system itself says over IPv6 would be counted with what we say.
        machine.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
        machine.ip("link set lo up");
        machine
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// Runs a command here.
    pub(crate) fn run(&self, line: &str) -> String {
        run(&format!("ip netns exec {} {line}", self.0))
    }

    /// Changes links, addresses and routes here.
    pub(crate) fn ip(&self, line: &str) -> String {
        run(&format!("ip -n {} {line}", self.0))
    }

    /// Connects an interface of this machine with one of another, both new.
    pub(crate) fn cable(&self, here: &str, other: &Self, there: &str) {
        run(&format!("ip link add {here} netns {} type veth peer name {there} netns {}", self.0, other.0));
        self.ip(&format!("link set {here} up"));
        other.ip(&format!("link set {there} up"));
    }

    /// A command that will run here.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(program);
        command
    }

    /// `kin` on this machine, which listens on all interfaces and looks around.
    pub(crate) fn kin(&self, device: &Device, line: &[&str]) -> Running {
        let kin = device.command();
        let mut command = self.command(kin.get_program());
        for (name, value) in kin.get_envs() {
            match value.filter(|_| name != "KIN_BIND" && name != "KIN_NO_LAN") {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.arg("--json").args(line).stdin(Stdio::null());
        Running::new(command, line.join(" "))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(Command::new("ip").args(["netns", "del", &self.0]).status());
    }
}

/// Writes down every packet that a machine sees.
pub(crate) struct Sniffer(Child);

impl Sniffer {
    pub(crate) fn new(machine: &Machine, into: &Path) -> Self {
        let script = "import socket, struct, sys\n\
            s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))\n\
            f = open(sys.argv[1], 'wb', buffering=0)\n\
            print('ready', flush=True)\n\
            while True:\n\
            \x20   p = s.recv(65535); f.write(struct.pack('>I', len(p)) + p)";
        let mut child = machine.command("python3").args(["-c", script]).arg(into).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n");
        Self(child)
    }

    pub(crate) fn end(mut self, from: &Path) -> Vec<Vec<u8>> {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        let bytes = fs::read(from).unwrap();
        let mut rest = &bytes[..];
        let mut packets = Vec::new();
        while let Some((len, behind)) = rest.split_first_chunk::<4>() {
            let Some((packet, behind)) = behind.split_at_checked(u32::from_be_bytes(*len) as usize) else { break };
            packets.push(packet.to_vec());
            rest = behind;
        }
        packets
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
