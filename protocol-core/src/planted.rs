//! Planted bugs: mistakes that a programmer could have made, one of which can be switched on in a build for tests.
//!
//! The simulator has to show that it finds mistakes of this protocol, and not only that it runs. So each numbered check and each
//! rule of order has a bug here. All are compiled into one build behind the feature `testing`; [`plant`] chooses one at run time
//! for the whole process. Without the feature this module is not there and `planted!` is the constant `false`.
//!
//! A site reads `planted!(TagUnchecked) || …`: the right condition stands beside the wrong one. What is said of a bug, where it
//! breaks the protocol and how an outsider notices it, is said once, in the table below.
//!
//! Left out, because nothing outside shows them:
//!
//! * MACs compared in variable time: there is no clock but a virtual one.
//! * Secrets that are not wiped: memory cannot be looked at. (That a session's secrets live too long can: [`Bug::SecretsKept`].)
//! * An ML-KEM key that is not reduced: the library makes no key of it, so there is nothing to forget.
//! * The 300 s of a whole handshake: the steps' own times end it before.
//! * Second lines of defence, behind which the first still refuses: the place of an opening record (the kind is compared again),
//!   the type in a record's associated data (lengths tell types apart), counter 0 of a data stream (the window refuses it), the kind and the
//!   counter of a control stream's header (its keys are of that header), the
//!   transfer's id in a chunk's associated data (the key is of one stream), a control header on a data stream (its opening record
//!   names no transfer), the transport ids in a transcript (infos are compared with them, so a relay gets no further).
//! * Properties that follow from the checks, and that many bugs break: PAIR-38, PAIR-46, PAIR-47, LIM-6.
//! * LINK-17, that every wait has a deadline: each wait's own is left out by a bug of its name (`…TimerUnset`, `AwayForEver`). DATA-10, that no
//!   data stream is opened before its session stands: there are no keys for one, and what comes early waits (EARLY_STREAMS).
//! * LINK-1, that refusals look alike: their codes are the same constant, and a world carries none. LINK-10, one round trip: a handshake
//!   that takes two is slower and not wrong; story_link counts.
//! * The order of a host's steps within one operation (temporary file, journal, rename, directory): those are the host's, and are broken by
//!   kills and power cuts (cli/tests/power.rs, cli/tests/processes/resume.rs).
//! * A ticket that can be answered twice: hosts answer once.
//! * Limits whose breach costs more than a run may: 64 MiB of unanswered manifests, a million entries, 2^32 records, 2^36 bytes.

use core::sync::atomic::{AtomicU16, Ordering};

/// Bytes of a variant's name in kebab case.
const fn kebab_len(name: &str) -> usize {
    let (bytes, mut at, mut len) = (name.as_bytes(), 0, 0);
    while at < bytes.len() {
        len += if at > 0 && bytes[at].is_ascii_uppercase() { 2 } else { 1 };
        at += 1;
    }
    len
}

/// A variant's name in kebab case.
const fn kebab<const N: usize>(name: &str) -> [u8; N] {
    let (bytes, mut text, mut at, mut to) = (name.as_bytes(), [b'-'; N], 0, 0);
    while at < bytes.len() {
        to += if at > 0 && bytes[at].is_ascii_uppercase() { 1 } else { 0 };
        text[to] = bytes[at].to_ascii_lowercase();
        (at, to) = (at + 1, to + 1);
    }
    text
}

macro_rules! bugs {
    ($($(#[doc = $doc:literal])+ $bug:ident: $breaks:literal, $seen:literal $(, unseen $why:literal)?;)+) => {
        /// A mistake that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Bug {
            $($(#[doc = $doc])+ #[doc = concat!("\n\nBreaks ", $breaks, ".")] $bug,)+
        }

        impl Bug {
            /// Every bug, in the order of the protocol.
            pub const ALL: &'static [Self] = &[$(Self::$bug,)+];

            /// Its name on a command line.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$bug => {
                        const TEXT: [u8; kebab_len(stringify!($bug))] = kebab(stringify!($bug));
                        const NAME: &str = match core::str::from_utf8(&TEXT) {
                            Ok(name) => name,
                            Err(_) => panic!("a name is ASCII"),
                        };
                        NAME
                    })+
                }
            }

            /// The check or rule that it breaks.
            pub const fn breaks(self) -> &'static str {
                match self {
                    $(Self::$bug => $breaks,)+
                }
            }

            /// How it shows to somebody who sees every device from outside, or who plays an attacker.
            pub const fn seen_by(self) -> &'static str {
                match self {
                    $(Self::$bug => $seen,)+
                }
            }

            /// Why no simulated world shows it, if none can.
            pub const fn unseen(self) -> Option<&'static str> {
                match self {
                    $(Self::$bug => {
                        const WHY: &[&str] = &[$($why)?];
                        if let [why] = WHY { Some(*why) } else { None }
                    })+
                }
            }
        }
    };
}

