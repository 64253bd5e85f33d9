//! The shipped code against the committed vectors, and the checker against changed ones.

use kin_tests::vectors::{check_all, collect_leaves};
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../vectors/kin-1.json")).expect("the committed vectors are JSON")
}

#[test]
// ID-11, ID-13, PAIR-10.
fn every_value_is_equal() {
    let report = check_all(&vectors());
    assert_eq!(report.differing, Vec::<String>::new());
    assert!(report.checked > 250, "only {} values", report.checked);
}

fn leaf<'v>(json: &'v mut Value, path: &str) -> &'v mut Value {
    path.split('.').fold(json, |value, key| match value {
        Value::Array(items) => &mut items[key.parse::<usize>().expect("an index")],
        _ => &mut value[key],
    })
}

/// Changes one digit in the middle, or one letter, or adds one to a number.
fn change(value: &mut Value) {
    match value {
        Value::String(text) => {
            let middle = text.len() / 2;
            let digit = text.as_bytes()[middle];
            let other = if digit == b'0' { "1" } else { "0" };
            text.replace_range(middle..middle + 1, other);
        }
        Value::Number(number) => *value = (number.as_u64().expect("no number is negative") + 1).into(),
        Value::Bool(flag) => *flag = !*flag,
        Value::Null | Value::Array(_) | Value::Object(_) => unreachable!("no leaf of the file"),
    }
}

/// One wrong digit of one value is noticed; a value that is missing, too.
///
/// What stands under `refused` stays refused when it is changed, and `transfer.content` is a sentence.
#[test]
fn every_changed_value_is_noticed() {
    let json = vectors();
    let mut leaves = Vec::new();
    collect_leaves(&json, "", &mut leaves);
    leaves.retain(|path| !path.starts_with("refused.") && path != "note" && path != "transfer.content");
    let before = check_all(&json).differing;
    // A sample, because a whole check without optimisation takes a while.
    for (at, path) in leaves.iter().enumerate().step_by(5) {
        let mut changed = json.clone();
        change(leaf(&mut changed, path));
        assert_ne!(check_all(&changed).differing, before, "{path} was changed");
        if at % 25 == 0 {
            *leaf(&mut changed, path) = Value::Null;
            assert_ne!(check_all(&changed).differing, before, "{path} was taken away");
        }
    }
}

/// What must be refused is reported when it is not.
#[test]
fn an_accepted_refusal_is_noticed() {
    let mut json = vectors();
    for (refused, right) in [("challenges", "frame2"), ("responses", "frame3"), ("completes", "frame4"), ("pairing_requests", "frame1")] {
        let frame = json["pairing"][right].clone();
        json["refused"][refused]["an_unknown_name"] = frame;
    }
    json["refused"]["link_accepts"]["an_unknown_name"] = json["link"]["frame2"].clone();
    json["refused"]["words"]["an_unknown_name"] = json["code"]["words"].clone();
    let differing = check_all(&json).differing;
    for group in ["challenges", "responses", "completes", "pairing_requests", "link_accepts", "words"] {
        let path = format!("refused.{group}.an_unknown_name: ");
        assert!(differing.iter().any(|line| line.starts_with(&path)), "{path}{differing:?}");
    }
}
