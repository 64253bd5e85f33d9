//! Finding devices on the local network by multicast DNS (RFC 6762, RFC 6763; PROTOCOL.md, section 5).
//!
//! An instance of `_kin._tcp` is a [`Notice`](protocol_core::node::Notice): its name is the id in hexadecimal digits, its text holds
//! the sealed record in strings `a`, `b`, `c`. Host name and port are there because the format wants them: the name is drawn anew in
//! each life of a process, and where to dial stands in the record alone.
//!
//! HOST-27. The responder (the crate `mdns-sd`) has a thread and sockets of its own. It runs while there is something to publish or to look
//! for, and nothing is sent before. When it starts it joins the multicast group on every interface, which the system tells the next
//! router, before it hears which ones are wanted; what it says itself goes to those alone. So no test starts it but those of the lab.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use data_encoding::HEXLOWER;
use mdns_sd::{IfKind, Receiver, ResolvedService, ServiceDaemon, ServiceEvent, ServiceInfo, TxtProperty};
use protocol_core::node::Discovery;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::lookup::Finds;

/// The type of our instances.
const SERVICE: &str = "_kin._tcp.local.";
/// What stands in the text of an instance: keys, and bytes under each at most (a string of 255 with the key and a sign before).
const KEYS: [&str; 3] = ["a", "b", "c"];
const PART: usize = 253;
/// Instances of others that are remembered: whoever floods the network pushes out what was seen first.
const SEEN: usize = 1024;
/// How long the last words may take at the end.
const GOODBYE: Duration = Duration::from_millis(500);
/// How long after a failure of the system's it is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// On which interfaces devices are published and looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Interfaces {
    /// All that the machine has.
    #[default]
    All,
    /// Those with one of these addresses.
    With(Vec<IpAddr>),
}

/// Does what is wanted, until nobody can want anything any more.
pub(crate) async fn run(interfaces: Interfaces, mut wishes: watch::Receiver<Discovery>, finds: Finds) {
    let mut responder: Option<Responder> = None;
    loop {
        let found = match &mut responder {
            Some(responder) => responder.next(&mut wishes).await,
            None => wishes.changed().await.map_err(|_| End::Over).map(|()| None),
        };
        match found {
            Ok(Some((id, record))) => finds.tell(id, record).await,
            Ok(None) => {
                let wanted = wishes.borrow_and_update().clone();
                if wanted.publish.is_empty() && wanted.seek.is_empty() {
                    close(&mut responder).await;
                } else if let Err(error) = begin(&mut responder, &interfaces, &wanted, &finds).await {
                    warn!(%error, "multicast DNS failed");
                    close(&mut responder).await;
                    if let Ok(Err(_)) = timeout(AGAIN, wishes.changed()).await {
                        break;
                    }
                    wishes.mark_changed();
                }
            }
            Err(End::Lost) => {
                debug!("multicast DNS fell behind, or ended");
                close(&mut responder).await;
                wishes.mark_changed();
            }
            Err(End::Over) => break,
        }
    }
    close(&mut responder).await;
}

/// Does what is wanted, with a responder that is started if there is none.
async fn begin(
    responder: &mut Option<Responder>,
    interfaces: &Interfaces,
    wanted: &Discovery,
    finds: &Finds,
) -> Result<(), mdns_sd::Error> {
    let responder = match responder {
        Some(responder) => responder,
        None => responder.insert(Responder::start(interfaces)?),
    };
    responder.want(wanted, finds).await
}

/// Ends the responder, if there is one: its thread and its sockets do not end by themselves.
async fn close(responder: &mut Option<Responder>) {
    if let Some(responder) = responder.take() {
        responder.close().await;
    }
}

enum End {
    /// Nobody can want anything any more.
    Over,
    /// The responder is gone, or has dropped us.
    Lost,
}

struct Responder {
    daemon: ServiceDaemon,
    /// Of this life of the process.
    host: String,
    /// Records that are out, by id.
    out: BTreeMap<Vec<u8>, Vec<u8>>,
    seek: BTreeSet<Vec<u8>>,
    events: Option<Receiver<ServiceEvent>>,
    seen: Seen,
}

