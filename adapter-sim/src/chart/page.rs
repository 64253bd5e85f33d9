//! Rows as a page: one file, for any browser, from anywhere.
//!
//! Rows are laid out by the browser; what connects rows (arrows, lanes) is drawn behind them in one picture. Every line of
//! it names the rows where it begins and ends, so that the page's script can draw it anew when rows are hidden or opened.

use std::fmt::{self, Write as _};

use super::marks::{self, Arrow, Fate, Mark, State, While};
use super::rows::{Body, Row, rows};
use super::words::{self, Kind, Tone};
use super::{About, Lane};
use crate::trace::Entry;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The height of a row; the script knows it from the page.
const ROW: usize = 24;
/// Where the first lane is, what is between lanes, and what is right of the last.
const LEFT: usize = 410;
const BETWEEN: usize = 320;
const RIGHT: usize = 340;
/// The longest text that is kept to be read in full.
const LONG: usize = 900;
/// Loud moments that the top of the page leads to.
const MOMENTS: usize = 60;

/// A text that cannot leave its place in HTML.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in words::clean(self.0).chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// A page while it is written.
struct Page<'a> {
    lanes: &'a [Lane],
    entries: &'a [Entry],
    rows: Vec<Row>,
    /// Where rows begin; hidden ones have no height. One more for the end.
    tops: Vec<usize>,
    html: String,
}

pub(super) fn page(about: &About<'_>, lanes: &[Lane], entries: &[Entry]) -> String {
    let rows = rows(&marks::marks(lanes, entries));
    let mut tops = vec![0];
    for row in &rows {
        let top = tops.last().copied().unwrap_or(0);
        tops.push(top + if row.inside.is_none() { ROW } else { 0 });
    }
    let mut page = Page { lanes, entries, rows, tops, html: String::new() };
    // Writing to a text does not fail.
    let _infallible = page.write(about);
    page.html
}

