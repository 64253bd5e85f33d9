//! One friendship over every network stack: paired over one, files over another, and what is wrong on one is wrong on all.

use std::fs;
use std::thread;

use crate::stage::{Stage, join, strings};
use crate::tree::tree;

/// The transports, as `--transport` names them.
const ALL: [&str; 3] = ["tcp", "libp2p", "iroh"];

/// Those addresses that are of this transport.
fn of(transport: &str, addresses: &[String]) -> Vec<String> {
    addresses.iter().filter(|address| address.starts_with(&format!("{transport}:"))).cloned().collect()
}

/// Section 4.2: whatever two devices paired over, each then knows every transport of the other, and where.
#[test]
fn paired_over_each_and_sent_over_each_other() {
    thread::scope(|scope| {
        for paired in ALL {
            scope.spawn(move || pair_over_one_and_send_over_each(paired));
        }
    });
}

fn pair_over_one_and_send_over_each(paired: &str) {
    let stage = Stage::over("auto");
    let (a, b) = (stage.device("a"), stage.device("b"));
    let (showing, code, addresses) = stage.show_code(&a, &["--yes"]);
    let joined = join(&b, &code, &of(paired, &addresses), &["--yes", "--name", "device b"]).end();
    assert_eq!((joined.code, showing.end().code), (0, 0), "over {paired}: {}", joined.words);
    for (device, other) in [(&a, "device b"), (&b, "device a")] {
        let shown = device.run(&["devices", "show", other]);
        let known = strings(&shown.event("device")["addresses"]);
        for transport in ALL {
            assert!(!of(transport, &known).is_empty(), "paired over {paired}, {transport} of {other} is not known: {known:?}");
        }
    }
    let album = stage.path("album");
    fs::create_dir_all(album.join("deep/er")).unwrap();
    fs::write(album.join("deep/er/pictures"), vec![7; 3_000_000]).unwrap();
    fs::write(album.join("notes"), paired).unwrap();
    for sent in ALL {
        let inbox = stage.text(&format!("inbox-{sent}"));
        let mut receiving = b.over(sent).start(&["recv", &inbox, "--once", "--yes"]);
        receiving.until("listening");
        // Where it listens is known since the pairing.
        let sending = a.over(sent).run(&["send", &stage.text("album"), "--to", "device b"]);
        assert_eq!(sending.code, 0, "paired over {paired}, sent over {sent}: {}", sending.words);
        assert_eq!(sending.event("route")["transport"], sent);
        assert_eq!(receiving.end().code, 0);
        assert_eq!(tree(&album), tree(&stage.path(&format!("inbox-{sent}/album"))), "paired over {paired}, sent over {sent}");
    }
}

#[test]
fn a_wrong_code_is_refused_on_every_transport_and_burns_nothing() {
    for transport in ALL {
        let stage = Stage::over(transport);
        let (showing, code, addresses) = stage.show_code(&stage.device("a"), &["--yes"]);
        let wrong = stage.text("wrong");
        fs::write(&wrong, "legal winner thank year wave sausage worth useful legal winner thank yellow").unwrap();
        let refused = join(&stage.device("b"), &wrong, &addresses, &["--yes"]).end();
        assert_eq!(refused.code, 7, "{transport}: {}", refused.words);
        assert_eq!(join(&stage.device("b"), &code, &addresses, &["--yes"]).end().code, 0, "{transport}");
        assert_eq!(showing.end().code, 0, "{transport}");
    }
}

#[test]
fn addresses_of_transports_that_were_not_chosen_are_left_out() {
    let stage = Stage::over("auto");
    let (a, b) = (stage.device("a"), stage.device("b"));
    let (showing, code, addresses) = stage.show_code(&a, &["--yes"]);
    let refused = join(&b.over("iroh"), &code, &of("tcp", &addresses), &["--yes"]).end();
    assert_eq!(refused.code, 2, "{}", refused.words);
    assert!(refused.message().contains("iroh"), "{}", refused.message());
    // Of all the addresses, those that can be dialled are enough.
    assert_eq!(join(&b.over("iroh"), &code, &addresses, &["--yes"]).end().code, 0);
    assert_eq!(showing.end().code, 0);
}

#[test]
fn the_version_names_what_is_built_in() {
    let stage = Stage::new();
    assert_eq!(stage.device("a").say(&["--version"]).trim(), format!("kin {} (tcp, libp2p, iroh)", env!("CARGO_PKG_VERSION")));
}

/// DATA-29: a session is where the other was found; data goes over bare TCP, as soon as it is known that the other listens there.
#[test]
fn data_takes_the_faster_way() {
    let stage = Stage::over("iroh");
    let (a, b) = stage.pair();
    fs::write(stage.path("pictures"), vec![7; 3_000_000]).unwrap();
    let mut receiving = b.over("auto").start(&["recv", &stage.text("inbox"), "--once", "--yes"]);
    receiving.until("listening");
    // Of the pairing only the addresses of Iroh are known; the reconnect brings the others.
    let sending = a.over("auto").run(&["send", &stage.text("pictures"), "--to", "device b"]);
    assert_eq!((sending.code, receiving.end().code), (0, 0), "{}", sending.words);
    let routes: Vec<&str> = sending.all("route").iter().map(|route| route["transport"].as_str().unwrap()).collect();
    assert_eq!(routes, ["iroh", "tcp"]);
    assert_eq!(fs::read(stage.path("inbox/pictures")).unwrap(), vec![7; 3_000_000]);
}
