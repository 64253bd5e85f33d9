//! The registry as read-only programs see it while another holds the home. It has no secrets.

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use minicbor::Encoder;
use minicbor::encode::Error;
use protocol_core::effects::{DeviceState, Route};
use protocol_core::faults::LinkFailure;
use protocol_core::identity::device_id;
use protocol_core::ids::{DeviceId, PeerKey};
use protocol_core::info::TransportKind;
use protocol_core::node::{BlockedDevice, DeviceView, FilePolicy, Node, Policy};
use protocol_core::wire::cbor::{Malformed, Reader};

use crate::home::{self, HomeError};

/// Form of the encoding.
const VERSION: u64 = 4;
/// Bounds of what is read back: generous, for our own file.
const TEXT: usize = 4096;
const DEVICES: usize = 4096;
const ADDRESSES: usize = 256;
const STATES: [DeviceState; 5] =
    [DeviceState::Discovered, DeviceState::Pairing, DeviceState::Paired, DeviceState::Connected, DeviceState::Disconnected];
const FILES: [FilePolicy; 3] = [FilePolicy::Ask, FilePolicy::Automatic, FilePolicy::Refuse];
const ENDS: [LinkFailure; 11] = [
    LinkFailure::Unreachable,
    LinkFailure::NotAccepted,
    LinkFailure::Silent,
    LinkFailure::Cut,
    LinkFailure::Ended,
    LinkFailure::Replaced,
    LinkFailure::Violation,
    LinkFailure::Closed,
    LinkFailure::Removed,
    LinkFailure::Blocked,
    LinkFailure::Unfinished,
];

/// What the holder of a home knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Every device.
    pub devices: Vec<DeviceView>,
    /// Every blocked one, paired or not.
    pub blocked: Vec<BlockedDevice>,
}

/// What the holder of `home` knows, as it last wrote it. `None`: nothing was written yet.
///
/// # Errors
/// [`HomeError::OtherVersion`] if another version wrote the file: who opens the home writes it anew; [`HomeError::Damaged`] if it is not
/// ours; faults of the file system.
pub fn read_snapshot(home: &Path) -> Result<Option<Snapshot>, HomeError> {
    let Some(bytes) = home::read_snapshot(home)? else { return Ok(None) };
    let file = home::snapshot_path(home);
    match version(&bytes) {
        Ok(VERSION) => decode(&bytes).map(Some).map_err(|_| HomeError::Damaged(file)),
        Ok(_) => Err(HomeError::OtherVersion(file)),
        Err(_) => Err(HomeError::Damaged(file)),
    }
}

/// The first item of every version is its number.
fn version(bytes: &[u8]) -> Result<u64, Malformed> {
    let mut from = minicbor::Decoder::new(bytes);
    from.array().and_then(|_| from.u64()).map_err(|_| Malformed::Bounds)
}

pub(crate) fn encode(node: &Node) -> Vec<u8> {
    let mut to = Encoder::new(Vec::new());
    let written = write(&mut to, &Snapshot { devices: node.devices(), blocked: node.blocked_devices() });
    written.expect("invariant: a vector takes every byte");
    to.into_writer()
}