impl Page<'_> {
    fn write(&mut self, about: &About<'_>) -> fmt::Result {
        let title = Escaped(about.title);
        write!(self.html, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{title}</title>\n")?;
        write!(self.html, "<meta name=\"viewport\" content=\"width=device-width\">\n<style>\n{STYLE}")?;
        self.places()?;
        self.html.push_str("</style>\n</head>\n<body>\n");
        self.top(about)?;
        self.html.push_str("<div id=\"chart\">\n<div class=\"heads\">");
        for (number, lane) in self.lanes.iter().enumerate() {
            write!(self.html, "<b class=\"p{number}\" title=\"{0}\"><span>{0}</span></b>", Escaped(&lane.name))?;
        }
        self.html.push_str("</div>\n<div id=\"rows\">\n");
        self.picture()?;
        for number in 0..self.rows.len() {
            self.row(number)?;
        }
        write!(self.html, "</div>\n</div>\n<pre id=\"whole\" hidden></pre>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n")
    }

    fn lane(number: usize) -> usize {
        LEFT + BETWEEN * number
    }

    fn width(&self) -> usize {
        Self::lane(self.lanes.len().saturating_sub(1)) + RIGHT
    }

    /// Where lanes are, and the labels beside them: those of the first lane stand left of it, out of the way of arrows.
    fn places(&mut self) -> fmt::Result {
        let width = self.width();
        writeln!(self.html, "#chart{{width:{width}px}}")?;
        for number in 0..self.lanes.len() {
            let x = Self::lane(number);
            let last = number + 1 == self.lanes.len();
            let room = if last { RIGHT } else { BETWEEN } - 30;
            let (right, outside) = (width - x + 14, LEFT - 105);
            writeln!(self.html, ".p{number}{{left:{x}px}}")?;
            match number {
                0 => writeln!(self.html, ".e0{{right:{right}px;max-width:{outside}px}}")?,
                _ => writeln!(self.html, ".e{number}{{left:{}px;max-width:{room}px}}", x + 14)?,
            }
            writeln!(self.html, ".r{number}{{left:{}px;max-width:{}px}}", x + 14, BETWEEN - 40)?;
            writeln!(self.html, ".l{number}{{right:{right}px;max-width:{}px}}", BETWEEN - 40)?;
        }
        Ok(())
    }

    fn top(&mut self, about: &About<'_>) -> fmt::Result {
        let times = self.entries.first().zip(self.entries.last()).map_or(0, |(first, last)| last.at - first.at);
        let names: Vec<String> = self.lanes.iter().map(|lane| format!("<b>{}</b>", Escaped(&lane.name))).collect();
        let (html, count) = (&mut self.html, self.entries.len());
        writeln!(html, "<header>\n<h1>{}</h1>\n<dl>", Escaped(about.title))?;
        if !about.replay.is_empty() {
            writeln!(html, "<dt>replay</dt><dd><code>{}</code></dd>", Escaped(about.replay))?;
        }
        writeln!(html, "<dt>devices</dt><dd>{}</dd>", names.join(", "))?;
        let plural = if count == 1 { "entry" } else { "entries" };
        writeln!(html, "<dt>run</dt><dd>{count} {plural} in {}, hash <code>{:016x}</code></dd>", words::span(times), about.hash)?;
        self.notices()?;
        self.html.push_str("</dl>\n<div class=\"bar\">\n<span class=\"kinds\">show");
        for (kind, name) in Kind::ALL {
            write!(self.html, " <label><input type=\"checkbox\" checked value=\"{}\">{name}</label>", kind.word())?;
        }
        self.html.push_str("</span>\n<span><button id=\"unfold\">unfold all</button> <button id=\"fold\">fold all</button></span>\n");
        self.html
            .push_str("<span><button id=\"less\" title=\"smaller\">−</button> <button id=\"more\" title=\"larger\">+</button></span>\n");
        self.html.push_str(LEGEND);
        self.html.push_str("</div>\n</header>\n");
        Ok(())
    }

    /// What is not on the page, and where to look first.
    fn notices(&mut self) -> fmt::Result {
        let left = self.rows.iter().map(|row| if let Body::LeftOut(marks) = row.body { marks } else { 0 }).sum::<usize>();
        if left > 0 {
            writeln!(self.html, "<dt>left out</dt><dd class=\"bad\">{left} of what happened, where the chart says so</dd>")?;
        }
        let loud = |(number, row): (usize, &Row)| row.body.mark().filter(|mark| mark.is(Tone::Loud)).map(|mark| (number, mark.clone()));
        let moments: Vec<(usize, Mark)> = self.rows.iter().enumerate().filter_map(loud).collect();
        if moments.is_empty() {
            return Ok(());
        }
        self.html.push_str("<dt>faults</dt><dd class=\"moments\">");
        for (row, mark) in moments.iter().take(MOMENTS) {
            let who = mark.dev.and_then(|dev| self.lanes.get(dev)).map_or("", |lane| &lane.name);
            let (time, name) = (words::clock(mark.at), format!("{who} {}{}", mark.words.name, mark.words.detail));
            write!(self.html, "<a href=\"#row{row}\" title=\"{0}\"><i>{time}</i> {0}</a> ", Escaped(name.trim()))?;
        }
        if moments.len() > MOMENTS {
            write!(self.html, "and {} more", moments.len() - MOMENTS)?;
        }
        self.html.push_str("</dd>\n");
        Ok(())
    }

    // The picture behind the rows.

    fn picture(&mut self) -> fmt::Result {
        let height = self.tops.last().copied().unwrap_or(0);
        write!(self.html, "<svg width=\"{}\" height=\"{height}\" aria-hidden=\"true\"><defs>", self.width())?;
        for style in ["pair", "link", "control", "manifest", "bulk", "conn", "lost"] {
            let shape = if style == "lost" { "M2 2 8 8M8 2 2 8" } else { "M1 1 9 5 1 9z" };
            write!(
                self.html,
                "<marker id=\"to-{style}\" class=\"{style}\" viewBox=\"0 0 10 10\" refX=\"{}\" refY=\"5\" markerWidth=\"9\" markerHeight=\"9\" \
                 markerUnits=\"userSpaceOnUse\" orient=\"auto\"><path d=\"{shape}\"/></marker>",
                if style == "lost" { 5 } else { 9 }
            )?;
        }
        self.html.push_str("</defs>\n");
        let all = self.rows.len();
        for number in 0..self.lanes.len() {
            self.line("lane", Self::lane(number), (0, all, height))?;
        }
        for While { dev, state, from, to } in marks::whiles(self.entries) {
            let (from, to) = (self.shown(from), self.shown(to));
            let style = if state == State::Down { "down" } else { "session" };
            self.line(style, Self::lane(dev), (from, to, self.middle(to)))?;
        }
        for number in 0..all {
            self.arrow(number)?;
        }
        self.html.push_str("</svg>\n");
        Ok(())
    }

    /// The first row of an entry, or of what follows it.
    fn row_of(&self, entry: usize) -> usize {
        self.rows.partition_point(|row| row.entry < entry)
    }

    /// The row in which an entry is, and not the gap above it.
    fn shown(&self, entry: usize) -> usize {
        let row = self.row_of(entry);
        row + usize::from(matches!(self.rows.get(row), Some(Row { body: Body::Gap(_), .. })))
    }

    fn middle(&self, row: usize) -> usize {
        self.tops[row] + if row < self.rows.len() { ROW / 2 } else { 0 }
    }

    /// A line downwards along a lane.
    fn line(&mut self, style: &str, x: usize, (from, to, bottom): (usize, usize, usize)) -> fmt::Result {
        let top = if style == "lane" { 0 } else { self.middle(from) };
        writeln!(
            self.html,
            "<line class=\"{style}\" data-a=\"{from}\" data-b=\"{to}\" x1=\"{x}\" y1=\"{top}\" x2=\"{x}\" y2=\"{bottom}\"/>"
        )
    }

    /// What goes from one lane to another: it leaves at the lower edge of its row, and ends above the row before which it arrived.
    fn arrow(&mut self, number: usize) -> fmt::Result {
        let row = &self.rows[number];
        let Some((mark, Arrow { to, fate, .. })) = row.body.mark().and_then(|mark| Some((mark, mark.arrow?))) else { return Ok(()) };
        let Some(from) = mark.dev else { return Ok(()) };
        let (x1, mut x2) = (Self::lane(from), Self::lane(to));
        if x1 == x2 {
            // To itself: a little way out.
            x2 += 40;
        }
        let toward = |x: usize, part: usize| if x > x1 { x1 + (x - x1) * part / 100 } else { x1 - (x1 - x) * part / 100 };
        let style = if matches!(fate, Fate::Arrived { .. }) { style(mark) } else { "lost" };
        let (end, x2, head) = match fate {
            Fate::Arrived { entry, .. } if !matches!(row.body, Body::Many { .. }) => (self.row_of(entry).max(number + 1), x2, style),
            Fate::Arrived { .. } => (number + 1, x2, style),
            Fate::Torn(_) => (number + 1, toward(x2, 75), "lost"),
            Fate::Lost => (number + 1, toward(x2, 50), "lost"),
        };
        let many = if matches!(row.body, Body::Many { times: 2.., .. }) { " many" } else { "" };
        let hidden = if row.inside.is_some() { " hidden" } else { "" };
        // The script has the same two sums.
        let y1 = self.tops[number] + ROW - 4;
        let y2 = self.tops[end].max(self.tops[number] + ROW) - 1;
        writeln!(
            self.html,
            "<line class=\"arrow {style}{many}\" data-a=\"{number}\" data-b=\"{end}\" x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\" \
             marker-end=\"url(#to-{head})\"{hidden}/>"
        )
    }

    // Rows.

    fn row(&mut self, number: usize) -> fmt::Result {
        let row = self.rows[number].clone();
        let kind = row.body.mark().map_or("", |mark| mark.words.kind.word());
        let mut class = match &row.body {
            Body::Gap(_) => "row gap".to_owned(),
            Body::LeftOut(_) => "row left".to_owned(),
            Body::One(mark) | Body::Many { mark, .. } => format!("row {kind} {}", tone(mark)),
        };
        if let Body::Many { times, .. } = row.body {
            class.push_str(if times > 1 { " sum many" } else { " sum" });
        }
        write!(self.html, "<div class=\"{class}\" id=\"row{number}\" data-k=\"{kind}\" data-t=\"{}\" data-u=\"{}\"", row.at, row.until)?;
        if let Some(fold) = row.inside {
            write!(self.html, " data-in=\"{fold}\" hidden")?;
        }
        if let Body::Many { fold, .. } = row.body {
            write!(self.html, " data-fold=\"{fold}\"")?;
        }
        self.html.push('>');
        let said = row.body.text();
        let Some(mark) = row.body.mark() else {
            return writeln!(self.html, "<span>{}</span></div>", Escaped(&said));
        };
        write!(self.html, "<time>{}</time>", words::clock(row.at))?;
        self.label(&row, mark, &said)?;
        self.html.push_str("</div>\n");
        Ok(())
    }

    fn label(&mut self, row: &Row, mark: &Mark, said: &str) -> fmt::Result {
        let long = match &row.body {
            Body::Many { .. } => format!("{said}, from {} to {} – a click unfolds them", words::clock(row.at), words::clock(row.until)),
            _ => {
                let what = self.entries[mark.entry].what.to_string();
                let who = mark.dev.and_then(|dev| self.lanes.get(dev)).map_or("world", |lane| &lane.name);
                format!("{} µs, {who}: {}", row.at, what.chars().take(LONG).collect::<String>())
            }
        };
        let long = match mark.arrow {
            Some(Arrow { fate: Fate::Arrived { at, .. }, .. }) if at > mark.at && !matches!(row.body, Body::Many { .. }) => {
                format!("{long} – arrives {} later, at {at} µs", words::span(at - mark.at))
            }
            _ => long,
        };
        let (said, long) = (Escaped(said), Escaped(&long));
        let Some(dev) = mark.dev else {
            return write!(self.html, "<span class=\"wide\" title=\"{long}\">{said}</span>");
        };
        let place = match mark.arrow {
            None => 'e',
            Some(arrow) if arrow.to >= dev => 'r',
            Some(_) => 'l',
        };
        let style = if mark.arrow.is_some() { style(mark) } else { "" };
        let dot = if mark.arrow.is_none() { format!("<i class=\"dot p{dev}\"></i>") } else { String::new() };
        write!(self.html, "{dot}<span class=\"label {style} {place}{dev}\" title=\"{long}\">{said}</span>")
    }
}

