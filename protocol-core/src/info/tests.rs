use super::*;
use proptest::prelude::*;
use std::string::ToString as _;
use std::vec;

fn transport(kind: TransportKind, addresses: usize) -> TransportInfo {
    TransportInfo { kind, id: vec![7; 32], addresses: vec!["192.168.1.7:4711".to_owned(); addresses], relay: None }
}

fn info(name: &str) -> DeviceInfo {
    let transports = vec![transport(TransportKind::Tcp, 1), transport(TransportKind::Iroh, 0)];
    DeviceInfo { name: name.to_owned(), os: "linux".to_owned(), app: "kin/1".to_owned(), caps: 3, transports }
}

/// What stands exactly at a bound passes, one more does not.
#[test]
// ID-14.
fn every_bound_is_checked() {
    let accepted = |change: &dyn Fn(&mut DeviceInfo)| {
        let mut info = info("name");
        change(&mut info);
        let decoded = DeviceInfo::decode(&info.encode());
        if let Ok(decoded) = &decoded {
            assert_eq!(*decoded, info);
        }
        decoded.is_ok()
    };
    for (len, within) in [(0, true), (64, true), (65, false)] {
        assert_eq!(accepted(&|info| info.name = "n".repeat(len)), within, "name of {len}");
    }
    for (len, within) in [(32, true), (33, false)] {
        assert_eq!(accepted(&|info| info.os = "n".repeat(len)), within, "os of {len}");
        assert_eq!(accepted(&|info| info.app = "n".repeat(len)), within, "app of {len}");
    }
    for (count, within) in [(0, true), (4, true), (5, false)] {
        assert_eq!(accepted(&|info| info.transports = vec![transport(TransportKind::Sim, 1); count]), within, "{count} transports");
    }
    for (count, within) in [(16, true), (17, false)] {
        assert_eq!(accepted(&|info| info.transports = vec![transport(TransportKind::Sim, count)]), within, "{count} addresses");
    }
    for (len, within) in [(128, true), (129, false)] {
        assert_eq!(accepted(&|info| info.transports[0].addresses = vec!["a".repeat(len)]), within, "address of {len}");
    }
    for (len, within) in [(256, true), (257, false)] {
        assert_eq!(accepted(&|info| info.transports[0].relay = Some("a".repeat(len))), within, "relay of {len}");
    }
    let rest = info("name").encode().len() - 32;
    for (len, within) in [(limits::INFO, true), (limits::INFO + 1, false)] {
        // A longer byte string has a head one byte longer.
        let id = len - rest - 1;
        assert_eq!(accepted(&|info| info.transports[0].id = vec![1; id]), within, "{len} in all");
    }
    let mut other_version = info("name").encode();
    other_version[1] = 2;
    assert_eq!(DeviceInfo::decode(&other_version), Err(Malformed::Bounds));
}

#[test]
// ID-15.
fn unknown_kinds_are_kept() {
    let mut info = info("name");
    info.transports.push(transport(TransportKind::named("smoke-signals"), 2));
    let decoded = DeviceInfo::decode(&info.encode()).unwrap();
    assert_eq!(decoded.transports[2].kind, TransportKind::Other("smoke-signals".to_owned()));
    assert_eq!(decoded, info);
}

#[test]
// ID-16.
fn names_are_shown_without_tricks() {
    for (name, shown) in [
        ("Anna's desktop", "Anna's desktop"),
        ("  a \t\n b\u{2028}c ", "a b c"),
        ("safe\u{202e}exe.txt", "safeexe.txt"),
        ("a\u{1b}[2Jb", "a[2Jb"),
        ("a \u{202e}\u{200f} b", "a b"),
        ("\u{2066}\u{0}", ""),
        ("Bücher 日本", "Bücher 日本"),
    ] {
        assert_eq!(info(name).shown_name(), shown, "{name:?}");
    }
}

#[test]
fn what_is_too_much_is_left_out() {
    let mut big = info(&"ü".repeat(40));
    big.transports = vec![transport(TransportKind::Tcp, 30); 6];
    for transport in &mut big.transports {
        transport.addresses.iter_mut().for_each(|address| *address = "a".repeat(120));
        transport.relay = Some("r".repeat(300));
    }
    let bounded = big.bounded();
    assert_eq!(bounded.name, "ü".repeat(32));
    assert_eq!(bounded.transports.len(), 4);
    let bytes = bounded.encode();
    assert!((3900..=limits::INFO).contains(&bytes.len()), "no more than needed is left out: {}", bytes.len());
    assert_eq!(DeviceInfo::decode(&bytes), Ok(bounded));
}

#[test]
fn addresses_read_back() {
    for text in ["tcp:192.168.1.7:4711", "tcp:[::1]:4711", "tcp:host.example:1", "iroh:00ff@1.2.3.4:5", "libp2p:/ip4/1.2.3.4/tcp/5"] {
        assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
    }
    for text in ["192.168.1.7:4711", "smoke:1", "tcp", "tcp:", "tcp:a b", "", ":"] {
        assert!(text.parse::<Address>().is_err(), "{text:?}");
    }
    let mut iroh = transport(TransportKind::Iroh, 1);
    iroh.id = vec![0x0a, 0xff];
    assert_eq!(iroh.dialable().next().unwrap().to_string(), "iroh:0aff@192.168.1.7:4711");
    assert_eq!(transport(TransportKind::Tcp, 1).dialable().next().unwrap().to_string(), "tcp:192.168.1.7:4711");
}

proptest! {
    /// Whatever is accepted encodes again to the same bytes, and no bytes make it panic.
    #[test]
    fn decoding_inverts_encoding(at in 0_usize..80, byte: u8, len in 0_usize..120) {
        let mut bytes = info("Anna").encode();
        bytes[at] = byte;
        bytes.truncate(len);
        if let Ok(decoded) = DeviceInfo::decode(&bytes) {
            prop_assert_eq!(decoded.encode(), bytes);
        }
    }
}