fn write(to: &mut Encoder<Vec<u8>>, Snapshot { devices, blocked }: &Snapshot) -> Result<(), Error<Infallible>> {
    to.array(3)?.u64(VERSION)?.array(blocked.len() as u64)?;
    for device in blocked {
        to.array(3)?.bytes(&device.key.0)?.str(&device.name)?.u64(device.unix_s)?;
    }
    to.array(devices.len() as u64)?;
    for device in devices {
        to.array(18)?.bytes(&device.id.0)?.bytes(&device.key.0)?.str(&device.name)?.str(&device.os)?.str(&device.app)?;
        to.u64(STATES.iter().position(|state| *state == device.state).unwrap_or(0) as u64)?;
        to.str(&device.fingerprint)?.u64(device.paired_unix)?;
        match device.last_seen_unix {
            Some(seen) => to.u64(seen)?,
            None => to.null()?,
        };
        match &device.last_route {
            Some(route) => to.array(2)?.str(route.transport.name())?.str(&route.address)?,
            None => to.null()?,
        };
        to.array(device.addresses.len() as u64)?;
        for address in &device.addresses {
            to.array(2)?.str(address.kind.name())?.str(&address.text)?;
        }
        to.bool(device.confirmed)?;
        for moment in [device.removed_there, device.blocked] {
            number(to, moment)?;
        }
        write_policy(to, &device.policy)?;
        match device.last_end {
            Some((reason, unix_s)) => to.array(2)?.u64(ENDS.iter().position(|end| *end == reason).unwrap_or(0) as u64)?.u64(unix_s)?,
            None => to.null()?,
        };
        match &device.route {
            Some(route) => to.array(2)?.str(route.transport.name())?.str(&route.address)?,
            None => to.null()?,
        };
        to.array(3)?;
        number(to, device.dialled_here.map(u64::from))?;
        number(to, device.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)))?;
        to.u64(device.sessions)?;
    }
    Ok(())
}

fn number(to: &mut Encoder<Vec<u8>>, number: Option<u64>) -> Result<(), Error<Infallible>> {
    match number {
        Some(number) => to.u64(number)?,
        None => to.null()?,
    };
    Ok(())
}

fn write_policy(to: &mut Encoder<Vec<u8>>, policy: &Policy) -> Result<(), Error<Infallible>> {
    to.array(6)?.bool(policy.messages)?.u64(FILES.iter().position(|files| *files == policy.files).unwrap_or(0) as u64)?;
    number(to, policy.max_bytes)?;
    number(to, policy.max_entries.map(u64::from))?;
    match &policy.folder {
        Some(folder) => to.str(folder)?,
        None => to.null()?,
    };
    to.array(policy.protocols.len() as u64)?;
    for name in &policy.protocols {
        to.str(name)?;
    }
    Ok(())
}

fn read_policy(from: &mut Reader<'_>) -> Result<Policy, Malformed> {
    from.fields(6)?;
    Ok(Policy {
        messages: from.bool()?,
        files: one_of(from, &FILES)?,
        max_bytes: from.or_null(Reader::u64)?,
        max_entries: from.or_null(Reader::u64)?.map(|most| u32::try_from(most).map_err(|_| Malformed::Bounds)).transpose()?,
        folder: from.or_null(|from| from.text(TEXT).map(str::to_owned))?,
        protocols: {
            let count = from.array_up_to(DEVICES)?;
            (0..count).map(|_| from.text(TEXT).map(str::to_owned)).collect::<Result<_, _>>()?
        },
    })
}

fn one_of<T: Copy>(from: &mut Reader<'_>, all: &[T]) -> Result<T, Malformed> {
    usize::try_from(from.u64()?).ok().and_then(|at| all.get(at)).copied().ok_or(Malformed::Bounds)
}

fn decode(bytes: &[u8]) -> Result<Snapshot, Malformed> {
    let mut from = Reader::new(bytes)?;
    from.fields(3)?;
    from.u64()?;
    let count = from.array_up_to(DEVICES)?;
    let blocked = (0..count).map(|_| blocked(&mut from)).collect::<Result<_, _>>()?;
    let count = from.array_up_to(DEVICES)?;
    let devices = (0..count).map(|_| device(&mut from)).collect::<Result<_, _>>()?;
    Ok(Snapshot { devices, blocked })
}

fn blocked(from: &mut Reader<'_>) -> Result<BlockedDevice, Malformed> {
    from.fields(3)?;
    let key = PeerKey(fixed(from)?);
    Ok(BlockedDevice { id: device_id(&key), key, name: from.text(TEXT)?.to_owned(), unix_s: from.u64()? })
}

