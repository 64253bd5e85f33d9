//! One whole Node, its host and its peers driven by a tape.
//!
//! The host keeps its contract: numbers are used once, each ticket is answered once, frames come out of real deframers. The peers
//! do what they like: they send any bytes, and, as one of them is paired and another knows the code, also any message rightly
//! sealed. What must hold whatever they do is checked after every step ([`world`](self::world)) and once silence has fallen.

use protocol_core::effects::{Cut, Direction, TransferKey};
use protocol_core::faults::{CancelReason, DeclineReason, Failure, FileFault};
use protocol_core::ids::DeviceId;
use protocol_core::info::{Address, TransportInfo, TransportKind};
use protocol_core::pairing::Confirm;
use protocol_core::session::record::RecordType;

use super::tape::Tape;

mod files;
mod messages;
mod peer;
mod world;

use self::world::World;

/// Steps of one tape. More would only repeat what shorter tapes do.
const STEPS: usize = 300;

macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a byte of a tape stands for; its arguments follow it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Op {
            $($(#[$doc])* $name,)*
        }

        const OPS: &[Op] = &[$(Op::$name),*];
    };
}

ops! {
    /// Time passes: how long.
    Tick,
    /// A remote connects: over what, from where.
    Connection,
    /// A remote opens a stream: on which connection.
    Stream,
    /// Any bytes: on which stream, how many (two bytes), they.
    Raw,
    /// A stream ends: which, how.
    Down,
    /// A connection ends: which.
    ConnectionDown,
    /// The host answers a ticket: which, how.
    Answer,
    /// The host answers every ticket, as it should.
    AnswerAll,
    /// A code is drawn: whether the user is asked.
    Invite,
    /// A code is typed: whether the user is asked.
    Join,
    /// The user answers a pairing: which, yes or no.
    Confirm,
    /// A pairing is cancelled: which.
    CancelPairing,
    /// The owner connects to the paired device: over what.
    Connect,
    /// The owner disconnects.
    Disconnect,
    /// The owner offers files: which.
    Share,
    /// The owner answers an offer: which, yes or no.
    Decide,
    /// The owner cancels a transfer: which.
    Cancel,
    /// The owner renames or forgets the device.
    Manage,
    /// The device's own network changes: to what.
    Network,
    /// The paired peer reconnects: on which connection.
    Link,
    /// A peer that knows the code pairs: on which connection.
    Pair,
    /// A peer does what an honest one does next: on which stream.
    Honest,
    /// A peer tells something on a control stream: on which, what, about what.
    Tell,
    /// A peer opens a data stream: of which session, for pages or chunks, for which transfer.
    Data,
    /// A peer sends the pages of a manifest, and the end: on which stream, which.
    Pages,
    /// A peer seals any record: on which stream, of which type, how many bytes, they.
    Sealed,
    /// The workers of a bulk stream report: which, what went wrong.
    Work,
    /// What was sent has left: on which stream.
    Drained,
    /// The host is wrong: answers what nobody asked, ends what is not there.
    Confused,
    /// The owner shuts the device down.
    Shutdown,
}

/// The body of the target: the tape, then silence until nothing is waited for.
pub fn node(data: &[u8]) {
    let world = played(data);
    world.fall_silent();
}

fn played(data: &[u8]) -> World {
    let mut tape = Tape::new(data);
    let mut world = World::paired();
    for _ in 0..STEPS {
        if tape.ended() {
            break;
        }
        let op = OPS[tape.below(OPS.len())];
        step(&mut world, op, &mut tape);
    }
    world
}

