//! What `send` and `recv` share: following one transfer from its acceptance to its end.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use data_encoding::HEXLOWER;
use protocol_core::effects::{DeviceState, Event as CoreEvent, Route, Summary, TransferKey};
use protocol_core::faults::FileFault;
use protocol_core::limits::AWAY;
use protocol_core::transfer::manifest::{EntryKind, Manifest};
use protocol_core::transfer::receipt::Outcome as EntryOutcome;

use crate::events::{Event, File, FileStatus, RouteKind, WarningCode, path_text};
use crate::exit::{Outcome, Problem};
use crate::names::is_flagged;
use crate::output::{Output, count, files, rate, shown_path, size};
use crate::progress::Progress;
use crate::transports::ip;

/// A transfer that was accepted.
pub(super) struct Running<'a> {
    out: &'a Output,
    key: TransferKey,
    manifest: Arc<Manifest>,
    start: Instant,
    progress: Progress<'a>,
    /// It was told that a relay makes it slow.
    hinted: bool,
}

/// Bytes of a transfer that it matters for which way it goes.
const BIG: u64 = 50_000_000;

/// How an entry ended.
struct Finished {
    status: FileStatus,
    blake3: Option<String>,
    renamed_to: Option<Vec<u8>>,
    fault: Option<FileFault>,
}

const fn status(outcome: EntryOutcome, renamed: bool) -> FileStatus {
    match outcome {
        EntryOutcome::Stored if renamed => FileStatus::Renamed,
        EntryOutcome::Stored => FileStatus::Stored,
        EntryOutcome::Renamed => FileStatus::Renamed,
        EntryOutcome::Skipped => FileStatus::Skipped,
        EntryOutcome::Failed | EntryOutcome::SourceChanged | EntryOutcome::Other(_) => FileStatus::Failed,
    }
}

/// Files and their bytes in a manifest.
pub(super) fn amount(manifest: &Manifest) -> (u64, u64) {
    let files = manifest.entries().filter(|entry| entry.kind == EntryKind::File).count();
    (files as u64, manifest.bytes())
}

/// The event of an offer; what of it the person who is asked should see.
pub(super) fn offer_event(out: &Output, key: TransferKey, manifest: &Manifest, conflicts: u64) -> Named {
    let (files, bytes) = amount(manifest);
    let flagged = Named::new(manifest.entries().map(|entry| entry.components).filter(|components| is_flagged(components)));
    let Named { count: number, first: flagged_paths } = flagged.clone();
    let (id, device_id) = (key.id.to_string(), key.device.to_string());
    out.event(&Event::Offer { id, device_id, files, bytes, conflicts, flagged: number, flagged_paths });
    flagged
}

/// Paths that are named, up to a number of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    /// How many there are.
    pub(super) count: u64,
    /// The first of them, escaped.
    pub(super) first: Vec<String>,
}

impl Named {
    /// Paths that are named at most.
    const MOST: usize = 10;

    pub(super) fn new(paths: impl Iterator<Item = Vec<Vec<u8>>>) -> Self {
        let mut named = Self::default();
        for path in paths {
            if named.first.len() < Self::MOST {
                named.first.push(shown_path(&path.join(&b'/')));
            }
            named.count += 1;
        }
        named
    }

    /// A line for each, and one for the others.
    pub(super) fn say(&self, out: &Output, what: &str) {
        for path in &self.first {
            out.say(&format!("  {what}: {path}"));
        }
        let more = self.count - self.first.len() as u64;
        if more > 0 {
            out.say(&format!("  {what}: {} more", count(more)));
        }
    }
}

impl<'a> Running<'a> {
    pub(super) fn new(out: &'a Output, key: TransferKey, manifest: Arc<Manifest>) -> Self {
        let (files, bytes) = amount(&manifest);
        out.event(&Event::Accepted { id: key.id.to_string() });
        let progress = Progress::new(out, key.id.to_string(), bytes, files);
        Self { out, key, manifest, start: Instant::now(), progress, hinted: false }
    }

