use std::time::Duration;

use super::marks::{Fate, Mark, marks};
use super::rows::{Body, rows};
use super::words::Kind;
use super::{About, Lane, html, story};
use crate::trace::{Entry, What};
use crate::{At, Damage, Dev, Item, Rule, Side, Tree, Wire, World};

fn world(wire: Wire) -> (World, Dev, Dev) {
    let mut world = World::new(5);
    let (a, b) = (world.add_device_on("a", wire), world.add_device_on("b", wire));
    world.pair(a, b);
    (world, a, b)
}

fn marks_of(world: &World) -> Vec<Mark> {
    marks(&world.lanes(), world.trace().entries())
}

/// The messages that arrived from one device to another, in order.
fn messages(world: &World) -> Vec<(usize, usize, String)> {
    let message = |mark: Mark| {
        let arrow = mark.arrow.filter(|arrow| mark.words.kind == Kind::Message && matches!(arrow.fate, Fate::Arrived { .. }))?;
        Some((mark.dev?, arrow.to, mark.words.name))
    };
    marks_of(world).into_iter().filter_map(message).collect()
}

fn named(expected: &[(usize, usize, &str)]) -> Vec<(usize, usize, String)> {
    expected.iter().map(|&(from, to, name)| (from, to, name.to_owned())).collect()
}

#[test]
fn messages_of_a_pairing_and_a_reconnect_have_their_names() {
    for wire in [Wire::Sim, Wire::Tcp] {
        let (mut world, a, b) = world(wire);
        world.run_for(Duration::from_secs(1));
        let pairing = named(&[
            (1, 0, "preamble kin-pair/1"),
            (1, 0, "PairingRequest"),
            (0, 1, "Challenge"),
            (1, 0, "Response"),
            (0, 1, "Complete"),
            (1, 0, "header + Ack"),
            (0, 1, "reply"),
        ]);
        assert_eq!(messages(&world), pairing);
        world.crash(b);
        world.run_for(Duration::from_secs(1));
        world.restart(b);
        world.run_for(Duration::from_secs(5));
        world.connect(b, a);
        world.run_for(Duration::from_secs(5));
        let link = [(1, 0, "preamble kin-link/1"), (1, 0, "Hello"), (0, 1, "Accept"), (1, 0, "Finish + header + Ack"), (0, 1, "reply")];
        assert_eq!(messages(&world)[pairing.len()..], named(&link));
    }
}

fn share(world: &mut World, from: Dev, to: Dev, bytes: usize) {
    let tree: Tree = [(vec![b"file".to_vec()], Item::File(vec![7; bytes]))].into();
    world.share(from, to, &tree, 65_536).unwrap();
    world.run_for(Duration::from_secs(60));
}

#[test]
fn messages_of_a_transfer_have_their_names_whoever_opens() {
    for wire in [Wire::Sim, Wire::Tcp] {
        let (mut world, a, b) = world(wire);
        share(&mut world, a, b, 300_000);
        let messages = messages(&world);
        let sent = |from, name: &str| messages.iter().filter(|message| message.0 == from && message.2 == name).count();
        let opener = if wire == Wire::Tcp { 1 } else { 0 };
        assert_eq!((sent(0, "chunk"), sent(0, "manifest pages")), (5, 1));
        assert_eq!((sent(opener, "preamble kin-data/1"), sent(opener, "header + opening")), (2, 2));
        assert_eq!(sent(1, "chunk") + sent(1, "manifest pages"), 0);
        assert!(sent(0, "record") > 1 && sent(1, "record") > 1);
    }
}

#[test]
fn what_was_cut_did_not_arrive() {
    let (mut world, a, b) = world(Wire::Sim);
    world.rule(Rule { name: World::BULK, side: Side::Opener, at: At::Byte(70_000), damage: Damage::Cut });
    share(&mut world, a, b, 300_000);
    let chunks: Vec<Fate> =
        marks_of(&world).iter().filter(|mark| mark.words.name == "chunk").filter_map(|mark| Some(mark.arrow?.fate)).collect();
    assert!(matches!(chunks[..3], [Fate::Arrived { .. }, Fate::Torn(_), Fate::Lost]), "{chunks:?}");
    assert!(world.story().contains("did not arrive"), "{}", world.story());
    assert!(world.story().contains("!! world"), "{}", world.story());
}

fn entry(at: u64, what: What) -> Entry {
    Entry { at, dev: Some(Dev(0)), what }
}

fn lanes() -> Vec<Lane> {
    World::new(1).lanes_named(&["one", "two"])
}

impl World {
    fn lanes_named(mut self, names: &[&str]) -> Vec<Lane> {
        for name in names {
            self.add_device(name);
        }
        self.lanes()
    }
}

fn texts(entries: &[Entry]) -> Vec<(Option<usize>, String)> {
    rows(&marks(&lanes(), entries)).into_iter().map(|row| (row.inside, row.body.text())).collect()
}