fn step(world: &mut World, op: Op, tape: &mut Tape<'_>) {
    match op {
        Op::Tick => world.tick(tape.byte()),
        Op::Connection => {
            let (kind, source) = (tape.byte(), tape.byte());
            world.connect_from(kind, source);
        }
        Op::Stream => {
            let _stream = world.open_from(tape.byte());
        }
        Op::Raw => {
            let (stream, bytes) = (tape.byte(), tape.counted());
            if let Some(stream) = world.stream(stream) {
                world.feed(stream, bytes);
            }
        }
        Op::Down => {
            let (stream, how) = (tape.byte(), [Cut::Finished, Cut::Broken][tape.below(2)]);
            if let Some(stream) = world.stream(stream) {
                world.stream_down(stream, how);
            }
        }
        Op::ConnectionDown => world.connection_down(tape.byte()),
        Op::Answer => {
            let (ticket, how) = (tape.byte(), tape.byte());
            if let Some(ticket) = world.ticket(ticket) {
                world.answer(ticket, failure(how), tape);
            }
        }
        Op::AnswerAll => world.answer_all(None, &mut Tape::new(&[])),
        Op::Link => world.link(tape.byte()),
        Op::Pair => world.pair(tape.byte()),
        Op::Honest => {
            if let Some(stream) = world.stream(tape.byte()) {
                world.honest(stream);
            }
        }
        Op::Tell => {
            let session = tape.byte();
            let bytes = messages::any(world, tape);
            world.tell(session, &bytes);
        }
        Op::Data => {
            let (session, pages, transfer) = (tape.byte(), tape.byte().is_multiple_of(2), tape.byte());
            world.open_data(session, pages, transfer);
        }
        Op::Pages => {
            let (stream, manifest) = (tape.byte(), tape.byte());
            world.send_pages(stream, manifest);
        }
        Op::Sealed => {
            let (stream, kind) = (tape.byte(), [RecordType::Data, RecordType::Fin, RecordType::Opening][tape.below(3)]);
            world.seal(stream, kind, tape.counted());
        }
        Op::Work => {
            let (stream, wrong) = (tape.byte(), tape.byte());
            world.work(stream, wrong);
        }
        Op::Drained => world.drained(tape.byte()),
        Op::Confused => world.confused(tape.byte()),
        _ => command(world, op, tape),
    }
}

/// What the owner does.
fn command(world: &mut World, op: Op, tape: &mut Tape<'_>) {
    let device = world.device();
    let choice = tape.byte();
    match op {
        Op::Invite => world.invite(asked(choice)),
        Op::Join => world.join(asked(choice)),
        Op::Confirm => {
            let yes = tape.byte().is_multiple_of(2);
            if let Some(session) = world.pairing(choice) {
                world.command(|node, env| node.answer_pairing(env, session, yes));
            }
        }
        Op::CancelPairing => {
            if let Some(session) = world.pairing(choice) {
                world.command(|node, env| node.cancel_pairing(env, session));
            }
        }
        Op::Connect => {
            let kind = if choice.is_multiple_of(2) { TransportKind::Sim } else { TransportKind::Tcp };
            let extra: Vec<_> = (0..choice / 64).map(|at| Address { kind: kind.clone(), text: format!("there:{at}") }).collect();
            world.command(|node, env| node.connect(env, device, &extra));
        }
        Op::Disconnect => world.command(|node, env| node.disconnect(env, device)),
        Op::Share => {
            let manifest = files::manifest(choice);
            let shared = world.ask(|node, env| node.share_with_device(env, device, manifest, Some("files".into())));
            world.transfers.extend(shared.ok());
        }
        Op::Decide => {
            let yes = tape.byte().is_multiple_of(2);
            if let Some(key) = world.transfer(choice) {
                world.command(|node, env| if yes { node.accept(env, key) } else { node.decline(env, key, DeclineReason::User) });
            }
        }
        Op::Cancel => {
            if let Some(key) = world.transfer(choice) {
                world.command(|node, env| node.cancel(env, key, CancelReason::User));
            }
        }
        Op::Manage if choice < 250 => world.command(|node, env| node.rename_device(env, device, "a name")),
        Op::Manage => world.command(|node, env| node.forget_device(env, device)),
        Op::Network => world.network(choice),
        Op::Shutdown if choice >= 250 => world.command(|node, env| node.shutdown(env)),
        _ => {}
    }
}

const fn asked(choice: u8) -> Confirm {
    if choice.is_multiple_of(2) { Confirm::Automatic } else { Confirm::Ask }
}

/// How a ticket fails; most do not.
const fn failure(how: u8) -> Option<Failure> {
    match how {
        1 => Some(Failure::Unreachable),
        2 => Some(Failure::Refused),
        3 => Some(Failure::TimedOut),
        4 => Some(Failure::Gone),
        5 => Some(Failure::Disk(FileFault::DiskFull)),
        _ => None,
    }
}

/// How this device is reachable.
fn transports(choice: u8) -> Vec<TransportInfo> {
    let transport = |kind, id: &[u8]| TransportInfo { kind, id: id.to_vec(), addresses: vec!["here:1".into()], relay: None };
    let all = [transport(TransportKind::Sim, peer::NODE), transport(TransportKind::Tcp, b"")];
    all.into_iter().enumerate().filter(|(at, _)| choice >> at & 1 == 0).map(|(_, transport)| transport).collect()
}

