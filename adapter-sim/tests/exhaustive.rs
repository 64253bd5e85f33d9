//! Small worlds, with every order of events and every place of a fault. All of them, in minutes: `exhaustive::all`.

use adapter_sim::exhaustive::{Ended, Small, bounded, explore, worlds};

fn small(name: &str) -> Small {
    worlds().into_iter().find(|small| small.name == name).expect("there is such a world")
}

/// The name, then runs, states, events, places of faults, crashes among them, endings.
type Counted<'n> = (&'n str, u128, u64, u64, u64, u64, usize);

/// A1 to A8 and R3, PAIR-47, LINK-5, LINK-8: and who changes the protocol sees what that does to these numbers.
#[test]
fn small_worlds_hold_what_must_hold_in_every_order() {
    let expected: &[Counted<'_>] = &[
        ("pairing", 225, 36, 54, 0, 0, 1),
        ("pairing, crash", 551_293, 965, 2046, 102, 102, 18),
        ("pairing, silent loss", 4_221_053, 337, 735, 69, 0, 5),
        ("pairing, failing write", 2109, 143, 291, 25, 0, 5),
        ("J reconnects, Complete lost, crash", 5955, 365, 752, 88, 88, 4),
        ("J reconnects, Complete lost, cut, failing write", 75_032, 385, 975, 72, 0, 4),
        ("J reconnects, I has nothing, crash", 297, 75, 152, 34, 34, 1),
        ("both dial, I has nothing", 16, 15, 23, 0, 0, 1),
    ];
    let counts = explore(&bounded(), &mut |count| println!("{count}")).unwrap_or_else(|violation| panic!("{violation}"));
    let counted: Vec<Counted<'_>> = counts
        .iter()
        .map(|count| (&count.world[..], count.runs, count.states, count.events, count.faults, count.crashes, count.endings.len()))
        .collect();
    assert_eq!(counted, expected);
}

/// A false claim is refuted by a list of steps, and the list alone refutes it again.
fn refuted(small: &Small, claim: &dyn Fn(&Ended) -> Result<(), String>) -> Vec<String> {
    let violation = small.explore_claiming(claim).expect_err("the claim is false");
    assert_eq!(small.replay(&violation.steps, claim), Err(violation.why.clone()), "{violation}");
    assert!(violation.story.len() > violation.steps.len());
    violation.steps
}

fn faults(steps: &[String]) -> Vec<&String> {
    steps.iter().filter(|step| step.starts_with("FAULT")).collect()
}

#[test]
fn that_nothing_is_ever_left_over_is_refuted() {
    let claim = |ended: &Ended| {
        let left = ended.ending.starts_with("I: [Unconfirmed]") && ended.ending.contains("J: [],");
        if left { Err(ended.ending.clone()) } else { Ok(()) }
    };
    assert_eq!(faults(&refuted(&small("pairing, failing write"), &claim)), ["FAULT: J's oldest write fails"]);
}

#[test]
fn that_two_yes_are_a_pair_is_refuted() {
    let claim = |ended: &Ended| if ended.yes && ended.ending.contains("[]") { Err(ended.ending.clone()) } else { Ok(()) };
    assert_eq!(faults(&refuted(&small("pairing, crash"), &claim)).len(), 1);
}

#[test]
fn that_both_are_sure_at_the_same_moment_is_refuted() {
    let claim = |ended: &Ended| {
        let unlike = ended.ending.contains("I: [Unconfirmed]") && ended.ending.contains("J: [Confirmed]");
        if unlike { Err(ended.ending.clone()) } else { Ok(()) }
    };
    assert_eq!(faults(&refuted(&small("pairing, silent loss"), &claim)).len(), 1);
}

/// PAIR-38: a world in which a no is heard as a yes does not pass.
#[test]
fn a_no_that_is_heard_as_yes_is_noticed() {
    let misheard = Small { misheard: true, ..small("pairing, people") };
    let violation = misheard.explore().expect_err("somebody trusts without a yes");
    assert!(violation.why.contains("without both users' yes"), "{violation}");
    assert!(violation.steps.iter().any(|step| step.ends_with("user says no")));
}