    pub(super) const fn key(&self) -> TransferKey {
        self.key
    }

    /// It goes this way now.
    fn goes(&mut self, route: &Route) {
        drop(tell_route(self.out, route));
        self.hint(route);
    }

    /// Says once, of a big transfer, that a relay makes it slow.
    pub(super) fn hint(&mut self, route: &Route) {
        let (_, bytes) = amount(&self.manifest);
        if bytes >= BIG && !self.hinted && route_kind(&route.address) == RouteKind::Relayed {
            self.hinted = true;
            let message = "this goes through a relay, which may be slow and is somebody's to pay for; it goes over to a direct path \
                if one appears. A port that one of the routers lets through would be one (kin doctor)";
            self.out.warning(WarningCode::Relayed, message);
        }
    }

    /// Takes an event of the core. `Some` when the transfer is over.
    pub(super) fn on(&mut self, event: CoreEvent) -> Option<Result<Summary, protocol_core::faults::TransferFailure>> {
        match event {
            CoreEvent::Progress { transfer, moved, durable, .. } if transfer == self.key => self.progress.update(moved, durable),
            CoreEvent::Entry { transfer, entry, outcome, digest, renamed_to, fault } if transfer == self.key => {
                let blake3 = digest.map(|digest| HEXLOWER.encode(&digest));
                self.entry(entry, Finished { status: status(outcome, renamed_to.is_some()), blake3, renamed_to, fault });
            }
            CoreEvent::DataRoute { transfer, route } if transfer == self.key => self.goes(&route),
            CoreEvent::Rerouted { device, route } if device == self.key.device => self.goes(&route),
            CoreEvent::Suspended { transfer } if transfer == self.key => {
                let message = format!("the connection was lost; for {} s it is awaited, and what has arrived is kept", AWAY.as_secs());
                self.out.warning(WarningCode::Suspended, &message);
            }
            CoreEvent::Paused { transfer, here, there } if transfer == self.key => tell_paused(self.out, transfer, here, there, ""),
            CoreEvent::Device { device, state: DeviceState::Connected, route: Some(route), .. } if device == self.key.device => {
                self.goes(&route);
            }
            CoreEvent::Resumed { transfer, durable } if transfer == self.key => {
                self.out.say(&if durable > 0 {
                    format!("It goes on; {} have arrived before.", size(durable))
                } else {
                    "It goes on.".into()
                });
            }
            CoreEvent::Done { transfer, summary } if transfer == self.key => return Some(Ok(summary)),
            CoreEvent::Failed { transfer, reason } if transfer == self.key => return Some(Err(reason)),
            _ => {}
        }
        None
    }

    fn entry(&mut self, number: u32, finished: Finished) {
        let Some(entry) = self.manifest.entry(number) else { return };
        let Finished { status, blake3, renamed_to, fault } = finished;
        let path = entry.components.join(&b'/');
        if status == FileStatus::Failed {
            let why = fault.map_or_else(|| "it failed at the other device".to_owned(), |fault| fault.to_string());
            self.out.warning(WarningCode::ItemFailed, &format!("{}: {why}", shown_path(&path)));
        }
        if let ([_], Some(renamed_to)) = (&entry.components[..], &renamed_to) {
            // Whoever looks for it looks for this; what is below a directory went with it.
            self.out.say(&format!("{} is called {} here: its name was taken.", shown_path(&path), shown_path(renamed_to)));
        }
        if entry.kind == EntryKind::File {
            self.progress.file_done();
        } else if matches!(status, FileStatus::Stored | FileStatus::Renamed) {
            // Directories and links are no files; only their failures are worth a line.
            return;
        }
        let (path, path_base64) = path_text(&path);
        let (renamed_to, renamed_to_base64) = renamed_to.map_or((None, None), |path| {
            let (text, raw) = path_text(&path);
            (Some(text), raw)
        });
        self.out.event(&Event::File(File {
            id: self.key.id.to_string(),
            path,
            path_base64,
            bytes: entry.size,
            blake3,
            status,
            renamed_to,
            renamed_to_base64,
        }));
    }

