//! Two channels: standard output carries results (or, with `--json`, events), standard error carries words for people.
//! Whatever a peer wrote passes through [`shown`] before a person sees it.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use indicatif::{MultiProgress, ProgressBar};

use crate::args::{Global, ProgressMode};
use crate::events::{Event, WarningCode};
use crate::exit::Problem;

/// Where the program's lines go.
pub(crate) struct Output {
    /// Events on standard output, and nothing else there.
    pub(crate) json: bool,
    /// Errors only.
    pub(crate) quiet: bool,
    /// Standard output carries a file: results go where words go.
    piped: bool,
    /// How progress is shown.
    pub(crate) progress: ProgressMode,
    /// Standard error is a terminal that may be drawn on.
    pub(crate) terminal: bool,
    /// Colours are welcome there.
    colour: bool,
    /// What is drawn at the moment, and steps aside for a line.
    bars: MultiProgress,
    /// How many there are.
    drawn: AtomicUsize,
}

impl Output {
    pub(crate) fn new(global: &Global, piped: bool) -> Self {
        let terminal = io::stderr().is_terminal();
        let progress = match global.progress {
            ProgressMode::Auto if global.json || global.quiet => ProgressMode::None,
            ProgressMode::Auto if terminal => ProgressMode::Bar,
            ProgressMode::Auto => ProgressMode::None,
            chosen => chosen,
        };
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            json: global.json,
            quiet: global.quiet,
            piped,
            progress,
            terminal,
            colour,
            bars: MultiProgress::new(),
            drawn: AtomicUsize::new(0),
        }
    }

    /// For a command line that could not even be read.
    pub(crate) fn events_only() -> Self {
        Self {
            json: true,
            quiet: true,
            piped: false,
            progress: ProgressMode::None,
            terminal: false,
            colour: false,
            bars: MultiProgress::new(),
            drawn: AtomicUsize::new(0),
        }
    }

    /// An event, with `--json`.
    pub(crate) fn event(&self, event: &Event) {
        if self.json
            && let Ok(line) = serde_json::to_string(event)
        {
            self.stdout(&line);
        }
    }

    /// An event of another process of this program, with `--json`.
    pub(crate) fn forward(&self, event: &serde_json::Value) {
        if self.json {
            self.stdout(&event.to_string());
        }
    }

    /// A result, without `--json`.
    pub(crate) fn result(&self, line: &str) {
        if self.piped {
            self.say(line);
        } else if !self.json {
            self.stdout(line);
        }
    }

    /// Words for people, without `--json` and `--quiet`.
    pub(crate) fn say(&self, line: &str) {
        if !self.json && !self.quiet {
            self.stderr(line);
        }
    }

    /// A question: shown whenever somebody can be asked, without the line's end, unless something is drawn below.
    pub(crate) fn question(&self, text: &str) {
        self.beside_bar(|| {
            let mut stderr = io::stderr().lock();
            // A person who closed the terminal cannot answer either: the deadline decides.
            let end = if self.drawn.load(Ordering::Relaxed) > 0 { "\n" } else { " " };
            drop(write!(stderr, "{text}{end}").and_then(|()| stderr.flush()));
        });
    }

    pub(crate) fn warning(&self, code: WarningCode, message: &str) {
        self.event(&Event::Warning { code, message: message.to_owned() });
        let label = self.paint("33", "warning:");
        self.say(&format!("{label} {message}"));
    }

    /// The last words of a run that failed.
    pub(crate) fn problem(&self, problem: &Problem) {
        self.problem_event(problem);
        let label = self.paint("31", "kin:");
        let mut text = format!("{label} {}", problem.message);
        if let Some(next) = &problem.next {
            let _ = write!(text, "\n     next:  {next}");
        }
        self.stderr(&text);
    }

    /// The event of [`Output::problem`].
    pub(crate) fn problem_event(&self, problem: &Problem) {
        let exit = problem.exit;
        self.event(&Event::Error {
            code: exit.code(),
            message: problem.message.clone(),
            retryable: exit.retryable(),
            next_command: problem.next.clone(),
        });
    }

    /// Draws `bar`, below those that are drawn already; lines appear above it.
    pub(crate) fn draw(&self, bar: ProgressBar) -> ProgressBar {
        self.drawn.fetch_add(1, Ordering::Relaxed);
        self.bars.add(bar)
    }

    /// Draws it no more.
    pub(crate) fn draw_no_more(&self, bar: &ProgressBar) {
        if bar.is_finished() {
            return;
        }
        bar.finish_and_clear();
        self.bars.remove(bar);
        self.drawn.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    fn paint(&self, style: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }

    // A reader that went away must not end a transfer: what cannot be written is dropped.
    fn stdout(&self, line: &str) {
        self.beside_bar(|| {
            let mut stdout = io::stdout().lock();
            drop(writeln!(stdout, "{line}").and_then(|()| stdout.flush()));
        });
    }

    fn stderr(&self, line: &str) {
        self.beside_bar(|| {
            drop(writeln!(io::stderr().lock(), "{line}"));
        });
    }

    fn beside_bar(&self, write: impl FnOnce()) {
        if self.drawn.load(Ordering::Relaxed) > 0 { self.bars.suspend(write) } else { write() }
    }
}

