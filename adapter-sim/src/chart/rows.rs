//! Marks become rows: what repeats is folded, and so is time in which nothing happens.

use std::collections::BTreeSet;
use std::ops::Range;

use super::marks::Mark;
use super::words::{self, Tone};

/// Time without anything that is worth a row of its own.
const GAP: u64 = 500_000;
/// The longest story that is recognised when it repeats.
const PERIOD: usize = 24;
/// Rows of a fold that are kept at each of its ends, and rows of a run at its beginning and at its end.
const FOLD_KEPT: usize = 80;
const FIRST_KEPT: usize = 500;
const LAST_KEPT: usize = 2_500;

/// One row.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// The number of the first entry that it shows, or stands before.
    pub(super) entry: usize,
    pub(super) at: u64,
    /// When the last of it happened.
    pub(super) until: u64,
    /// It is seen when this fold is open.
    pub(super) inside: Option<usize>,
    pub(super) body: Body,
}

/// What is in a row.
#[derive(Clone, Debug)]
pub(super) enum Body {
    One(Mark),
    /// Marks that are alike: how many, and all of their bytes. `mark` is the first.
    Many {
        fold: usize,
        mark: Mark,
        times: usize,
        bytes: u64,
        last: String,
    },
    /// Nothing happened for this long.
    Gap(u64),
    /// So many marks are not shown.
    LeftOut(usize),
}

impl Body {
    /// What a reader is told in this row.
    pub(super) fn text(&self) -> String {
        match self {
            Self::One(mark) => format!("{}{}", mark.words.name, mark.detail()),
            Self::Many { mark, times, bytes, last, .. } => {
                let sum = if *bytes > 0 { format!(", {}", words::size(*bytes)) } else { String::new() };
                let lost = if mark.arrow.is_some() && mark.is(Tone::Bad) { ", did not arrive" } else { "" };
                if *times == 1 {
                    return format!("{}{}", mark.words.name, mark.detail());
                }
                let last = if last.is_empty() { String::new() } else { format!(", last{last}") };
                format!("{times} × {}{sum}{lost}{last}", mark.words.name)
            }
            Self::Gap(time) => format!("{} later", words::span(*time)),
            Self::LeftOut(marks) => format!("{marks} more are left out here"),
        }
    }

    pub(super) const fn mark(&self) -> Option<&Mark> {
        match self {
            Self::One(mark) | Self::Many { mark, .. } => Some(mark),
            Self::Gap(_) | Self::LeftOut(_) => None,
        }
    }
}

/// All rows, in order. The rows inside a fold follow those that sum it up.
pub(super) fn rows(marks: &[Mark]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut at = 0;
    for (number, fold) in folds(marks).into_iter().enumerate() {
        rows.extend(marks[at..fold.start].iter().map(one));
        at = fold.end;
        sum_up(number, &marks[fold], &mut rows);
    }
    rows.extend(marks[at..].iter().map(one));
    with_gaps(leave_out(rows))
}

fn one(mark: &Mark) -> Row {
    Row { entry: mark.entry, at: mark.at, until: mark.until(), inside: None, body: Body::One(mark.clone()) }
}

/// Which marks are folded: long runs of minor things, and stories that repeat.
fn folds(marks: &[Mark]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < marks.len() {
        let rest = &marks[at..];
        let minor = rest.iter().take_while(|mark| mark.minor).count();
        let kinds = rest[..minor].iter().map(Mark::key).collect::<BTreeSet<_>>().len();
        let len = if minor >= 6 && minor >= 3 * kinds { minor } else { repeated(rest) };
        if len > 0 {
            found.push(at..at + len);
        }
        at += len.max(1);
    }
    found
}

/// How many marks are a story that is told three times or more; 0 if none is.
fn repeated(marks: &[Mark]) -> usize {
    let most = PERIOD.min(marks.len() / 3);
    let told = |period: usize| {
        let same = marks.iter().zip(&marks[period..]).take_while(|(a, b)| a.is_like(b) && !a.is(Tone::Loud)).count();
        let times = 1 + same / period;
        if times >= 3 { times * period } else { 0 }
    };
    // The shortest period of those that reach furthest.
    (1..=most).map(|period| (told(period), period)).max_by_key(|&(len, period)| (len, usize::MAX - period)).map_or(0, |(len, _)| len)
}

fn sum_up(fold: usize, marks: &[Mark], rows: &mut Vec<Row>) {
    let mut seen = BTreeSet::new();
    for first in marks.iter().filter(|mark| seen.insert(mark.key())) {
        let alike = || marks.iter().filter(|mark| mark.is_like(first));
        let bytes = alike().filter_map(|mark| mark.arrow).map(|arrow| arrow.len as u64).sum();
        let last = alike().next_back().map(|mark| mark.words.detail.clone()).unwrap_or_default();
        let body = Body::Many { fold, mark: first.clone(), times: alike().count(), bytes, last };
        let until = alike().map(Mark::until).max().unwrap_or(first.at);
        rows.push(Row { entry: marks[0].entry, at: first.at, until, inside: None, body });
    }
    let inside = |mark| Row { inside: Some(fold), ..one(mark) };
    let (first, rest) = marks.split_at(marks.len().min(FOLD_KEPT));
    let (left, last) = rest.split_at(rest.len().saturating_sub(FOLD_KEPT));
    rows.extend(first.iter().map(inside));
    if let Some(mark) = left.first() {
        rows.push(Row { body: Body::LeftOut(left.len()), ..inside(mark) });
    }
    rows.extend(last.iter().map(inside));
}

/// Keeps the beginning, the end, and what is loud.
fn leave_out(rows: Vec<Row>) -> Vec<Row> {
    let outer = rows.iter().filter(|row| row.inside.is_none()).count();
    if outer <= FIRST_KEPT + LAST_KEPT {
        return rows;
    }
    let (mut kept, mut seen, mut keeps): (Vec<Row>, usize, bool) = (Vec::new(), 0, true);
    for row in rows {
        if row.inside.is_none() {
            seen += 1;
            keeps = seen <= FIRST_KEPT || seen + LAST_KEPT > outer || row.body.mark().is_some_and(|mark| mark.is(Tone::Loud));
        }
        if keeps {
            kept.push(row);
            continue;
        }
        // Those inside a fold are counted where it is summed up.
        let marks = match &row.body {
            Body::Many { times, .. } => *times,
            Body::One(_) if row.inside.is_none() => 1,
            Body::One(_) | Body::Gap(_) | Body::LeftOut(_) => 0,
        };
        match kept.last_mut() {
            Some(Row { body: Body::LeftOut(left), until, inside: None, .. }) => {
                *left += marks;
                *until = row.until.max(*until);
            }
            _ => kept.push(Row { inside: None, body: Body::LeftOut(marks), ..row }),
        }
    }
    kept
}

/// Puts a row where nothing happened for a while. Rows inside a fold say when they were, and that is enough.
fn with_gaps(rows: Vec<Row>) -> Vec<Row> {
    let mut all: Vec<Row> = Vec::with_capacity(rows.len());
    let mut before = None;
    for row in rows {
        if row.inside.is_none() {
            let gap = before.map_or(0, |before| row.at.saturating_sub(before));
            if gap >= GAP {
                all.push(Row { entry: row.entry, at: row.at, until: row.at, inside: None, body: Body::Gap(gap) });
            }
            before = before.max(Some(row.until));
        }
        all.push(row);
    }
    all
}