    /// The last words of a transfer with a receipt. `skipped`: items that were not even offered.
    pub(super) fn finish(self, summary: &Summary, skipped: u64) -> Outcome {
        let seconds = self.start.elapsed().as_secs_f64();
        self.progress.finish(Some(summary.bytes));
        let out = self.out;
        out.event(&Event::Done {
            id: self.key.id.to_string(),
            files: summary.files,
            bytes: summary.bytes,
            seconds,
            bytes_resumed: summary.resumed,
        });
        let sent = summary.bytes.saturating_sub(summary.resumed);
        let speed = if seconds > 0.0 { (sent as f64 / seconds) as u64 } else { 0 };
        let before = if summary.resumed == 0 { String::new() } else { format!(", {} of it before", size(summary.resumed)) };
        let left_out = summary.skipped + skipped;
        let failed = if summary.failed == 0 { String::new() } else { format!(", {} FAILED", count(summary.failed)) };
        out.result(&format!(
            "Done: {}, {}{before} in {seconds:.1} s ({}), {} skipped, {} renamed{failed}.",
            files(summary.files),
            size(summary.bytes),
            rate(speed),
            count(left_out),
            count(summary.renamed),
        ));
        if left_out + summary.failed == 0 {
            return Ok(());
        }
        let message = format!("finished, but {} skipped and {} failed; they are listed above", items(left_out), items(summary.failed));
        Err(Problem::partial(message))
    }
}

/// A transfer rests, or goes on. `of`: what else is to be said of it, and a space.
pub(super) fn tell_paused(out: &Output, key: TransferKey, here: bool, there: bool, of: &str) {
    out.event(&Event::Paused { id: key.id.to_string(), here, there });
    let id = key.id.to_string();
    let go_on = format!("It goes on with: kin transfers resume {}", id.get(..8).unwrap_or(&id));
    let words = match (here, there) {
        (true, true) => format!("It is paused, here and by the other device. {go_on}, when the other device does too"),
        (true, false) => format!("It is paused. {go_on}"),
        (false, true) => "The other device has paused it.".to_owned(),
        (false, false) => "It is paused no more.".to_owned(),
    };
    out.say(&format!("{of}{words}"));
}

fn items(number: u64) -> String {
    format!("{} {}", count(number), if number == 1 { "item was" } else { "items were" })
}

/// How a session travels, as event and as words.
pub(super) fn tell_route(out: &Output, route: &Route) -> String {
    let kind = route_kind(&route.address);
    out.event(&Event::Route { transport: route.transport.to_string(), kind, rtt_ms: None });
    let kind = match kind {
        RouteKind::Lan => "LAN",
        RouteKind::Direct => "direct",
        RouteKind::Relayed => "relayed",
    };
    format!("{kind}, {}", route.transport)
}

/// Private, local and loopback addresses are near; everything else is somewhere in the internet.
pub(super) fn route_kind(address: &str) -> RouteKind {
    if address.contains("://") {
        return RouteKind::Relayed;
    }
    let near = ip(address).is_some_and(|ip| match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    });
    if near { RouteKind::Lan } else { RouteKind::Direct }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_and_far() {
        for near in ["127.0.0.1:1", "/ip4/10.1.2.3/tcp/1", "192.168.1.7:4711", "10.0.0.1:1", "[::1]:1", "[fe80::1]:1", "[fd00::1]:1"] {
            assert_eq!(route_kind(near), RouteKind::Lan, "{near}");
        }
        for far in ["1.1.1.1:1", "[2001:db8::1]:1", "/ip4/1.1.1.1/udp/1/quic-v1", "nonsense"] {
            assert_eq!(route_kind(far), RouteKind::Direct, "{far}");
        }
        for relay in ["https://relay.example/", "http://10.0.0.1/"] {
            assert_eq!(route_kind(relay), RouteKind::Relayed, "{relay}");
        }
    }
}