/// A transfer that the paired peer names.
const fn incoming(device: DeviceId, number: u8) -> TransferKey {
    TransferKey { device, direction: Direction::Incoming, id: protocol_core::ids::TransferId([number % 4; 16]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol_core::ids::SessionRef;
    use protocol_core::limits;
    use protocol_core::wire::deframer::StreamName;
    use protocol_core::wire::header::{Header, StreamKind};

    /// The fuzzer starts from these stories: were one cut short, everything behind that point would hardly be reached.
    #[test]
    fn honest_stories_come_to_their_end() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/node");
        for (name, paired, done) in [
            ("link-sim", 0, 0),
            ("invite", 1, 0),
            ("join", 1, 0),
            ("receive-0", 0, 1),
            ("receive-1", 0, 1),
            ("receive-2", 0, 1),
            ("receive-tcp-1", 0, 1),
            ("send-0", 0, 1),
            ("send-1", 0, 1),
            ("send-2", 0, 1),
            ("receive-2-cut", 0, 0),
            ("send-2-forgotten", 0, 0),
        ] {
            let world = played(&std::fs::read(corpus.join(name)).expect("the seed is committed"));
            assert_eq!((world.paired, world.done), (paired, done), "{name}");
            world.fall_silent();
        }
    }

    fn story(ops: &[(Op, &[u8])]) -> World {
        played(&ops.iter().flat_map(|(op, arguments)| [&[*op as u8], *arguments].concat()).collect::<Vec<u8>>())
    }

    const LINK_TCP: [(Op, &[u8]); 3] = [(Op::Connection, &[4, 0]), (Op::Link, &[0]), (Op::Honest, &[0])];
    const LINK_SIM: [(Op, &[u8]); 3] = [(Op::Connection, &[0, 0]), (Op::Link, &[0]), (Op::Honest, &[0])];

    /// On tcp a receiver that dialled opens the stream for the pages, and half-closes it at once. All pages leave nevertheless.
    #[test]
    fn pages_go_on_when_their_receiver_has_nothing_more_to_say() {
        let pages: usize = files::manifest(3).pages().map(<[u8]>::len).sum();
        assert!(files::manifest(3).pages().len() > limits::PAGES_AT_ONCE, "they do not leave at once");
        let offered: [(Op, &[u8]); 5] =
            [(Op::Share, &[3]), (Op::Data, &[0, 0, 140]), (Op::Down, &[0, 0]), (Op::Drained, &[0]), (Op::Drained, &[0])];
        let world = story(&[&LINK_TCP[..], &offered].concat());
        assert!(world.sent > pages, "{} bytes were sent, the pages have {pages}", world.sent);
        world.fall_silent();
    }

    /// The peer half-closes the stream with this number, counted from the newest: it is over at once, by the end given.
    #[track_caller]
    fn half_closed(ops: &[(Op, &[u8])], number: u8, reset: bool) {
        let before = story(ops);
        let after = story(&[ops, &[(Op::Down, &[number, 0])]].concat());
        assert_eq!(after.open_streams() + 1, before.open_streams(), "{ops:?}");
        assert_eq!(after.resets - before.resets, usize::from(reset), "{ops:?}");
        before.fall_silent();
        after.fall_silent();
    }

    fn raw(bytes: &[u8]) -> Vec<u8> {
        [&[0, 0, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    /// A remote that half-closes a stream before it has said what it must is not left with our half of it, on a connection that
    /// goes on.
    // DATA-27.
    #[test]
    fn a_half_close_that_comes_too_early_resets_the_stream() {
        let fresh: (Op, &[u8]) = (Op::Stream, &[0]);
        half_closed(&[&LINK_SIM[..], &[fresh]].concat(), 0, true);
        half_closed(&[&LINK_SIM[..], &[fresh, (Op::Raw, &raw(b"\x0akin"))]].concat(), 0, true);
        for name in [StreamName::Pair, StreamName::Link, StreamName::Data(StreamKind::Bulk)] {
            half_closed(&[&LINK_SIM[..], &[fresh, (Op::Raw, &raw(&name.preamble()))]].concat(), 0, true);
        }
        let header = Header::new(StreamKind::Bulk, SessionRef([1; 16]), 1, [2; 8]).unwrap().encode();
        let bytes = [&StreamName::Data(StreamKind::Bulk).preamble(), &header[..]].concat();
        half_closed(&[&LINK_SIM[..], &[fresh, (Op::Raw, &raw(&bytes))]].concat(), 0, true);
        // Hello; PairingRequest, Response.
        half_closed(&[&LINK_SIM[..], &[(Op::Link, &[0])]].concat(), 0, true);
        half_closed(&[&LINK_SIM[..], &[(Op::Invite, &[1]), (Op::Pair, &[0])]].concat(), 0, true);
        half_closed(&[&LINK_SIM[..], &[(Op::Invite, &[1]), (Op::Pair, &[0]), (Op::Honest, &[0])]].concat(), 0, true);
        half_closed(&[&LINK_SIM[..], &[(Op::Invite, &[0]), (Op::Pair, &[0]), (Op::Honest, &[0]), (Op::AnswerAll, &[])]].concat(), 0, true);
        // A control stream without fin, beside another stream.
        half_closed(&[&LINK_SIM[..], &[fresh]].concat(), 1, true);
    }

    /// The same where the Node opened the stream.
    #[test]
    fn an_answer_that_never_comes_resets_the_stream() {
        let up: [(Op, &[u8]); 2] = [(Op::AnswerAll, &[]), (Op::AnswerAll, &[])];
        let beside: [(Op, &[u8]); 1] = [(Op::Stream, &[0])];
        half_closed(&[&[(Op::Network, &[2][..]), (Op::Connect, &[0])], &up[..], &beside].concat(), 1, true);
        half_closed(&[&[(Op::Join, &[1][..])], &up[..], &beside].concat(), 1, true);
        let challenged: [(Op, &[u8]); 2] = [(Op::Honest, &[1]), (Op::AnswerAll, &[])];
        half_closed(&[&[(Op::Join, &[1][..])], &up[..], &beside, &challenged].concat(), 1, true);
    }

    /// A sender that has said everything is answered by a half-close: a reset would look as if its pages had not arrived.
    #[test]
    fn data_that_ends_in_order_ends_on_both_sides() {
        let offer: [(Op, &[u8]); 1] = [(Op::Tell, &[0, 0, 0, 0])];
        let opened = [&LINK_SIM[..], &offer, &[(Op::Data, &[0, 0, 0])]].concat();
        half_closed(&opened, 0, true);
        let whole = [&opened[..], &[(Op::Pages, &[0, 0])]].concat();
        half_closed(&whole, 0, false);
        // Chunks that nobody asked for, and those that were.
        half_closed(&[&LINK_SIM[..], &offer, &[(Op::Data, &[0, 1, 0])]].concat(), 0, true);
        let taken: [(Op, &[u8]); 4] = [(Op::AnswerAll, &[]), (Op::Decide, &[0, 0]), (Op::AnswerAll, &[]), (Op::Data, &[0, 1, 0])];
        half_closed(&[&whole[..], &taken].concat(), 0, false);
    }

    /// A remote that connects and opens nothing is not kept for ever.
    // DATA-28.
    #[test]
    fn a_connection_that_nothing_is_on_is_closed() {
        let idle: [(Op, &[u8]); 2] = [(Op::Connection, &[0, 0]), (Op::Tick, &[7])];
        assert_eq!(story(&idle[..1]).open_connections(), 1);
        assert_eq!(story(&idle).open_connections(), 0);
        // Where the session is, and where a stream is under way, it stays.
        assert_eq!(story(&[&LINK_SIM[..], &idle[1..]].concat()).open_connections(), 1);
        // We dialled, and could not open the stream.
        let refused: [(Op, &[u8]); 4] = [(Op::Connect, &[0]), (Op::AnswerAll, &[]), (Op::Answer, &[0, 4]), (Op::Tick, &[7])];
        assert_eq!(story(&refused[..3]).open_connections(), 1);
        assert_eq!(story(&refused).open_connections(), 0);
    }

    /// A transfer that ends resets its streams: they count no more against what a session may have.
    #[test]
    fn streams_that_were_reset_make_room() {
        let offer: [(Op, &[u8]); 2] = [(Op::Tell, &[0, 0, 0, 0]), (Op::Data, &[0, 0, 0])];
        let cancelled = [&offer[..], &[(Op::Tell, &[0, 10, 0, 1])]].concat();
        let taken: [(Op, &[u8]); 2] = [(Op::Pages, &[0, 0]), (Op::AnswerAll, &[])];
        let world = story(&[&LINK_SIM[..], &cancelled.repeat(30), &offer, &taken].concat());
        assert_eq!(world.transfers.len(), 1, "the last one is offered to the owner");
        world.fall_silent();
    }

    /// A session that was dialled here, is 50 minutes old and cannot be renewed goes on, with what is under way on it.
    #[test]
    fn a_renewal_that_fails_costs_nothing() {
        let dialled: [(Op, &[u8]); 6] =
            [(Op::Connect, &[0]), (Op::AnswerAll, &[]), (Op::AnswerAll, &[]), (Op::Honest, &[0]), (Op::AnswerAll, &[]), (Op::Honest, &[0])];
        let offered: [(Op, &[u8]); 4] = [(Op::Tell, &[0, 0, 0, 0]), (Op::Data, &[0, 0, 0]), (Op::Pages, &[0, 0]), (Op::AnswerAll, &[])];
        let old: [(Op, &[u8]); 1] = [(Op::Tick, &[12])];
        let world = story(&[&dialled[..], &offered, &old].concat());
        assert!(world.dials() > 0, "it is being renewed");
        let failed: Vec<(Op, &[u8])> = (0..8).map(|_| (Op::Answer, &[0, 1][..])).collect();
        let world = story(&[&dialled[..], &offered, &old, &failed].concat());
        assert_eq!((world.dials(), world.transfers.len()), (0, 1), "the offer is still open");
        // And a new one leaves at once.
        let sent = world.sent;
        let world = story(&[&dialled[..], &offered, &old, &failed, &[(Op::Share, &[0])]].concat());
        assert!(world.sent > sent, "the offer was told");
        world.fall_silent();
    }

    /// Sessions in a row are heard out one after the other, but not any number of them: each may hold records.
    #[test]
    fn sessions_do_not_queue_up() {
        let again: [(Op, &[u8]); 2] = [(Op::Link, &[0]), (Op::Honest, &[0])];
        assert_eq!(story(&[&LINK_SIM[..], &again].concat()).open_streams(), 2);
        assert_eq!(story(&[&LINK_SIM[..], &again.repeat(9)].concat()).open_streams(), 1 + limits::SUCCESSIONS);
    }

    /// A receiver that says something on the stream of our pages has ended it: they go on another one.
    #[test]
    fn pages_whose_stream_was_spoilt_are_sent_again() {
        let opened: [(Op, &[u8]); 2] = [(Op::Share, &[3]), (Op::Data, &[0, 0, 140])];
        let before = story(&[&LINK_SIM[..], &opened].concat());
        let after = story(&[&LINK_SIM[..], &opened, &[(Op::Sealed, &[0, 0, 0, 1, 7])]].concat());
        assert_eq!((after.resets - before.resets, after.opens() - before.opens()), (1, 1));
        after.fall_silent();
    }

    /// Disconnecting while the session is being renewed ends that too: the new one would undo it.
    #[test]
    fn disconnecting_ends_a_renewal() {
        let dialled: [(Op, &[u8]); 6] =
            [(Op::Connect, &[0]), (Op::AnswerAll, &[]), (Op::AnswerAll, &[]), (Op::Honest, &[0]), (Op::AnswerAll, &[]), (Op::Honest, &[0])];
        let renewing = [&dialled[..], &[(Op::Tick, &[12])]].concat();
        assert!(story(&[&renewing[..], &[(Op::AnswerAll, &[])]].concat()).opens() > 0, "the new session is on its way");
        let world = story(&[&renewing[..], &[(Op::Disconnect, &[0]), (Op::AnswerAll, &[])]].concat());
        assert_eq!((world.opens(), world.dials()), (0, 0));
        world.fall_silent();
    }

    /// What a peer still says on a session that was ended begins no transfer: nobody would end it.
    #[test]
    fn nothing_begins_on_a_session_that_was_ended() {
        let offer: [(Op, &[u8]); 5] =
            [(Op::Disconnect, &[0]), (Op::Tell, &[0, 0, 0, 0]), (Op::Data, &[0, 0, 0]), (Op::Pages, &[0, 0]), (Op::AnswerAll, &[])];
        let world = story(&[&LINK_SIM[..], &offer].concat());
        assert!(world.transfers.is_empty(), "nothing is offered");
        world.fall_silent();
    }

    /// Forgetting a device while the words it showed are still being used ends that attempt too: another code can be typed.
    #[test]
    fn forgetting_ends_an_unfinished_attempt() {
        let join: [(Op, &[u8]); 6] =
            [(Op::Join, &[1]), (Op::AnswerAll, &[]), (Op::AnswerAll, &[]), (Op::Honest, &[0]), (Op::AnswerAll, &[]), (Op::Manage, &[255])];
        let answered: [(Op, &[u8]); 2] = [(Op::Honest, &[0]), (Op::Join, &[1])];
        let world = story(&[&join[..], &answered].concat());
        assert_eq!(world.begun, 2, "the first has ended, the second runs");
        world.fall_silent();
    }
}