bugs! {
    // Pairing: I on PairingRequest.
    /// The version and suite of a first frame are not looked at.
    VersionUnchecked: "§6.5 I 1 (PAIR-7)", "the version byte of an honest PairingRequest or Hello flipped on its way: the handshake goes on all the same";
    /// Bytes behind a message's CBOR are not noticed.
    TrailingAccepted: "§6.5 I 1 (ID-9)", "a handshake frame made longer by some bytes, with its length put right: the handshake goes on all the same";
    /// A first frame may be of nearly any length.
    FirstFrameUnbounded: "§6.5 I 1, §11 (PAIR-3)", "a stranger announces a first frame of 64 KiB: its stream is not reset before the body";
    /// Later frames of a handshake have no bound.
    BoxFrameUnbounded: "§6.5, §11 (PAIR-3)", "who answers a handshake announces a frame of 64 KiB: its stream is not reset before the body";
    /// The first byte behind a pairing's Complete is awaited for ever.
    AckTimerUnset: "§6.5 (PAIR-5)", "a joiner whose user takes longer than ten seconds finds its pairing cut off: the time of an unproved stream still runs";
    /// A request for any session id is taken for one about our code.
    SessionIdUnchecked: "§6.5 I 2 (PAIR-14)", "a holder of the code asks for another session id, with a tag over that: a Challenge comes back";
    /// An expired code still admits new handshakes, and never dies.
    ExpiredCodeAccepted: "§6.5 I 3 (PAIR-40)", "a joiner that comes after the code's time is paired, and the owner is never told that it expired";
    /// An expired code never dies.
    ExpiredCodeLingers: "§12.1 (PAIR-40)", "long after a code's time its owner was not told that it expired";
    /// A second code may be shown while the first lives.
    SecondCodeAccepted: "§6.5 (PAIR-41)", "a device with a live code shows another";
    /// The owner may give a code any life.
    CodeLifetimeUnchecked: "§6.5 (PAIR-41)", "a code of an hour is shown";
    /// The tag is not compared.
    TagUnchecked: "§6.5 I 4 (PAIR-15)", "a stranger that knows the public session id and not the words gets a Challenge";
    /// The transcript leaves out the bytes that only this connection has.
    ExporterUnbound: "§6.5 I 4 (PAIR-8)", "a relay between two TCP connections with different exporters: the pairing through it succeeds";
    /// Failures before the tag count against the code.
    StrangersBurnCode: "§6.5 I 4, §11 (PAIR-16, LIM-7)", "requests with a wrong tag from a stranger: the code is burned, and the right joiner is refused";
    /// A first flight may come again.
    ReplayAdmitted: "§6.5 I 5 (PAIR-17)", "a recorded PairingRequest played again on a new stream gets a second Challenge";
    /// Handshakes past the tag are not counted.
    HandshakesAtOnceUnbounded: "§6.5 I 6, §11 (PAIR-18)", "a holder of the code opens five handshakes at once: the fifth gets a Challenge";
    /// Five handshakes of a code may be past the tag at once.
    FifthHandshake: "§6.5 I 6, §11 (PAIR-18)", "a holder of the code opens five handshakes at once: the fifth gets a Challenge";
    /// Handshakes of a code are counted when they end, and not when they begin.
    HandshakesUnbounded: "§6.5 I 6, §11 (PAIR-18)", "a handshake of the code's holder is silent while fifteen others fail: a seventeenth gets a Challenge";
    /// The last of the handshakes that a code admits burns nothing when it fails.
    SixteenthDoesNotBurn: "§6.5 I 6, §11 (PAIR-18)", "sixteen handshakes that are cut after the Challenge: the owner is not told that the code is burned";
    /// An exchange key that contributes nothing is taken.
    LowOrderAccepted: "§6.5 I 7, J 1 (ID-2)", "a holder of the code sends e_j of zeros under a right tag: a Challenge comes back";
    /// Failures past the tag are not counted.
    FailuresNeverBurn: "§6.5 I 7, §11 (PAIR-39)", "a holder of the code fails more than three times after the Challenge, not on TCP: the code lives";
    /// It takes four failures past the tag.
    FourthFailure: "§6.5 I 7, §11 (PAIR-39)", "a holder of the code fails three times after the Challenge, not on TCP: the code lives";
    /// Failures on bare TCP count like others.
    TcpFailuresBurn: "§6.5 I 7 (PAIR-39)", "three damaged Responses on TCP: the code is burned";
    /// The time to the Response is not watched.
    ResponseTimerUnset: "§6.5 I 8 (PAIR-42)", "a holder of the code says nothing after the Challenge: its stream is open 31 s later";
    // Pairing: J on Challenge.
    /// The joiner's exchange key is the same in every try of a code.
    EphemeralReused: "§6.1 (PAIR-6)", "two PairingRequests of one code carry the same e_j";
    /// The time to the Challenge is not watched.
    ChallengeTimerUnset: "§6.5 (PAIR-42)", "nobody answers a PairingRequest: its stream is open 31 s later";
    /// The joiner does not notice that it has found itself.
    SelfUnnoticedByJoiner: "§6.5 J 3 (PAIR-19)", "a device types its own code: a pending root for its own key is stored, and it is not told that this is the same device";
    /// The joiner does not verify the initiator's signature.
    InitiatorUnsigned: "§6.5 J 4 (PAIR-20)", "a liar that has the words names a third device's identity key in its Challenge, with a false signature: a Response comes back";
    /// The joiner takes an info that does not list the transport id it sees.
    UnlistedInitiator: "§6.5 J 4 (PAIR-21)", "an initiator whose info lists another id than its transport shows gets a Response";
    /// A second identity that proves itself gets a Response of the same code too.
    SlotNotExclusive: "§6.5 J 5 (PAIR-22)", "two devices that have the words answer one joiner's tries: both get a Response";
    /// The Response leaves while the pending root is being written.
    ResponseBeforeDurable: "§6.5 J 6, 7 (PAIR-23)", "a Response is on the wire before the write of the pending root was reported durable; a crash there leaves I alone with a record";
    /// A pending root opens sessions before the user's yes.
    PendingUsableUnasked: "§6.5 J 8 (PAIR-24)", "J's user has not answered, the stream was cut, I dials: J answers the Hello";
    /// The user's no leaves the pending root.
    NoKeepsPending: "§6.5 J 8 (PAIR-25, PAIR-33)", "after J's no, or I's, J's store and list of devices still hold the peer";
    /// The yes to a pending root is kept in memory only.
    AgreeNotStored: "§6.5 J 8 (PAIR-24)", "J's user says yes, J falls and starts again: the pending root is gone";
    /// A code is still published when its time is over.
    CodePublishedWhenOver: "§5 (DISC-1)", "a handshake runs while the code's ten minutes end, and the record is still out", unseen "a handshake that has begun outlives its code for seconds only; story_lookup has one";
    /// The typed code is still looked for when its initiator was found.
    SoughtThoughFound: "§5 (DISC-1)", "the joiner has answered a Challenge, and its host still looks";
    /// What was found and does not answer is dialled once.
    FoundNotRetried: "§5 (PAIR-50)", "the first dial fails, and the code comes to nothing although the initiator is there", unseen "an attempt that looks may take ten minutes, and the search ends it before; story_lookup has one";
    /// An attempt to reach a device ends when no stored address answers, and does not wait for the lookup.
    LookNotAwaited: "§5 (DISC-4)", "a device has moved, is looked for, and nobody waits for where it is";
    /// A record is published as it was sealed first, wherever the device is now.
    RecordOutdated: "§5 (DISC-1)", "a device moves while its code is out or while it is looked for, and is not found";
    /// Each time it is asked for, a record is sealed again.
    SealedAnew: "§5 (DISC-1)", "a record changes although nothing has";
    /// Only the hour of the own clock is looked under.
    NeighboursUnsought: "§5.2 (DISC-2)", "clocks differ by some minutes at the turn of an hour, and devices do not find each other";
    /// Where a device was found is forgotten before it is dialled again.
    FoundForgotten: "§5 (DISC-4)", "the dial to where it was found fails once, and it is never found again", unseen "a host tells again what it has found when its device is looked for again, so it only comes later; story_lookup has one";
    /// What was found last counts, whatever was found before, and by whom.
    FoundDisplaced: "§5 (DISC-4)", "an old record is found last, and the new address is dialled no more", unseen "the dial to the new address has to fail between the two records, and nobody to find it once more: 4000 worlds of lookups did not lead there; story_lookup has one";
    /// A device that stays connected and is found waits for its turn.
    FoundNotDialled: "§5 (DISC-4)", "a record comes while nobody dials, and leads to nothing", unseen "the next attempt goes where it was found, so it only comes later; story_lookup has one";
    /// A record is out for a device with which a session stands.
    PublishedThoughConnected: "§5 (DISC-1)", "somebody who listens sees who is connected", unseen "a record that nobody looks for changes nothing; story_lookup has one";
    /// A pairing's failure is told twice.
    FailureToldTwice: "§12.3 (each attempt ends once)", "J's owner hears twice that the attempt failed";
    /// The joiner's user who does not answer has said yes.
    JoinerSilenceIsYes: "§6.5 J 8 (PAIR-25)", "J's user does not answer for 120 s, and J reports that it is paired";
    /// The joiner's user may think for ever.
    JoinerUserTimerUnset: "§6.5 J 8 (PAIR-25)", "J's user does not answer: the pending root and the question are there after ten minutes";
    // Pairing: I on Response.
    /// The nonce is not compared with what message 1 committed to.
    CommitUnchecked: "§6.5 I 1 (PAIR-26)", "a liar that has the words sends another nonce than it committed to: I goes on";
    /// A box may hold more than its fields.
    BoxTailIgnored: "§6.5 I 1, J 2 (PAIR-13)", "a liar that has the words seals a field more into its box: the handshake goes on";
    /// The initiator does not notice that it has found itself.
    SelfUnnoticedByInitiator: "§6.5 I 2 (PAIR-45)", "a clone with the same master seed types the code: I stores a record under its own key";
    /// Weak identity keys are taken, and verified as laxly as they allow.
    WeakKeyAccepted: "§6.5 I 2, J 3 (ID-3)", "a liar that has the words names the identity point as its key and signs with R = identity, S = 0: it is paired";
    /// The initiator does not verify the joiner's signature.
    JoinerUnsigned: "§6.5 I 2 (PAIR-26)", "a liar that has the words names a third device's identity key in its Response, with a false signature: it is paired";
    /// The initiator takes an info that does not list the transport id it sees.
    UnlistedJoiner: "§6.5 I 2 (PAIR-21)", "a joiner whose info lists another id than its transport shows is paired";
    /// The Response that wins does not consume the code.
    CodeNotConsumed: "§6.5 I 3 (PAIR-27)", "after a pairing a second joiner with the same words is paired too";
    /// A handshake that lost the race goes on.
    LoserGoesOn: "§6.5 I 3 (PAIR-27)", "two joiners with one code are both past their Challenges: both are paired";
    /// The user's no is stored as a yes.
    RefusalPairs: "§6.5 I 4 (PAIR-28)", "I's user says no or nothing, and a record is written and Complete 0 sent";
    /// The initiator's user may think for ever.
    InitiatorUserTimerUnset: "§6.5 I 4 (PAIR-28)", "I's user does not answer: no Complete has left after two minutes";
    /// Complete leaves while the record is being written.
    CompleteBeforeDurable: "§6.5 I 5 (PAIR-29)", "Complete is on the wire before the write of the record was reported durable; a crash there leaves J paired with a device that never heard of it";
    /// A write that fails counts as done.
    FailedWritePairs: "§6.5 I 5 (PAIR-30)", "the store fails at I's record: Complete 0 is sent, and after a restart I does not know J";
    /// A root whose record is still being written answers a Hello.
    HelloBeforeDurable: "§6.5 I 5, §8 (PAIR-29, LINK-9)", "J reconnects while I's record is being written: it is answered, and the write then fails";
    /// A row that could not be written is not written again.
    UnwrittenForgotten: "§6.5 (PAIR-48)", "a write of the store fails once: a minute later the row is not what memory holds";
    /// A new root replaces the old one before it is confirmed.
    OldRootDropped: "§6.5 I 6 (PAIR-31)", "two paired devices pair again and J refuses, or the Complete is lost and J's root runs out: the old pairing is gone";
    /// The confirmed root does not replace the old one.
    OldRootKept: "§6.5 I 6 (PAIR-31)", "after pairing again, and a session, a device holds two confirmed roots; a Hello under the old one is answered";
    /// Of two pairings that cross each side keeps its own.
    CrossedRootsLost: "§6.5 (PAIR-49)", "two devices pair both ways at once: they end without a root in common";
    /// Of two writes that confirm one root, only the first is taken back.
    TakenBackOnce: "§6.5 (PAIR-49)", "a pairing that crosses another is cancelled while Complete and a reconnect are both writing its confirmation: the other pairing is gone";
    // Pairing: J on Complete, I on what follows.
    /// The Ack leaves while the confirmation is being written.
    AckBeforeDurable: "§6.5 J on Complete (PAIR-32)", "the Ack is on the wire, or Paired told, before the write of the confirmation was reported durable; a failed write leaves I confirmed alone";
    /// A Complete that says no is taken for a yes.
    StatusIgnored: "§6.5 J on Complete (PAIR-34)", "I's user says no, and J reports that it is paired";
    /// A cut behind the Response deletes the pending root.
    CutDeletesPending: "§6.5 J on Complete (PAIR-35)", "the Complete is lost or damaged: the next reconnect does not repair the pairing, and I keeps a record whose partner has no key although J's user said yes";
    /// The time to the Complete is not watched.
    CompleteTimerUnset: "§6.5 J on Complete (PAIR-42)", "I's host hangs after the Response: J is neither paired nor provisional 151 s later";
    /// A pending root outlives its day.
    PendingNeverExpires: "§12.3 (PAIR-44)", "a provisional root is 25 hours old and still there, and usable";
    /// A pending root's day is not counted any more after a restart.
    ExpiryNotRestored: "§12.3 (PAIR-44)", "J holds an agreed pending root, starts again, and runs for a day: the root is still there";
    /// The joiner's no is not told to an initiator that has completed.
    RefuseUntold: "§6.5 J on Complete (PAIR-33)", "J's user says no after Complete 0, nothing is lost on the way, and I keeps its record";
    /// The initiator counts the joiner as confirmed once its own record is written.
    ConfirmedOnComplete: "§6.5 I on Ack (PAIR-36)", "I's record is confirmed while J's is not (cut the stream before the Ack)";
    /// The Ack confirms nothing.
    AckConfirmsNothing: "§6.5 I on Ack (PAIR-36)", "a pairing went through and both are connected, and I's record is not confirmed";
    /// A Refuse deletes nothing.
    RefuseIgnored: "§6.5 I on Refuse (PAIR-37)", "J's user says no after Complete 0: I hears PairRefused and still holds the root";
    // Reconnect.
    /// A Hello may come again.
    HelloReplayAccepted: "§8 (LINK-3)", "a recorded Hello played again on a new stream of a transport without exporter gets a second Accept";
    /// Hellos that were answered are remembered for ever.
    RecentUnbounded: "§8 (LINK-3)", "memory grows with every Hello", unseen "32 bytes a Hello, and no run has a thousand of them";
    /// Hellos that have to wait for their scan are never scanned.
    ScanTimerUnset: "§8 (LINK-4)", "a flood of 200 Hellos of strangers in a second: the honest one behind them is not answered in the next second";
    /// Roots are tried as often as strangers like.
    ScansUnbounded: "§8 (LINK-4)", "a flood of 300 Hellos of strangers in a second: all are tried at once", unseen "tries that cost time show nothing where time is virtual; story_link shows it";
    /// Both sides dial at once where both stay connected.
    SecondAtOnce: "§8 (LINK-11)", "where two devices stay connected the one that should wait dials as soon as the other", unseen "two that dial at once agree on one session all the same";
    /// Only the newest root of a pair is tried.
    OlderRootsUntried: "§8 (LINK-2)", "J holds an agreed pending root beside the confirmed one and I does not hold it (its write failed): the pair cannot reconnect any more";
    /// Signatures of a reconnect are not verified.
    LinkUnsigned: "§8 (LINK-6)", "a thief with the root and without the identity key opens a session, as D and as L";
    /// An info that does not list the transport id is taken in a reconnect.
    UnlistedPeer: "§8 (PAIR-21)", "a peer whose info lists another id than its transport shows reconnects";
    /// The listener confirms a root when it has sent its Accept.
    ConfirmedOnAccept: "§8, §6.5 (PAIR-36, LINK-5)", "a reconnect is cut between Accept and Finish: L has written something, and counts the root as confirmed";
    /// What a contact says of a device's name and capabilities is not kept.
    InfoNotRenewed: "§8 (LINK-7)", "a device comes back with another name: the other still lists the old one";
    /// What a pairing brings is taken for the newest, however long its user thought.
    OlderInfoTaken: "§8 (LINK-7)", "a device comes back with another name while a pairing with it waits for its user: the other lists the old one again";
    /// What a contact says of a device's addresses is not kept.
    AddressesNotRenewed: "§8 (LINK-7)", "a device comes back from another address, then the other dials: it does not find it";
    /// A reconnect that is refused deletes the pair.
    FailureDeletesPair: "§8 (LINK-8)", "a stranger stands at a known address and resets every stream: the pair is gone";
    /// Where there is no root to try yet, the other side is said to refuse.
    UnfinishedRefused: "§8 (LINK-8)", "a joiner whose owner has not answered is asked for a transfer: he is told that the other device did not accept", unseen "the other device has to forget it in the moment between: two of a million worlds led there; scripts show it";
    /// An address that refuses is not tried again.
    RefusedNotRetried: "§8 (LINK-13)", "a device is dialled that starts five seconds later: the attempt fails at once";
    /// The Finish leaves while the confirmation is being written.
    FinishBeforeDurable: "§8 (LINK-9)", "a provisional J dials: its Finish is on the wire before the write of the confirmation was reported durable; a failed write or a crash leaves I confirmed alone";
    /// The listener's session stands while the confirmation is being written.
    ListenerBeforeDurable: "§8 (LINK-9)", "I dials a provisional J: J's reply is on the wire before its confirmation is durable";
    /// The larger identity key is the preferred dialler.
    GlareInverted: "§8 (LINK-11)", "both dial at once: the session that stands was dialled by the larger key";
    /// Two handshakes that overlap are both answered.
    GlareIgnored: "§8 (LINK-11)", "both dial at once: both Hellos are answered, both give way, and no session stands soon after";
    /// An older session stays when a newer one stands.
    OldSessionStays: "§8 (LINK-12)", "a peer that was cut silently dials again: the old control stream is open on a minute later";
    /// Of two sessions that crossed each side goes on with the one that came last.
    CrossingIgnored: "§8 (LINK-12)", "two devices pair both ways at once: each gives up its own session for the other's";
    /// Any number of older sessions are heard out, one behind the other.
    SuccessionsUnbounded: "§8, §11 (LINK-12)", "a paired peer opens one session behind the other and ends none: more than three of them wait to be heard out";
    // Messages.
    /// A message is told before it is durable here.
    MessageToldUnstored: "§9.7 (MSG-1)", "a message is queued and the program dies before it is written: it arrives, and its owner never knew";
    /// A message that waits counts for nothing: any number of them may.
    MessagesUnbounded: "§9.7, §11 (MSG-1)", "4097 messages wait for a device: none is refused";
    /// All that waits is told at once.
    MessageWindowIgnored: "§9.7, §11 (MSG-2)", "65 messages wait when a session comes: 65 are told before a receipt";
    /// The answer to a write of a mailbox that is gone counts for the one that the device has now.
    OldAnswerTaken: "§9.7 (MSG-1)", "a device is forgotten while messages for it are written, and paired anew: a new message is told before it is durable";
    /// A message that was given up when it had been told makes room for another.
    GivenUpLeavesWindow: "§9.7 (MSG-2)", "many messages expire while a slow receiver writes them, and many more come: it takes the sender for a liar";
    /// Numbers are given that are not reserved.
    NumbersUnreserved: "§9.7 (MSG-2)", "a message was told and the program died: the next one gets the same number";
    /// Whatever comes is taken in, however much is under way.
    MessageFloodAccepted: "§9.7, §11 (MSG-4)", "a paired liar tells 200 messages while the disk is slow: the session goes on";
    /// What is known of a message is not looked at.
    MessageSeenForgotten: "§9.7 (MSG-5)", "a receipt is lost and the message told again: it is there twice, or conflicts";
    /// A number at or below the highest is as good as any.
    OldNumberTaken: "§9.7 (MSG-5)", "a paired liar gives a number twice: both messages are there";
    /// The highest number is not written.
    WatermarkUnstored: "§9.7 (MSG-5)", "a message came, the program starts again, and a liar gives its number to another: it is taken";
    /// The receipt does not wait for the disk.
    ReceiptBeforeDurable: "§9.7 (MSG-5)", "a message comes and the program dies before it is written: it was reported delivered, and is not there";
    /// A write that failed counts like one that did not.
    UnwrittenMessageTold: "§9.7 (MSG-5)", "the disk refuses a message that came: it is reported delivered";
    /// A receipt ends whatever has its number.
    ReceiptOfAnother: "§9.7 (MSG-6)", "a paired liar sends receipts with ids of its own: messages are over that it never saw";
    /// A message whose receipt came goes on waiting.
    ReceiptKeepsMessage: "§9.7 (MSG-6)", "a message was delivered: it still waits, and is told again in the next session";
    /// Messages wait for ever.
    MessagesNeverExpire: "§9.7 (MSG-7)", "a message's time is over and nobody was reached: it still waits";
    // Application protocols.
    /// Any name is spoken.
    ProtocolUnknownAccepted: "§9.8 (CUST-2)", "a device opens a protocol that nobody registered at the other: it is opened";
    /// A protocol for devices with a permission is spoken with every paired one.
    ProtocolPermissionIgnored: "§9.8 (CUST-3)", "a device without the permission opens a protocol that asks for it: it is opened";
    /// The reply leaves before it is seen whether the name is spoken.
    ProtocolReplyFirst: "§9.8 (CUST-2)", "a device opens a protocol that nobody registered at the other: its owner hears that it is open, and then it is cut";
    /// Every stream is given to the protocol that comes first.
    ProtocolsMixedUp: "§9.8 (CUST-1)", "two protocols are registered: what one device opens as the second is the first at the other";
    /// The streams of a device are not counted.
    ProtocolStreamsUnbounded: "§9.8, §11 (CUST-6)", "an owner opens seventy streams to one device: all are opened";
    /// A stream that was cut counts as ended.
    ProtocolCutIsEnd: "§9.8 (CUST-4, DATA-12)", "a stream ends before its fin as if it were whole: the application reads an end";
    /// Nobody hears that the other side said no.
    ProtocolRefusalUntold: "§9.8 (CUST-5)", "a device opens a protocol that nobody registered at the other: its owner waits for ever";
    /// Streams stay when an owner ends the session, or forgets the device.
    ProtocolOutlivesGoodbye: "§9.8 (CUST-7)", "a device is forgotten while a stream is open: bytes still come";
    /// Streams stay when the last session with a device is lost.
    ProtocolOutlivesSession: "§9.8 (CUST-7)", "the session with a device is cut while a stream is open: it is still there when no session is";
    // Sessions.
    /// A Ping is not answered.
    PingUnanswered: "§9.1 (LINK-14)", "two honest idle devices lose their session after half a minute";
    /// A peer that says nothing is never given up.
    DeadPeerUnnoticed: "§9.1 (LINK-14)", "the network swallows everything, without a cut: the session is still up 31 s later";
    /// The keys of a session that is over are never erased.
    SecretsKept: "§9.1 (LINK-15)", "two minutes after a session was cut, a data stream that a paired liar opens under it is still proved and served";
    /// Of sessions that are over all wait for their minute to end.
    SurplusKept: "§9.1 (LINK-15)", "a device reconnects again and again: the secrets of a hundred sessions wait to be erased", unseen "secrets that wait a minute longer do nothing; the cuts by the thousand of tests/reconnects.rs show it";
    /// Any number of records waits for the end of an older session.
    HeldUnbounded: "§9.1 (LINK-12)", "what comes on a newer session while the older is not over is held without end", unseen "a peer has to say a thousand things on a newer session within the five seconds in which the older is heard out: story_link does";
    /// What ends with a session is not told ahead of its fin.
    CancelBehindFin: "§9.1, §9.5 (XFER-24)", "an owner disconnects while a newer session is on its way: the other side's transfer is open for ever";
    /// What comes behind our own goodbye counts, if another session stands by then.
    GoodbyeUndone: "§9.1, §9.5 (XFER-21)", "an owner disconnects, and a newer session comes at once: an offer that was still on its way on the old one is shown";
    /// The goodbye of a session is a bare half-close.
    FinUnsent: "§9.1, §9.2 (HOST-14, DATA-12)", "an owner disconnects, and the other side reports a cut";
    /// Sessions have no last hour.
    SessionLifeUnlimited: "§9.1 (LINK-16)", "renewals are kept from coming through: after 62 minutes the session is up and streams open under it";
    /// Nobody renews a session.
    RenewalForgotten: "§9.1 (LINK-16)", "two honest idle devices lose their session after an hour";
    // Streams and records.
    /// The version of a stream header is not looked at.
    HeaderVersionUnchecked: "§9.2 (DATA-1)", "the first byte of a header flipped on its way: the stream is proved all the same";
    /// A fin record may hold something.
    TextInFin: "§9.2 (DATA-5)", "a paired liar ends a stream with a record that holds text: the stream counts as ended well", unseen "a liar that seals it is held to the same rule; the record's own tests show it";
    /// Data streams have any number.
    CounterUnbounded: "§9.2 (DATA-1)", "a paired liar opens stream 2^20: it is not reset";
    /// An opening record may be as long as any.
    OpeningUnbounded: "§9.2, §11 (DATA-6)", "an opening record is announced that is longer than 512 bytes: the stream is not reset";
    /// A data stream that proves nothing gets a reply before it is reset.
    AnsweredUnproved: "§9.2 (DATA-7)", "a stream with a number that was used before, or an opening record that does not verify, is answered with 32 bytes";
    /// A record may be as long as it likes.
    RecordUnbounded: "§9.2, §11 (DATA-4)", "a record of 1 MiB is announced on a control stream: it is not reset before the body";
    /// Both directions of a stream have one key.
    OneKeyBothWays: "§9.2 (DATA-2)", "two records of one stream, one a direction, open with the same key and nonce; a chunk of ours comes back and opens";
    /// The answering side's key does not cover its reply.
    ReplyUnbound: "§9.2 (DATA-2)", "a bit of a reply flipped on its way: what follows opens all the same";
    /// Records have no numbers.
    RecordsUncounted: "§9.2 (DATA-3)", "a record of a stream of pages or of control is left out, doubled or swapped on its way: the others open; two records have the same key and nonce";
    /// An unproved stream has all the time it wants.
    UnprovedForever: "§9.2, §11 (DATA-6)", "a stranger's stream that says nothing is open 11 s later";
    /// Numbers of streams are not looked up in the window.
    ReplayWindowIgnored: "§9.2 (DATA-8)", "a recorded data stream, header and all, played again is not reset at once; one of chunks is served while its transfer runs";
    /// The window takes numbers that lie below it.
    WindowAcceptsOld: "§9.2, §11 (DATA-8)", "a paired liar opens streams 1 and 6000, then the recorded stream 1 is played again: it is not reset";
    /// A number is entered in the window before its stream is proved.
    WindowBeforeProof: "§9.2 (DATA-8)", "a stranger that read the session_ref sends the header of the next stream with an opening record of noise: the honest stream of that number is reset";
    /// Frames that have no business on a stream are passed over.
    StrayFramesIgnored: "§9.2, §12 (DATA-9)", "a joiner sends its header before the Complete came, or bytes come back on a stream of pages that we opened: the stream goes on";
    /// Forgeries on proved streams are not counted.
    ForgeriesTolerated: "§9.2, §11 (DATA-11)", "three damaged chunks or pages in a session: it goes on";
    /// A record of control that does not open is passed over.
    ForgedControlIgnored: "§9.2 (DATA-11)", "a bit of a control record flipped on its way: the session is not closed at once";
    /// A control stream that ends without fin is a goodbye.
    TruncationIsEnd: "§9.2 (DATA-12)", "the control stream is half-closed by an attacker without fin: the owner hears that the peer ended the session";
    /// Pages that end without fin are all there is.
    PagesWithoutFin: "§9.2 (DATA-12)", "the stream of pages is ended before its fin: the offer comes through, or is declined as a mismatch, and is not asked for again";
    /// Streams that wait for their offer are not counted.
    EarlyUnbounded: "§9.2, §11 (DATA-14)", "a paired liar opens nine streams for transfers that it never offers: the ninth is not reset";
    /// Records that wait for their offer are not counted.
    EarlyRecordsUnbounded: "§9.2, §11 (DATA-9)", "a paired liar sends pages of a transfer that it never offers: more than eight are kept";
    /// What waited on a stream outlives it.
    HeldKept: "§9.2 (S32)", "an early stream ends unserved: its records are held when everything is closed";
    /// A stream that overtook its Finish is reset.
    EarlyRefused: "§9.2 (DATA-13)", "a data stream arrives before the opening record of its session: it is reset";
    /// A data stream that is dialled over the faster transport waits for that for as long as the host does.
    FasterTimerUnset: "§9.2 (DATA-29)", "the peer's tcp address swallows every dial: half a second later no data stream is open on the session's own connection";
    /// A data stream that the faster transport does not bring is given up.
    FasterOnly: "§9.2 (DATA-29)", "the peer's tcp address leads to nobody: the transfer stops though its session stands";
    // Control messages.
    /// The length of a control message is not bounded.
    ControlLengthUnbounded: "§9.3, §11 (DATA-15)", "a paired liar announces a control message of 100 MiB: the session goes on";
    /// A control message that breaks its row is passed over.
    MalformedIgnored: "§9.3 (DATA-17)", "a paired liar sends a Ping without a number: the session goes on";
    /// Ranges may leave the transfer.
    RangesBeyond: "§9.3 (DATA-18)", "a paired liar accepts chunks that the transfer does not have: the session goes on";
    // Chunks.
    /// Chunks are not bound to their index.
    ChunksUnplaced: "§9.4 (DATA-21)", "the indices in the heads of two chunks of one length are swapped on their way: both open; two chunks have the same key and nonce";
    /// A chunk may have another length than the layout gives it.
    ChunkLengthUnchecked: "§9.4 (DATA-23)", "a paired liar sends chunks that lack their last byte: they are claimed";
    /// An Accept lets every chunk go.
    UnnamedSent: "§9.4 (XFER-10)", "a paired liar accepts one chunk of several, and gets all";
    /// A second Accept lets a chunk go again in the stream that carried it.
    AgainOnSameStream: "§9.4 (DATA-19, XFER-10)", "a paired liar accepts the same chunk twice: its index comes twice on one bulk stream";
    /// A receiver's claim that is finished is given back too.
    FinishedClaimReturns: "§9.4 (DATA-22)", "a chunk sent twice, on two streams, is written twice";
    /// A claim that came to nothing is not given back.
    ClaimNotGivenBack: "§9.4 (DATA-22)", "one chunk is damaged or cut on its way: the transfer never gets it, and fails";
    /// Bulk streams have all the time they want.
    StallUnset: "§9.4 (DATA-24)", "a bulk stream carries nothing for 20 s while chunks are missing, and is not reset";
    /// The AEAD of chunks is chosen by our own capabilities alone.
    AesUnasked: "§9.4 (DATA-20)", "one device has AES and the other has not: their transfers fail with forgeries";
    // Transfers.
    /// Digests are not compared.
    DigestUnchecked: "§9.5 content → digest (XFER-11)", "a paired liar names another digest than that of what it sends: the file is published as stored";
    /// A file gets its name before the sender has named its digest.
    PublishUncompared: "§9.5 digest → name (XFER-11)", "a paired liar sends all chunks and no digests: the file is published";
    /// A file gets its name before what was written is synced.
    PublishBeforeSync: "§9.5 sync → name (XFER-12)", "Publish of an entry is asked for before the Sync of its chunks was reported; a crash there leaves a final name with holes";
    /// Stored is said when the sync is asked for.
    StoredBeforeDurable: "§9.5 sync → Stored (XFER-15)", "Stored, or durable progress, before the host's Sync was reported; the sync then fails";
    /// An entry counts as stored when its name is asked for.
    SettledBeforePublished: "§9.5 name → Receipt (XFER-12, XFER-14)", "an entry's outcome or the receipt before the host's Publish was reported; a rename that fails is a success";
    /// Durable progress falls when an entry is given up.
    ProgressFalls: "§9.5 (XFER-15)", "a file fails after some of it was durable: the receiver's durable progress gets smaller";
    /// A chunk that is sent again counts again.
    SentTwiceCounted: "§9.5 (XFER-15)", "a bulk stream breaks: in the end the sender has moved more bytes than there are";
    /// A chunk that is said to be stored twice counts twice.
    StoredTwiceCounted: "§9.5 (XFER-15)", "a paired liar says Stored twice: more bytes are durable than there are";
    /// The receipt's digest is not compared.
    ReceiptUnverified: "§9.5 (XFER-13)", "a paired liar sends a receipt with a wrong digest: the sender reports that it is done";
    /// The receipt does not list what was not stored.
    OutcomesUnlisted: "§9.5 (XFER-14)", "an entry fails or is renamed: the sender takes the receipt for a lie";
    /// The receipt tells the end of entries that had ended.
    EntryToldTwice: "§9.5 (XFER-14)", "a source changes: the sender's owner hears twice how that entry ended";
    /// A source that changed is sent on.
    SourceChangeIgnored: "§9.5 (XFER-16)", "a source changes while it is sent: the receiver stores a mixture, or zeros, as whole";
    /// A cancelled receiver leaves its temporary files.
    CancelLeavesFiles: "§9.5 (XFER-17)", "a transfer is cancelled half way: no Discard is asked for, and temporary files stay";
    /// A sender that cancels says nothing.
    CancelUntold: "§9.5 (XFER-17)", "an owner cancels what it sends: the receiver goes on waiting";
    /// Open offers of a peer are not counted.
    OffersUnbounded: "§9.5, §11 (XFER-18)", "a paired liar makes 17 offers that nobody answers: the last is not declined";
    /// A peer may have seventeen open offers.
    SeventeenthOffer: "§9.5, §11 (XFER-18)", "a paired liar makes 17 offers that nobody answers: the last is not declined";
    /// Our own offers are not counted.
    SharesUnbounded: "§9.5, §11 (XFER-18)", "an owner shares 17 trees with a device that is away";
    /// Limits that an offer itself passes are not looked at.
    OfferLimitsUnchecked: "§9.5, §11 (XFER-6, LIM-5)", "a paired liar offers four thousand million entries: it is not declined";
    /// An offer under a known id is taken for the same one.
    OtherOfferAccepted: "§9.5 (XFER-19)", "a paired liar offers other pages under the id of an open offer: it is not declined";
    /// An offer that comes again and again is answered each time.
    RepeatedOffersUnbounded: "§9.5, §11 (XFER-19)", "a paired liar makes the same offer twenty times while its chunks are awaited: the transfer goes on";
    /// A receiver may ask for the same chunks for ever.
    FruitlessAcceptsUnbounded: "§11 (FRUITLESS_ACCEPTS)", "a paired liar accepts the same chunks twenty times and stores none: the transfer goes on";
    /// What is missing is never named again.
    MissingNotNamed: "§9.5 (XFER-20)", "bulk streams break with chunks in flight: the transfer fails although the network is whole again";
    /// What is missing is named for ever.
    RoundsUnbounded: "§11 (FRUITLESS_ROUNDS)", "a paired liar takes back nothing and sends nothing: the receiver never gives up";
    /// A transfer ends with its session.
    LostSessionEndsTransfer: "§9.5 (XFER-21)", "the session is cut in the middle of a transfer: it fails, although the next session comes at once";
    /// Who waits for a session to go on waits for ever.
    AwayForEver: "§9.5, §11 (XFER-21)", "the session is cut in the middle of a transfer, and the peer is away: the owner is never told";
    /// Nobody dials for a transfer that lost its session.
    SuspendedNotDialled: "§8.1, §9.5 (XFER-21)", "the session is cut in the middle of a transfer: nobody dials again";
    /// A transfer that is lost is discarded, with what was durable of it.
    LostIsDiscarded: "§9.5 (XFER-28)", "a receiver gives up a transfer that lost its session: what was durable is gone";
    /// A receipt that comes again, while the digests that it is compared with are read, counts as a lie.
    ReceiptAgainRefused: "§9.5 (XFER-27)", "a receiver tells its receipt again while the sender reads what it is compared with: an honest device is a liar", unseen "a transfer of an earlier life has to be offered twice in one session, both answered before a file is read: seed 72512 of an earlier core led there; the machine's own test shows it";
    /// A file that cannot be read any more makes a liar of a receiver that has it.
    UnreadIsALie: "§9.5 (XFER-13)", "a receiver has a file from an earlier try, and the sender cannot read it any more: an honest device is a liar", unseen "the disk has to fail just where a receipt is compared: seed 66279 of an earlier core led there; the machine's own test shows it";
    /// What a receiver has thrown away still counts as durable.
    ThrownAwayCounted: "§9.5 (XFER-15)", "a receiver throws away what it had while no session stands: the sender still calls it durable", unseen "an owner has to cancel while no session stands and take the same again: seed 44637 of an earlier core led there; the machine's own test shows it";
    /// A sender goes on with what the receiver wanted before the session was lost.
    WantedKept: "§9.5 (XFER-25)", "the session is cut in the middle of a transfer: chunks that are durable are sent again";
    /// What a receiver holds of an earlier try is believed.
    NotReadBack: "§9.5 (XFER-26)", "bytes of an earlier try are not the ones that were written: the file gets its name";
    /// A receiver forgets a transfer with its receipt.
    ReceiptForgotten: "§9.5 (XFER-27)", "the receipt is lost with its session: the sender offers again, and the owner is asked about what is there";
    /// A transfer that rests goes on with the next session.
    PauseUntold: "§9.5 (XFER-30)", "a session is lost while an owner has a transfer rest: in the next one it flows", unseen "no world measures whether something flows that should rest: the machine's own tests do it";
    /// What the sender of an offer made again had rest before still rests.
    RestOutlivesOffer: "§9.5 (XFER-30)", "a sender lets a transfer go on whose session it has lost and the receiver has not: both wait for ever", unseen "a session has to be lost on one side alone while an owner has something rest: the machine's own tests do it";
    /// A peer may pause and resume as often as it likes.
    PausesUnbounded: "§11 (XFER-30)", "a paired liar pauses and resumes a thousand times: an event each time, and two streams", unseen "no liar says it a thousand times: the machine's own tests do it";
    /// What left before an interruption, and is told behind the next Accept, is no part of the whole.
    LateUncounted: "§9.5 (XFER-15)", "a worker reports a chunk behind the Accept that does not name it any more: more has left than there is", unseen "workers of a world report at once: the machine's own tests do it";
    /// A disk that fails is taken for a file that fails.
    DiskFailsAlone: "§9.5 (XFER-31)", "a disk is full or gone: what was durable of its files is thrown away, one after the other";
    /// A sender whose peer was not heard out goes on as if it was.
    UnheardGoesOn: "§9.5 (XFER-24)", "a session is replaced, with what the receiver said on it: the sender waits for ever";
    /// What was told on a session that is lost counts as told where an older one goes on.
    ToldAndLost: "§9.1 (LINK-12)", "a newer session is cut behind what was told on it, and the older goes on: an offer is never heard of";
    /// A session that may have crossed takes over at once.
    QuestionIgnored: "§9.1 (LINK-12)", "something is told on a session that the peer has passed over: an owner sees a reconnect that nobody wanted", unseen "a reply has to overtake a Response that left before it, and something to be told in the moment behind it: one of a million worlds led there; a script shows it";
    /// What was not answered is not offered again on the session that replaces another.
    OfferNotRepeated: "§9.5 (XFER-24)", "an offer leaves on a session that is being replaced: nobody ever hears of it";
    /// Streams that were on their way when a transfer ended count for ever.
    OpeningKept: "§9.5 (S32)", "a transfer ends while its streams are being opened: they are counted when everything is closed";
    /// Pages need not be those that were offered.
    ManifestMismatchAccepted: "§9.5 (XFER-6)", "a paired liar offers one digest and sends pages of another, as many entries and bytes: the owner is asked";
    /// A component may be two dots.
    DotDotAccepted: "§9.5 (PATH-1)", "a paired liar offers ../evil: it is not declined with 4, and a host that trusts the core writes outside";
    /// A name may have more than 255 bytes.
    LongComponentAccepted: "§11 (PATH-1)", "a paired liar offers a name of 256 bytes: it is not declined";
    /// A path may go as deep as it likes.
    DeepPathAccepted: "§11 (PATH-2)", "a paired liar offers a path of 65 names: it is not declined";
    /// A path may have more than 4096 bytes.
    LongPathAccepted: "§11 (PATH-2)", "a paired liar offers a path of 4097 bytes: it is not declined";
    /// A set of ranges may have any number of them.
    RangesUnbounded: "§11 (DATA-18)", "a paired liar names 1025 ranges: the session goes on";
    // Limits and the rest.
    /// The crowd of unproved streams is not bounded.
    UnprovedUnbounded: "§11 (LIM-1)", "a stranger opens 17 streams, or several 65, and says nothing: none is reset";
    /// A stream that has just come is thrown out for the next one.
    GraceIgnored: "§11 (LIM-2)", "a stranger's flood throws out an honest stream that came in the same second", unseen "an honest stream that is thrown out by a flood is tried again; story_stranger shows it";
    /// One remote may have seventeen unproved streams.
    SeventeenUnproved: "§11 (LIM-1)", "a stranger opens 17 streams and says nothing: none is reset";
    /// A reconnect whose tag fits a root may go like any unproved stream.
    ReconnectCrowdedOut: "§11 (LIM-1)", "a device sends sixteen things over tcp while its reconnect is under way: their connections crowd that out";
    /// A connection on which nothing happens stays.
    UnusedConnectionKept: "§9.6 (DATA-28)", "the stream that a connection was made for cannot be opened: the connection is there when everything is closed";
    /// Devices are not counted.
    DevicesUnbounded: "§11 (LIM-3)", "a 257th device pairs";
    /// One device more.
    OneDeviceMore: "§11 (LIM-3)", "a 257th device pairs";
    /// Bulk streams of a peer are not counted.
    BulkStreamsUnbounded: "§11 (LIM-4)", "a paired liar opens nine bulk streams of a running transfer: all are served";
    /// A peer may have nine bulk streams.
    NinthBulkStream: "§11 (LIM-4)", "a paired liar opens nine bulk streams of a running transfer: all are served";
    /// Unfinished roots of a device are not counted.
    PendingRootsUnbounded: "§11 (PENDING_ROOTS_PER_DEVICE)", "two paired devices pair again six times, with the end always cut: after a restart the row cannot be read";
    /// A joiner dials every address at once.
    JoinerConnectionsUnbounded: "§11 (PAIR-43)", "a code typed with six addresses: more than four dials or streams are out at once";
    /// A joiner tries every address that it is given.
    CandidatesUnbounded: "§11 (PAIR-43)", "a code typed with seventeen addresses: all are dialled";
    /// Answers that nobody waits for any more still reach whoever has the same name now.
    StaleTicketsCount: "§13 (a machine that is over answers nothing)", "an attempt ends while dials are out, and the same is begun again at once: the old answers are counted in the new one";
    /// A forgotten device is forgotten in memory only.
    ForgetNotStored: "§10 (a forgotten device)", "a device is forgotten, then the program starts again: it is back";
    /// A device that is forgotten while the initiator's record of it is written is paired all the same, and then not.
    PairedThoughForgotten: "§6.5 I on forgetting (PAIR-28)", "an owner forgets the device whose record is being written: both sides are told that they are paired";
    /// The sessions of a forgotten device stay.
    ForgottenKeepsSession: "§10 (a forgotten device)", "a device is forgotten: the keys of its session are still held";
    /// A name that the owner gives is kept in memory only.
    RenameNotStored: "§10 (PAIR-31)", "a device is renamed, then the program starts again: it has its old name";

    // Parting, blocking, policy.
    /// A device that was forgotten is not told so on the session that stands.
    UnpairUntold: "§10.2 (UNP-3)", "in a calm world the other side of a session does not hear that it was removed";
    /// It is told before that is durable.
    UnpairBeforeDurable: "§10.1 (UNP-2)", "a crash behind the forgetting: the peer was told that it is removed, and is paired after the restart";
    /// What the peer says of that is not heard.
    UnpairIgnored: "§10.2 (UNP-5)", "in a calm world the other side of a session does not hear that it was removed";
    /// A write that was under way when a device was forgotten counts as the one that says so.
    UnsaidTooSoon: "§10.1 (UNP-1)", "the write of the forgetting fails behind an older one that does not: the next one removes the device and not what was said with it";
    /// The notice for a forgotten device is given before that is durable.
    NoticeBeforeDurable: "§10.3 (UNP-4)", "a crash behind the forgetting: the peer was told that it is removed, and is paired after the restart";
    /// A forgotten device gets no notice.
    NoticeUngiven: "§10.3 (UNP-4)", "in a calm world a device that was away is not told at its next contact that it was removed";
    /// A notice counts without its proof.
    NoticeUnchecked: "§10.3 (UNP-5)", "whoever answers at an address makes a device believe that it was removed";
    /// What is left of a forgotten device is lost at a restart.
    TombstoneNotStored: "§10.1 (UNP-1)", "after a restart a device that was away is not told at its next contact that it was removed";
    /// As many are kept as come.
    TombstonesUnbounded: "§11 (UNP-7)", "more than 256 keys of forgotten devices are tried against a Hello", unseen "no run pairs with and forgets 256 devices; the registry's own tests do";
    /// A device that was removed there is forgotten here without asking.
    RemovedThereForgets: "§10.3 (UNP-6)", "a pairing is gone that no owner of this side gave up";
    /// A blocked device's reconnects are answered.
    BlockIgnored: "§10.5 (POL-4)", "a session with a blocked device";
    /// Its session goes on.
    BlockKeepsSession: "§10.5 (POL-4)", "the device has keys of a session with a blocked device";
    /// That it is blocked is lost at a restart.
    BlockNotStored: "§10.5 (POL-4)", "after a restart a session with a blocked device";
    /// Any number of devices can be blocked.
    BlockedUnbounded: "§11 (POL-5)", "memory grows with every device that is blocked", unseen "no run blocks 256 devices";
    /// It pairs again.
    BlockedPairs: "§10.5 (POL-5)", "a pairing with a blocked device comes about";
    /// A policy is lost at a restart.
    PolicyNotStored: "point 2 (POL-1)", "after a restart the policy of a device is another than was set";
    /// Offers that the policy refuses are shown to the owner.
    FilePolicyIgnored: "point 2 (POL-2)", "the owner is asked about an offer that the policy refuses";
    /// Messages that the policy refuses are taken.
    MessagePolicyIgnored: "point 2 (POL-3)", "a message comes from a device whose messages are refused";

    // Staying connected.
    /// A device that cannot be reached is dialled every second.
    NoBackoff: "§8, point 1 (KEEP-3)", "attempts to reach a device that is not there come sooner than twice the wait before";
    /// Who stays connected dials all at once.
    KeptAllAtOnce: "point 1 (KEEP-7)", "a device with a hundred friends dials more than may be dialled at once", unseen "no run has 33 friends that stay connected and are away; story_parting has them";
    /// A device that the owner disconnected is dialled again.
    DialledThoughLeft: "point 1 (KEEP-5)", "a session with a device that the owner disconnected, and that nobody asked for";
    /// A device that has removed the pairing is dialled by itself.
    DialledThoughRemoved: "§10.3 (KEEP-6)", "attempts to reach a device that has removed the pairing, though nobody asked";
    /// A removed pairing ends the search for the one that began since.
    NewerUnkept: "§10.3 (KEEP-6)", "a device pairs again before the other has removed the older pairing: the word of that comes last, and it stays apart", unseen "two pairings and a removal have to meet within a write: one of a million worlds led there; a script shows it";
    /// A change of the network changes nothing.
    MoveIgnored: "point 1 (KEEP-4)", "a device that came back to the network is not dialled for minutes";
}

