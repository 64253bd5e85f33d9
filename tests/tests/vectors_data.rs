//! The vector file's sections on streams, records and transfers, against the shipped code.

use kin_tests::vectors::data;
use serde_json::Value;

fn file() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/kin-1.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("the vector file")).expect("JSON")
}

/// How many leaves there are, and which differ.
fn check(json: &Value) -> (usize, Vec<String>) {
    let (mut count, mut different) = (0, vec![]);
    data::check(json, &mut |name, equal| {
        count += 1;
        if !equal {
            different.push(name.to_owned());
        }
    });
    (count, different)
}

#[test]
fn every_value_is_equal_and_every_refusal_has_its_reason() {
    let (count, different) = check(&file());
    assert_eq!(different, Vec::<String>::new());
    assert!(count > 170, "only {count} leaves");
}

/// An altered leaf is noticed by its name: nothing is compared with itself. Inputs that read back as anything show elsewhere.
#[test]
fn an_altered_value_shows() {
    const READ_BACK: &[&str] = &["transfer.mixed_outcomes", "bulk.aead_only.index", "bulk.aead_only.plaintext", "refused."];
    const BATCHES: usize = 12;
    let original = file();
    let mut leaves = vec![];
    data::check(&original, &mut |name, _| leaves.push(name.to_owned()));
    leaves.retain(|name| !READ_BACK.iter().any(|input| name.starts_with(input)));
    for batch in 0..BATCHES {
        let altered = leaves.iter().skip(batch).step_by(BATCHES).collect::<Vec<_>>();
        let mut json = original.clone();
        for name in &altered {
            let leaf = json.pointer_mut(&format!("/{}", name.replace('.', "/"))).expect("a leaf that was named");
            *leaf = match &*leaf {
                Value::String(text) if text.ends_with('0') => Value::String(format!("{}1", &text[..text.len() - 1])),
                Value::String(text) => Value::String(format!("{}0", &text[..text.len() - 1])),
                number => Value::from(number.as_u64().expect("a text or a number") + 1),
            };
        }
        let (_, different) = check(&json);
        assert_eq!(altered.into_iter().filter(|name| !different.contains(name)).collect::<Vec<_>>(), Vec::<&String>::new());
    }
}

/// What is refused rightly is not refused for the name alone: a good record, header, page or message in its place shows.
#[test]
fn what_is_fine_is_not_refused() {
    let original = file();
    for (name, good) in [
        ("records/unknown_type", &original["records"]["ping"]),
        ("records/first_is_data", &original["records"]["opening"]),
        ("headers/kind_5", &original["bulk"]["header"]),
        ("manifest_pages/twice", &original["transfer"]["entries_cbor"]),
        ("messages/range_odd", &original["transfer"]["messages"]["stored"]),
    ] {
        let mut json = original.clone();
        *json.pointer_mut(&format!("/refused/{name}")).expect("a refused leaf") = good.clone();
        assert_eq!(check(&json).1, [format!("refused.{}", name.replace('/', "."))]);
    }
}