const UNTIL_I_STORES: [&str; 11] = [
    "the dial 1 of J arrives",
    "J hears that connection 2001 is up",
    "I takes what comes next on stream 2004",
    "I takes what comes next on stream 2004",
    "I takes what comes next on stream 2004",
    "J takes what comes next on stream 2003",
    "J's oldest write is done",
    "I takes what comes next on stream 2004",
    "J's user says yes",
    "J's oldest write is done",
    "I's user says yes",
];

/// PAIR-29: a joiner that lost the stream reconnects while the initiator's record is being written. It gets its answer when that
/// is durable, and not before: it would be sure of a pairing that a crash of the initiator could take away.
#[test]
fn a_hello_waits_for_the_record_that_it_needs() {
    let cut_and_redial = [
        "FAULT: the connection of which J has end 2001 breaks",
        "I hears that connection 2002 is gone",
        "J has closed connection 2001",
        "the dial 5 of J arrives",
        "I has closed connection 2002",
        "J hears that connection 2005 is up",
        "I takes what comes next on stream 2008",
        "I takes what comes next on stream 2008",
        "I takes what comes next on stream 2008",
    ];
    let accept = "J takes what comes next on stream 2007";
    let run = |last: &[&str]| {
        let steps = UNTIL_I_STORES.iter().chain(&cut_and_redial).chain(last);
        let steps: Vec<String> = steps.map(|step| (*step).to_owned()).collect();
        small("pairing, cut").replay(&steps, &|_| Ok(()))
    };
    assert_eq!(run(&[accept]), Err(format!("not possible: {accept}")));
    assert_eq!(run(&["I's oldest write is done", accept]), Ok(()));
}

/// LINK-9, LINK-10: an initiator whose record is unconfirmed dials a joiner whose root is pending: what follows the Ack in the same
/// flight waits, as the Ack does, until the joiner's confirmation is durable.
#[test]
fn records_wait_for_the_confirmation() {
    let steps = [
        "the dial 1 of I arrives",
        "I hears that connection 1001 is up",
        "J takes what comes next on stream 1004",
        "J takes what comes next on stream 1004",
        "J takes what comes next on stream 1004",
        "I takes what comes next on stream 1003",
        "J takes what comes next on stream 1004",
        "J takes what comes next on stream 1004",
        "J's oldest write is done",
        "J's oldest write is done",
        "I takes what comes next on stream 1003",
        "I's oldest write is done",
        "I's oldest write is done",
    ];
    let steps: Vec<String> = steps.iter().map(|step| (*step).to_owned()).collect();
    assert_eq!(
        small("I reconnects, Complete lost, crash")
            .replay(&steps, &|ended| { if ended.ending.ends_with("not connected") { Err(ended.ending.clone()) } else { Ok(()) } }),
        Ok(())
    );
}

/// LINK-9: a joiner that has answered a reconnect, lost it, and dials while its confirmation is being written says no Hello: the
/// initiator would be sure of a joiner that is not.
#[test]
fn no_hello_leaves_before_the_confirmation_is_durable() {
    let opening = "I takes what comes next on stream 2004";
    let steps = [
        "the dial 1 of I arrives",
        "the dial 1 of J arrives",
        "I hears that connection 1001 is up",
        "J takes what comes next on stream 1004",
        "J takes what comes next on stream 1004",
        "J takes what comes next on stream 1004",
        "I takes what comes next on stream 1003",
        "J takes what comes next on stream 1004",
        "J takes what comes next on stream 1004",
        "I's oldest write is done",
        "J's oldest write is done",
        "I's oldest write is done",
        "FAULT: the connection of which I has end 1001 breaks",
        "J hears that connection 1002 is gone",
        "J hears that connection 2001 is up",
        "I has closed connection 1001",
        "J has closed connection 1002",
        // The stream, its preamble, and Hello.
        opening,
        opening,
        opening,
        "J takes what comes next on stream 2003",
    ];
    let steps: Vec<String> = steps.iter().map(|step| (*step).to_owned()).collect();
    let refused = small("both dial, Complete lost, cut, failing write").replay(&steps, &|_| Ok(()));
    assert!(refused.as_ref().is_err_and(|why| why.starts_with("not possible")), "{refused:?}");
}
