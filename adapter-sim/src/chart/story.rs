//! Rows as lines for a terminal.

use std::fmt::Write as _;

use super::Lane;
use super::marks::marks;
use super::rows::{Body, rows};
use super::words::{self, Tone};
use crate::trace::Entry;

pub(super) fn story(lanes: &[Lane], entries: &[Entry]) -> String {
    let names: Vec<String> = lanes.iter().map(|lane| words::short(&lane.name)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let name = |dev: Option<usize>| dev.and_then(|dev| names.get(dev)).map_or("*", String::as_str);
    let mut text = String::new();
    for row in rows(&marks(lanes, entries)).iter().filter(|row| row.inside.is_none()) {
        let said = row.body.text();
        let line = match row.body.mark() {
            None => format!("{:>10}  {said}", "···"),
            Some(mark) => {
                let with = mark.arrow.map_or_else(|| mark.words.kind.word().to_owned(), |arrow| format!("→ {}", name(Some(arrow.to))));
                let until =
                    if matches!(row.body, Body::Many { .. }) { format!(" (until {})", words::clock(row.until)) } else { String::new() };
                let flag = match mark.words.tone {
                    Tone::Loud => "!!",
                    Tone::Bad => "! ",
                    Tone::Good | Tone::Plain | Tone::Minor => "  ",
                };
                format!(
                    "{:>10}  {:<width$}  {flag} {with:<with_width$}  {said}{until}",
                    words::clock(row.at),
                    name(mark.dev),
                    with_width = width.max(5) + 2
                )
            }
        };
        // Writing to a text does not fail.
        let _infallible = writeln!(text, "{}", line.trim_end());
    }
    text
}