/// `text` as it may be shown: what moves the cursor, hides, or turns the direction of writing is spelled out.
// PATH-10.
pub(crate) fn shown(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if hides(character) {
            let _ = write!(safe, "{}", character.escape_unicode());
        } else if character == '\\' {
            safe.push_str("\\\\");
        } else {
            safe.push(character);
        }
    }
    safe
}

/// `text` in quotation marks, so that its end cannot be faked.
pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", shown(text).replace('"', "\\\""))
}

/// A path of bytes as it may be shown: [`shown`], and `\xff` for bytes that are not UTF-8.
pub(crate) fn shown_path(path: &[u8]) -> String {
    let mut safe = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        safe.push_str(&shown(chunk.valid()));
        for byte in chunk.invalid() {
            let _ = write!(safe, "\\x{byte:02x}");
        }
    }
    safe
}

/// Whether nobody sees a character, or sees it move others.
pub(crate) fn hides(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// A number of bytes for people: `3.1 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

/// A rate for people: `412 MB/s`.
pub(crate) fn rate(bytes_a_second: u64) -> String {
    let (unit, name) = match bytes_a_second {
        0..1_000 => (1, "B/s"),
        1_000..1_000_000 => (1_000, "kB/s"),
        1_000_000..10_000_000_000 => (1_000_000, "MB/s"),
        _ => (1_000_000_000, "GB/s"),
    };
    format!("{} {name}", bytes_a_second / unit)
}

/// A count for people, in groups of three: `1 204`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

/// A duration for people: `9:58` below an hour.
pub(crate) fn clock(seconds: u64) -> String {
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// `files` with its noun.
pub(crate) fn files(number: u64) -> String {
    format!("{} {}", count(number), if number == 1 { "file" } else { "files" })
}

/// An argument as a shell takes it back.
pub(crate) fn shell_word(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/' | b':' | b'@' | b'=' | b'+' | b',');
    if !text.is_empty() && text.bytes().all(plain) { text.to_owned() } else { format!("'{}'", shown(text).replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    // PATH-10.
    fn what_a_peer_wrote_cannot_move_the_cursor_or_hide() {
        let table = [
            ("plain Ä ß 日本 🙂", "plain Ä ß 日本 🙂"),
            ("a\x1b[2Jb", "a\\u{1b}[2Jb"),
            ("line\nfeed\r\t", "line\\u{a}feed\\u{d}\\u{9}"),
            ("exe\u{202e}gpj", "exe\\u{202e}gpj"),
            ("\u{200b}\u{feff}\u{2066}", "\\u{200b}\\u{feff}\\u{2066}"),
            ("\u{e0041}\u{fe0f}", "\\u{e0041}\\u{fe0f}"),
            ("\u{9b}2J", "\\u{9b}2J"),
            ("\\u{a}", "\\\\u{a}"),
        ];
        for (raw, safe) in table {
            assert_eq!(shown(raw), safe, "{raw:?}");
        }
    }

    #[test]
    fn no_control_character_survives() {
        for character in (0..=0x10_ffff).filter_map(char::from_u32).filter(|character| character.is_control()) {
            assert!(shown(&character.to_string()).starts_with("\\u{"), "{character:?}");
        }
    }

    #[test]
    fn a_quoted_name_cannot_fake_its_end() {
        assert_eq!(quoted("x\" (verified) \""), "\"x\\\" (verified) \\\"\"");
    }

    #[test]
    fn paths_show_every_byte() {
        assert_eq!(shown_path(b"a\xff\nb/\xc3\xa4"), "a\\xff\\u{a}b/ä");
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_204_567), "1\u{202f}204\u{202f}567");
        assert_eq!(rate(412_345_678), "412 MB/s");
        assert_eq!(rate(12), "12 B/s");
        assert_eq!(clock(598), "9:58");
        assert_eq!(size(3 << 30), "3.0 GiB");
        assert_eq!(files(1), "1 file");
    }

    #[test]
    fn shell_words_are_taken_back_as_they_were() {
        assert_eq!(shell_word("laptop-b"), "laptop-b");
        assert_eq!(shell_word("my laptop"), "'my laptop'");
        assert_eq!(shell_word("it's"), "'it'\\''s'");
        assert_eq!(shell_word(""), "''");
    }
}