/// What others have out, and since which event.
#[derive(Debug, Default)]
struct Seen {
    records: HashMap<Vec<u8>, (Vec<u8>, u64)>,
    heard: u64,
}

impl Seen {
    /// True if it was not known.
    fn remember(&mut self, id: &[u8], record: &[u8]) -> bool {
        self.heard += 1;
        let known = self.records.insert(id.to_vec(), (record.to_vec(), self.heard));
        if self.records.len() > SEEN
            && let Some(oldest) = self.records.iter().min_by_key(|(_, (_, heard))| *heard).map(|(id, _)| id.clone())
        {
            self.records.remove(&oldest);
        }
        known.is_none_or(|(before, _)| before != record)
    }

    fn record(&self, id: &[u8]) -> Option<&Vec<u8>> {
        self.records.get(id).map(|(record, _)| record)
    }
}

impl Responder {
    fn start(interfaces: &Interfaces) -> Result<Self, mdns_sd::Error> {
        let mut name = [0; 16];
        getrandom::fill(&mut name).map_err(|error| mdns_sd::Error::Msg(error.to_string()))?;
        let daemon = ServiceDaemon::new()?;
        if let Interfaces::With(addresses) = interfaces {
            daemon.disable_interface(IfKind::All)?;
            daemon.enable_interface(addresses.iter().map(|at| interface(*at)).collect::<Vec<_>>())?;
        }
        let (out, seek) = (BTreeMap::new(), BTreeSet::new());
        Ok(Self { daemon, host: format!("{}.local.", HEXLOWER.encode(&name)), out, seek, events: None, seen: Seen::default() })
    }

    /// A record that was found and is sought; `None` when something else is wanted.
    async fn next(&mut self, wishes: &mut watch::Receiver<Discovery>) -> Result<Option<(Vec<u8>, Vec<u8>)>, End> {
        loop {
            let Some(events) = &self.events else {
                return wishes.changed().await.map_err(|_| End::Over).map(|()| None);
            };
            let event = tokio::select! {
                changed = wishes.changed() => return changed.map_err(|_| End::Over).map(|()| None),
                event = events.recv_async() => event.map_err(|_| End::Lost)?,
            };
            match event {
                ServiceEvent::ServiceResolved(service) => {
                    let Some((id, record)) = read(&service) else { continue };
                    let news = self.seen.remember(&id, &record);
                    if news && self.seek.contains(&id) {
                        return Ok(Some((id, record)));
                    }
                }
                ServiceEvent::ServiceRemoved(_, name) => drop(id_of(&name).and_then(|id| self.seen.records.remove(&id))),
                _ => {}
            }
        }
    }

    async fn want(&mut self, wanted: &Discovery, finds: &Finds) -> Result<(), mdns_sd::Error> {
        let publish: BTreeMap<_, _> = wanted.publish.iter().map(|notice| (notice.id.clone(), notice.record.clone())).collect();
        for id in self.out.keys().filter(|id| !publish.contains_key(*id)) {
            drop(self.daemon.unregister(&name_of(id))?);
        }
        for (id, record) in publish.iter().filter(|(id, record)| self.out.get(*id) != Some(*record)) {
            self.daemon.register(instance(&self.host, id, record)?)?;
        }
        self.out = publish;
        let seek: BTreeSet<_> = wanted.seek.iter().cloned().collect();
        let begun: Vec<_> = seek.difference(&self.seek).cloned().collect();
        self.seek = seek;
        match (&self.events, self.seek.is_empty()) {
            (None, false) => self.events = Some(self.daemon.browse(SERVICE)?),
            (Some(_), true) => {
                self.daemon.stop_browse(SERVICE)?;
                self.events = None;
                self.seen = Seen::default();
            }
            _ => {}
        }
        for id in begun {
            if let Some(record) = self.seen.record(&id) {
                finds.tell(id, record.clone()).await;
            }
        }
        Ok(())
    }