#[test]
fn what_repeats_is_folded_and_nothing_else() {
    let step = |at| entry(at, What::Step("step".into()));
    let mut entries = vec![step(0)];
    entries.extend((0..40).map(|number| entry(1 + u64::from(number), What::Persists { number })));
    entries.push(step(50));
    let folded = texts(&entries);
    assert_eq!(folded.len(), 1 + 1 + 40 + 1);
    assert_eq!(folded[1], (None, "40 × write, last 39".into()));
    assert_eq!(folded[2], (Some(0), "write 0".into()));
    // What is loud is never folded.
    assert_eq!(texts(&(0..9).map(step).collect::<Vec<_>>()).len(), 9);
}

#[test]
fn a_story_that_repeats_is_folded() {
    let dial = |at: u64| [entry(at, What::Dials { to: "sim:x".into() }), entry(at + 1, What::HangsUp { conn: at as usize, code: 1 })];
    let entries: Vec<Entry> = (0..50).flat_map(|round| dial(round * 10)).collect();
    let outer: Vec<String> = texts(&entries).into_iter().filter(|(inside, _)| inside.is_none()).map(|(_, text)| text).collect();
    assert_eq!(outer, ["50 × dials sim:x", "50 × hangs up connection, last 490 (refused)"]);
}

#[test]
fn time_in_which_nothing_happens_is_folded() {
    let entries = [entry(0, What::Starts), entry(7_384_000_000, What::Starts)];
    assert_eq!(texts(&entries)[1], (None, "2 h 03 min later".into()));
}

#[test]
fn too_many_rows_are_left_out_and_the_page_says_so() {
    let what = |number: u64| match number % 1_000 {
        999 => What::Crashes,
        _ => What::Dials { to: format!("sim:{number}") },
    };
    let entries: Vec<Entry> = (0..20_000).map(|number| entry(number, what(number))).collect();
    let rows = rows(&marks(&lanes(), &entries));
    assert!(rows.len() < 4_000, "{}", rows.len());
    let left: usize = rows.iter().map(|row| if let Body::LeftOut(left) = row.body { left } else { 0 }).sum();
    assert_eq!(left + rows.iter().filter(|row| row.body.mark().is_some()).count(), 20_000);
    assert_eq!(rows.iter().filter(|row| row.body.text() == "crashes").count(), 20);
    let page = page(&lanes(), &entries);
    assert!(page.contains(&format!("{left} of what happened")));
    well_formed(&page);
}

fn page(lanes: &[Lane], entries: &[Entry]) -> String {
    html(&About { title: "A <title>", replay: "sim --replay '7'", hash: 7 }, lanes, entries)
}

/// Checks that every element is closed in its place and that nothing is fetched from anywhere.
fn well_formed(page: &str) {
    for word in ["http:", "https:", "src=", "@import", "url(/", "//cdn", "<link"] {
        assert!(!page.contains(word), "{word}");
    }
    let (page, script) = page.split_once("<script>").unwrap();
    let (_, end) = script.split_once("</script>").unwrap();
    let (head, body) = page.split_once("<style>").unwrap();
    let (_, body) = body.split_once("</style>").unwrap();
    let text = [head, body, end].concat();
    let mut open: Vec<&str> = Vec::new();
    for part in text.split('<').skip(1) {
        let (tag, after) = part.split_once('>').expect("a tag ends");
        assert!(!after.contains('>'), "{part}");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        let name = tag.trim_end_matches('/').split([' ', '\n']).next().unwrap();
        match name.strip_prefix('/') {
            Some(closed) => assert_eq!(open.pop(), Some(closed)),
            None if tag.ends_with('/') || ["!doctype", "meta", "input", "li"].contains(&name) => {}
            None => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?}");
    assert!(!text.contains('\u{202e}') && !text.contains('\u{1b}'));
}

#[test]
fn names_are_hostile() {
    let name = "<script>\"'&</div>\u{202e}\u{1b}[2J";
    let mut world = World::new(9);
    let (a, b) = (world.add_device("<script>\"'&</div>"), world.add_device("b"));
    world.pair(a, b);
    let mut lanes = world.lanes();
    lanes[0].name = name.into();
    let mut entries = world.trace().entries().to_vec();
    let at = entries[entries.len() - 1].at;
    entries.push(entry(at, What::Step(name.into())));
    entries.push(entry(at, What::Malformed { stream: 1, error: name.into() }));
    entries.push(Entry { dev: Some(Dev(9)), ..entry(at, What::Dials { to: name.into() }) });
    let page = page(&lanes, &entries);
    well_formed(&page);
    assert_eq!(page.matches("<script>").count(), 1);
    assert!(page.contains("&lt;script&gt;&quot;&#39;&amp;&lt;/div&gt;··[2J"), "{page}");
    let story = story(&lanes, &entries);
    assert!(!story.chars().any(|c| c != '\n' && c.is_control()) && !story.contains('\u{202e}'), "{story}");
}

#[test]
fn pages_of_whole_runs_are_well_formed() {
    for wire in [Wire::Sim, Wire::Tcp] {
        let (mut world, a, b) = world(wire);
        share(&mut world, a, b, 500_000);
        world.crash(b);
        world.run_for(Duration::from_secs(7_200));
        let page = world.chart("a run", "");
        well_formed(&page);
        assert!(page.contains("crashes") && page.contains(" h "), "{}", world.story());
    }
    well_formed(&page(&[], &[]));
}
