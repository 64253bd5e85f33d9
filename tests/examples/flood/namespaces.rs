//! Three network namespaces, joined by a bridge in a fourth. None of them is joined to anything else.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

/// Who lives where.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Victim,
    Attacker,
    Right,
}

const PLACES: [Place; 3] = [Place::Victim, Place::Attacker, Place::Right];
const BRIDGE: &str = "kin-flood-bridge";

impl Place {
    const fn name(self) -> &'static str {
        match self {
            Self::Victim => "kin-flood-victim",
            Self::Attacker => "kin-flood-attacker",
            Self::Right => "kin-flood-right",
        }
    }

    /// Its address.
    pub(super) const fn ip(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, 1 + self as u8)
    }

    /// A program that runs there.
    pub(super) fn command(self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.name()]).arg(program);
        command
    }
}

/// The namespaces, until this is dropped.
pub(super) struct Lab;

fn ip(arguments: &str) -> bool {
    Command::new("ip").args(arguments.split_whitespace()).status().is_ok_and(|status| status.success())
}

fn must(arguments: String) {
    assert!(ip(&arguments), "ip {arguments} failed: this needs Linux, iproute2 and the right to make network namespaces");
}

impl Lab {
    /// Makes them.
    pub(super) fn build() -> Self {
        must(format!("netns add {BRIDGE}"));
        let lab = Self;
        must(format!("-n {BRIDGE} link add hub type bridge"));
        must(format!("-n {BRIDGE} link set hub up"));
        for place in PLACES {
            let (name, ip) = (place.name(), place.ip());
            must(format!("netns add {name}"));
            must(format!("-n {name} link add eth0 type veth peer name to{} netns {BRIDGE}", place as u8));
            must(format!("-n {BRIDGE} link set to{} master hub up", place as u8));
            must(format!("-n {name} addr add {ip}/24 dev eth0"));
            must(format!("-n {name} link set eth0 up"));
            must(format!("-n {name} link set lo up"));
        }
        lab
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in PLACES.map(Place::name).into_iter().chain([BRIDGE]) {
            ip(&format!("netns del {name}"));
        }
    }
}
