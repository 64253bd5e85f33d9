//! Two users of one machine.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::stage::Stage;

/// No user that owns anything.
const NOBODY: u32 = 65_534;

/// What the first words are that a user hears at a socket.
fn heard(socket: &Path, user: u32) -> String {
    let script = "import socket, sys\n\
        s = socket.socket(socket.AF_UNIX)\n\
        s.connect(sys.argv[1])\n\
        print(s.recv(4096).decode())";
    let output = Command::new("python3").args(["-c", script]).arg(socket).uid(user).gid(user).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// HOST-22: who asks at the local socket is looked at, also where somebody has opened its doors.
#[test]
fn another_user_hears_nothing_at_the_local_socket() {
    let stage = Stage::new();
    let (a, _) = stage.pair();
    let mut here = a.start(&["up"]);
    here.until("listening");
    let (home, socket) = (stage.path("home-a"), stage.path("home-a").join("up.sock"));
    assert_eq!(fs::metadata(&home).unwrap().permissions().mode() & 0o777, 0o700, "the home is its owner's");
    for (path, mode) in [(&home, 0o755), (&socket, 0o666)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    assert!(heard(&socket, 0).contains("hello"), "{}", heard(&socket, 0));
    assert_eq!(heard(&socket, NOBODY), "");
    assert_eq!(a.run(&["devices", "list"]).all("device").len(), 1, "its owner is served on");
    here.signal(Signal::TERM);
    assert_eq!(here.end().code, 143);
}