const fn tone(mark: &Mark) -> &'static str {
    match mark.words.tone {
        Tone::Minor => "minor",
        Tone::Plain => "plain",
        Tone::Good => "good",
        Tone::Bad => "bad",
        Tone::Loud => "loud",
    }
}

/// The colour of an arrow: what part of the protocol a message belongs to.
fn style(mark: &Mark) -> &'static str {
    match mark.words.name.as_str() {
        "PairingRequest" | "Challenge" | "Response" | "Complete" | "header + Ack" | "header + Refuse" | "preamble kin-pair/1" => "pair",
        "Hello" | "Accept" | "Finish + header + Ack" | "preamble kin-link/1" => "link",
        "manifest pages" => "manifest",
        "chunk" => "bulk",
        "connection" => "conn",
        _ => "control",
    }
}

const LEGEND: &str = "<details><summary>how to read this</summary><ul>
<li>Time runs downwards, in virtual seconds. Where nothing happens it is folded, and the chart says for how long.
<li>A device’s line is <b class=\"session\">thick</b> while it has a session, <b class=\"down\">dotted</b> between a crash and the next start.
<li>Arrows end where a message arrives, above all that happened after. A <b class=\"bad\">×</b> in the middle: it did not arrive, or not all of it.
<li>Colours: <b class=\"pair\">pairing</b>, <b class=\"link\">reconnect</b>, <b class=\"control\">records and data streams</b>, <b class=\"manifest\">manifest</b>, \
<b class=\"bulk\">chunks</b>, <b class=\"conn\">connection</b>.
<li>Messages are sealed: their names follow from their place on their stream, as long as the sender keeps to the protocol.
<li>“12 ×” stands for twelve that are alike. A click unfolds them; a click on anything else shows all that is known of it.
</ul></details>
";