    /// Says goodbye for all that is out.
    async fn close(self) {
        let gone: Vec<_> = self.out.keys().filter_map(|id| self.daemon.unregister(&name_of(id)).ok()).collect();
        let said = async {
            for status in gone {
                drop(status.recv_async().await);
            }
            if let Ok(ended) = self.daemon.shutdown() {
                drop(ended.recv_async().await);
            }
        };
        if timeout(GOODBYE, said).await.is_err() {
            drop(self.daemon.shutdown());
        }
    }
}

/// The interface that has an address; each of 127.0.0.0/8 is the loopback's.
const fn interface(at: IpAddr) -> IfKind {
    match at {
        IpAddr::V4(v4) if v4.is_loopback() => IfKind::LoopbackV4,
        IpAddr::V6(v6) if v6.is_loopback() => IfKind::LoopbackV6,
        _ => IfKind::Addr(at),
    }
}

/// What is registered of a notice.
fn instance(host: &str, id: &[u8], record: &[u8]) -> Result<ServiceInfo, mdns_sd::Error> {
    let text: Vec<TxtProperty> = KEYS.iter().zip(record.chunks(PART)).map(|(key, part)| TxtProperty::from((*key, part))).collect();
    // A port has to be there. Where this device is dialled is for who can open the record.
    let mut instance = ServiceInfo::new(SERVICE, &HEXLOWER.encode(id), host, "", 9, text)?.enable_addr_auto();
    // The name is of 128 random bits: nobody else has it.
    instance.set_requires_probe(false);
    Ok(instance)
}

fn name_of(id: &[u8]) -> String {
    format!("{}.{SERVICE}", HEXLOWER.encode(id))
}

/// The id in the full name of an instance, if it is one of ours.
fn id_of(name: &str) -> Option<Vec<u8>> {
    let digits = name.strip_suffix(SERVICE)?.strip_suffix('.')?;
    HEXLOWER.decode(digits.as_bytes()).ok().filter(|id| id.len() == 16)
}

/// The id and the record of an instance.
fn read(service: &ResolvedService) -> Option<(Vec<u8>, Vec<u8>)> {
    let id = id_of(&service.fullname)?;
    let parts = KEYS.iter().map_while(|key| service.txt_properties.get(key).and_then(TxtProperty::val));
    let record: Vec<u8> = parts.flatten().copied().collect();
    (!record.is_empty()).then_some((id, record))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ids_in_lower_case() {
        let id: Vec<u8> = (0..16).map(|at| at * 16 + 15 - at).collect();
        assert_eq!(id_of(&name_of(&id)), Some(id));
        for wrong in ["", SERVICE, "0f.x", &name_of(&[1; 15]), &name_of(&[1; 17]), &name_of(&[0xab; 16]).to_uppercase()] {
            assert_eq!(id_of(wrong), None, "{wrong}");
        }
        assert_eq!(id_of(&name_of(&[0xab; 16]).replace("ab", "aB")), None);
    }

    #[test]
    fn a_record_goes_through_the_text_of_an_instance() {
        for len in [1, PART, PART + 1, 553, 3 * PART] {
            let record: Vec<u8> = (0..len).map(|at| (at * 7 % 256) as u8).collect();
            let service = instance("0f.local.", &[7; 16], &record).unwrap().as_resolved_service();
            assert_eq!(read(&service), Some((vec![7; 16], record)));
        }
    }

    #[test]
    fn what_was_seen_first_makes_room() {
        let mut seen = Seen::default();
        for number in 0..SEEN + 5 {
            assert!(seen.remember(&number.to_be_bytes(), b"record"));
            assert!(!seen.remember(&number.to_be_bytes(), b"record"));
        }
        assert!(seen.remember(&SEEN.to_be_bytes(), b"another"));
        assert_eq!(seen.records.len(), SEEN);
        assert!(seen.record(&5_usize.to_be_bytes()).is_some() && seen.record(&4_usize.to_be_bytes()).is_none());
    }
}
