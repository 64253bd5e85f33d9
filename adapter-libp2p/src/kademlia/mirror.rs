//! What a node of the DHT sees of who asks: its address from outside, and the time. One datagram there and one back, so that who asks
//! learns besides whether UDP comes through at all.
//!
//! ```text
//! request = "kin-mirror/1" ‖ token 16 ‖ zeros 26            54 bytes
//! answer  = "kin-mirror/1" ‖ token 16 ‖ u64 unix seconds ‖ IPv6 address 16 (IPv4 mapped) ‖ u16 port
//! ```
//!
//! An answer is as long as its request, and is none itself: asking in another's name gains nothing. Nothing of it is secret or relied
//! upon; it is for `kin doctor`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

use super::Node;

const NAME: &[u8; 12] = b"kin-mirror/1";
const TOKEN: usize = 16;
const LEN: usize = NAME.len() + TOKEN + 8 + 16 + 2;
/// How often it is asked, and how long each time an answer is awaited: datagrams are lost.
const TRIES: usize = 3;
const WAIT: Duration = Duration::from_millis(700);

/// How a device looks from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mirrored {
    /// The address from which the node was asked, as the node sees it.
    pub seen: SocketAddr,
    /// The same, as this machine knows it: another where a router translates.
    pub own: SocketAddr,
    /// How many seconds the clock of this machine is ahead of the node's.
    pub ahead: i64,
}

/// Asks a node how this device looks from there.
///
/// # Errors
/// `TimedOut` where nothing comes back; else what the system says.
pub async fn mirror(node: &Node) -> io::Result<Mirrored> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for at in node.sockets().await {
        match ask(at).await {
            Ok(mirrored) => return Ok(mirrored),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn ask(at: SocketAddr) -> io::Result<Mirrored> {
    let any: IpAddr = if at.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(at).await?;
    let mut request = [0; LEN];
    let (name, rest) = request.split_at_mut(NAME.len());
    name.copy_from_slice(NAME);
    getrandom::fill(rest.split_at_mut(TOKEN).0).map_err(io::Error::other)?;
    for _ in 0..TRIES {
        socket.send(&request).await?;
        let answered = async {
            let mut answer = [0; LEN + 1];
            loop {
                let len = socket.recv(&mut answer).await?;
                if let Some((unix_s, seen)) = answer.get(..len).and_then(|answer| read(answer, &request)) {
                    let ahead = i64::try_from(unix_now()).unwrap_or(i64::MAX).saturating_sub(i64::try_from(unix_s).unwrap_or(i64::MAX));
                    return Ok(Mirrored { seen, own: socket.local_addr()?, ahead });
                }
            }
        };
        if let Ok(answered) = timeout(WAIT, answered).await {
            return answered;
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn read(answer: &[u8], request: &[u8; LEN]) -> Option<(u64, SocketAddr)> {
    let (asked, _) = request.split_at(NAME.len() + TOKEN);
    let rest = answer.strip_prefix(asked)?;
    let (unix_s, rest) = rest.split_first_chunk::<8>()?;
    let (ip, port) = rest.split_first_chunk::<16>()?;
    let port = u16::from_be_bytes(port.try_into().ok()?);
    Some((u64::from_be_bytes(*unix_s), SocketAddr::new(Ipv6Addr::from(*ip).to_canonical(), port)))
}

/// Answers on a socket until it is dropped.
pub(super) async fn answer(socket: UdpSocket) {
    let mut request = [0; LEN + 1];
    loop {
        let Ok((len, from)) = socket.recv_from(&mut request).await else {
            // As a rule it tells of an earlier answer, which did not arrive.
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        if let Some(answer) = request.get(..len).and_then(|request| reflect(request, from, unix_now())) {
            drop(socket.send_to(&answer, from).await);
        }
    }
}

fn reflect(request: &[u8], from: SocketAddr, unix_s: u64) -> Option<Vec<u8>> {
    let (name, zeros) = (request.get(..NAME.len())?, request.get(NAME.len() + TOKEN..)?);
    // An answer tells a time, and is nobody's question.
    if request.len() != LEN || name != NAME || zeros.iter().any(|byte| *byte != 0) {
        return None;
    }
    let ip = match from.ip().to_canonical() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let asked = request.get(..NAME.len() + TOKEN)?;
    Some([asked, &unix_s.to_be_bytes(), &ip.octets(), &from.port().to_be_bytes()].concat())
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_as_long_as_its_request_and_for_nobody_else() {
        let mut request = [0; LEN];
        request[..NAME.len()].copy_from_slice(NAME);
        request[NAME.len()..NAME.len() + TOKEN].fill(7);
        for from in ["203.0.113.7:4711", "[2001:db8::1]:9"] {
            let from = from.parse().unwrap();
            let answer = reflect(&request, from, 1_800_000_000).unwrap();
            assert_eq!((answer.len(), read(&answer, &request)), (LEN, Some((1_800_000_000, from))));
            assert_eq!(reflect(&answer, from, 1_800_000_000), None, "two nodes would answer each other for ever");
            let mut other = request;
            other[NAME.len()] ^= 1;
            assert_eq!(read(&answer, &other), None);
            assert_eq!(read(&answer[..LEN - 1], &request), None);
        }
        let from = "203.0.113.7:4711".parse().unwrap();
        assert_eq!(reflect(&request[..LEN - 1], from, 0), None);
        assert_eq!(reflect(&[&request[..], &[0]].concat(), from, 0), None);
        request[0] ^= 1;
        assert_eq!(reflect(&request, from, 0), None);
    }
}