fn device(from: &mut Reader<'_>) -> Result<DeviceView, Malformed> {
    from.fields(18)?;
    Ok(DeviceView {
        id: DeviceId(fixed(from)?),
        key: PeerKey(fixed(from)?),
        name: from.text(TEXT)?.to_owned(),
        os: from.text(TEXT)?.to_owned(),
        app: from.text(TEXT)?.to_owned(),
        state: one_of(from, &STATES)?,
        fingerprint: from.text(TEXT)?.to_owned(),
        paired_unix: from.u64()?,
        last_seen_unix: from.or_null(Reader::u64)?,
        last_route: from.or_null(route)?,
        addresses: {
            let count = from.array_up_to(ADDRESSES)?;
            let one = |from: &mut Reader<'_>| pair(from).map(|(kind, text)| protocol_core::info::Address { kind, text });
            (0..count).map(|_| one(from)).collect::<Result<_, _>>()?
        },
        confirmed: from.bool()?,
        removed_there: from.or_null(Reader::u64)?,
        blocked: from.or_null(Reader::u64)?,
        policy: read_policy(from)?,
        last_end: from.or_null(|from| {
            from.fields(2)?;
            Ok((one_of(from, &ENDS)?, from.u64()?))
        })?,
        route: from.or_null(route)?,
        dialled_here: {
            from.fields(3)?;
            from.or_null(Reader::u64)?.map(|here| here == 1)
        },
        rtt: from.or_null(Reader::u64)?.map(Duration::from_micros),
        sessions: from.u64()?,
    })
}

fn route(from: &mut Reader<'_>) -> Result<Route, Malformed> {
    let (transport, address) = pair(from)?;
    Ok(Route { transport, address })
}

fn fixed<const N: usize>(from: &mut Reader<'_>) -> Result<[u8; N], Malformed> {
    from.bytes(N)?.try_into().map_err(|_| Malformed::Bounds)
}

fn pair(from: &mut Reader<'_>) -> Result<(TransportKind, String), Malformed> {
    from.fields(2)?;
    Ok((TransportKind::named(from.text(TEXT)?), from.text(TEXT)?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol_core::info::Address;

    #[test]
    // HOST-5.
    fn what_is_written_is_read_back() {
        let address = Address { kind: TransportKind::Tcp, text: "127.0.0.1:9".into() };
        let full = DeviceView {
            id: DeviceId([1; 16]),
            key: PeerKey([2; 32]),
            name: "laptop ü".into(),
            os: "linux".into(),
            app: "kin 0".into(),
            state: DeviceState::Connected,
            fingerprint: "a b c d e f".into(),
            paired_unix: 1_700_000_000,
            last_seen_unix: Some(1_700_000_001),
            last_route: Some(Route { transport: TransportKind::Iroh, address: "x".into() }),
            addresses: vec![address.clone(), address],
            confirmed: true,
            removed_there: Some(7),
            blocked: Some(8),
            policy: Policy {
                messages: false,
                files: FilePolicy::Automatic,
                max_bytes: Some(9),
                max_entries: Some(11),
                folder: Some("/tmp/x".into()),
                protocols: ["clipboard".to_owned()].into(),
            },
            last_end: Some((LinkFailure::Removed, 10)),
            route: Some(Route { transport: TransportKind::Tcp, address: "y".into() }),
            dialled_here: Some(true),
            rtt: Some(Duration::from_micros(1234)),
            sessions: 3,
        };
        let bare = DeviceView {
            state: DeviceState::Paired,
            last_seen_unix: None,
            last_route: None,
            addresses: vec![],
            confirmed: false,
            removed_there: None,
            blocked: None,
            policy: Policy::default(),
            last_end: None,
            route: None,
            dialled_here: None,
            rtt: None,
            ..full.clone()
        };
        let key = PeerKey([4; 32]);
        let blocked = BlockedDevice { id: device_id(&key), key, name: "gone".into(), unix_s: 11 };
        let snapshot = Snapshot { devices: vec![full, bare], blocked: vec![blocked] };
        let mut to = Encoder::new(Vec::new());
        write(&mut to, &snapshot).unwrap();
        let bytes = to.into_writer();
        assert_eq!(decode(&bytes).unwrap(), snapshot);
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err());
        }
    }
}