impl Bug {
    /// The bug of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|bug| bug.name() == name)
    }
}

/// The planted bug's number and one; 0 if there is none.
static PLANTED: AtomicU16 = AtomicU16::new(0);

/// Plants a bug in this process, in place of the one before, or none.
pub fn plant(bug: Option<Bug>) {
    PLANTED.store(bug.map_or(0, |bug| bug as u16 + 1), Ordering::Relaxed);
}

/// Whether this bug is the planted one.
#[inline]
pub(crate) fn is(bug: Bug) -> bool {
    PLANTED.load(Ordering::Relaxed) == bug as u16 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};
    use std::string::String;
    use std::vec::Vec;
    use std::{format, fs};

    #[test]
    fn names_are_distinct_and_lead_back() {
        assert_eq!(Bug::TagUnchecked.name(), "tag-unchecked");
        let names: BTreeSet<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        assert_eq!(names.len(), Bug::ALL.len());
        for &bug in Bug::ALL {
            assert_eq!(Bug::by_name(bug.name()), Some(bug));
            assert!(!bug.breaks().is_empty() && !bug.seen_by().is_empty(), "{bug:?}");
        }
        assert_eq!(Bug::by_name("none"), None);
        assert!(Bug::ALL.iter().all(|&bug| !is(bug)), "nothing is planted unless somebody plants it");
    }

    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|kind| kind == "rs") && !path.ends_with("planted.rs") {
                found.push(path);
            }
        }
    }

    #[test]
    fn every_bug_of_the_table_is_planted_somewhere() {
        let mut paths = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut paths);
        let text: String = paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        let nowhere: Vec<&Bug> = Bug::ALL.iter().filter(|bug| !text.contains(&format!("planted!({bug:?})"))).collect();
        assert!(nowhere.is_empty(), "no site has {nowhere:?}");
        let least = 60;
        assert!(Bug::ALL.len() >= least, "only {} bugs", Bug::ALL.len());
    }
}
