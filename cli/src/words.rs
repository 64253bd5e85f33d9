//! The code on the screen and under the fingers: numbered words and a QR code, a prompt that completes and corrects.

use std::fmt::Write as _;

use protocol_core::pairing::code::{CodeError, PairingCode, Repair, complete, repairs};
use qrcode::{Color, EcLevel, QrCode};
use rustyline::completion::Completer;
use rustyline::config::CompletionType;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{Config, Context, Editor, Helper};

use crate::exit::{Exit, Outcome, Problem};
use crate::output::quoted;

/// Letters that tell every word of the list apart.
const ENOUGH: usize = 4;
/// Modules of white around a QR code.
const MARGIN: usize = 4;
/// Words in a row of the numbered list.
const ROW: usize = 4;
/// Attempts at the prompt.
const ATTEMPTS: usize = 5;

/// The words with their numbers, in rows.
pub(crate) fn numbered(words: &[&str]) -> String {
    let mut text = String::new();
    for (index, word) in words.iter().enumerate() {
        let _ = write!(text, "  {:>2} {word:<9}", index + 1);
        if index % ROW == ROW - 1 && index + 1 < words.len() {
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
    }
    text.truncate(text.trim_end().len());
    text
}

/// The words as a QR code of half blocks, black on white whatever the terminal's colours are.
///
/// Upper case, because the alphanumeric mode makes it smaller; a code may be typed in any case.
pub(crate) fn qr(words: &[&str]) -> Option<String> {
    let text = words.join(" ").to_ascii_uppercase();
    let code = QrCode::with_error_correction_level(text.as_bytes(), EcLevel::M).ok()?;
    let width = code.width();
    let side = width + 2 * MARGIN;
    let dark = |x: usize, y: usize| {
        let inside = (MARGIN..MARGIN + width).contains(&x) && (MARGIN..MARGIN + width).contains(&y);
        inside && code[(x - MARGIN, y - MARGIN)] == Color::Dark
    };
    let mut drawn = String::new();
    for y in (0..side).step_by(2) {
        drawn.push_str("\x1b[30;107m");
        for x in 0..side {
            drawn.push(match (dark(x, y), dark(x, y + 1)) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            });
        }
        drawn.push_str("\x1b[0m\n");
    }
    Some(drawn)
}

/// Reads a code that came as a whole: from a file, standard input, the environment or arguments. Nothing is repaired here.
pub(crate) fn parse(text: &str) -> Outcome<PairingCode> {
    PairingCode::parse(text).map_err(|error| {
        let mut message = explain(&error);
        let offers = repairs(text);
        if !offers.is_empty() {
            let _ = write!(message, "; {}", offered(&offers));
        }
        Problem::new(Exit::Pairing, message)
    })
}

/// What is wrong with a typed code, as a sentence.
fn explain(error: &CodeError) -> String {
    match error {
        CodeError::UnknownWord { position, word, suggestion } => {
            let like = suggestion.map_or_else(String::new, |like| format!("; did you mean {}?", quoted(like)));
            format!("word {position}, {}, is not in the list{like}", quoted(word))
        }
        CodeError::WordCount(_) | CodeError::Checksum => error.to_string(),
    }
}

fn offered(offers: &[Repair]) -> String {
    let list: Vec<String> = offers.iter().map(|offer| format!("{} as word {}", quoted(offer.word), offer.position)).collect();
    format!("it would be right with {}: compare with the other screen", list.join(", or "))
}

/// Asks for a code on the terminal until it is right. Blocks: call it on a thread that may.
///
/// # Errors
/// Interrupted, or [`ATTEMPTS`] codes that were not right.
pub(crate) fn prompt() -> Outcome<PairingCode> {
    let gone = || Problem::new(Exit::Pairing, "no code was entered");
    let config = Config::builder().completion_type(CompletionType::List).auto_add_history(false).build();
    let mut editor: Editor<Words, DefaultHistory> = Editor::with_config(config).map_err(|_| gone())?;
    editor.set_helper(Some(Words));
    let mut typed = String::new();
    for _ in 0..ATTEMPTS {
        typed = editor.readline_with_initial("Code: ", (&typed, "")).map_err(|error| match error {
            ReadlineError::Interrupted => Problem::new(Exit::Interrupt, "interrupted"),
            _ => gone(),
        })?;
        match PairingCode::parse(&typed) {
            Ok(code) => return Ok(code),
            Err(error) => eprintln!("Not yet: {}", explain(&error)),
        }
        for offer in repairs(&typed) {
            let question = format!("Is word {} {} on the other screen? [y/N] ", offer.position, quoted(offer.word));
            match editor.readline(&question) {
                Ok(answer) if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") => return Ok(offer.code),
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
    Err(Problem::new(Exit::Pairing, format!("{ATTEMPTS} codes were not right; nothing was sent")).next("kin pair  (on the other device)"))
}

/// Completion and hints for the prompt.
#[derive(Debug)]
struct Words;

/// Where the word under the cursor begins, and the word in lower case.
fn current(line: &str, position: usize) -> (usize, String) {
    let before = line.get(..position).unwrap_or(line);
    let start = before
        .rfind(|c: char| c.is_whitespace() || matches!(c, '-' | ','))
        .map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
    (start, before[start..].to_lowercase())
}

impl Completer for Words {
    type Candidate = String;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let (start, prefix) = current(line, position);
        if prefix.is_empty() {
            return Ok((start, Vec::new()));
        }
        let found: Vec<String> = complete(&prefix).map(|word| format!("{word} ")).collect();
        Ok((start, found))
    }
}

impl Hinter for Words {
    type Hint = String;

    /// The rest of the word, once four letters made it certain.
    fn hint(&self, line: &str, position: usize, _: &Context<'_>) -> Option<String> {
        if position < line.len() {
            return None;
        }
        let (_, prefix) = current(line, position);
        if prefix.len() < ENOUGH {
            return None;
        }
        complete(&prefix).next().and_then(|word| word.get(prefix.len()..)).filter(|rest| !rest.is_empty()).map(str::to_owned)
    }
}

impl Highlighter for Words {}
impl Validator for Words {}
impl Helper for Words {}

#[cfg(test)]
mod tests {
    use rustyline::history::History;

    use super::*;

    const RIGHT: &str = "legal winner thank year wave sausage worth useful legal winner thank yellow";

    #[test]
    fn words_are_read_however_they_are_typed() {
        let words = parse(RIGHT).unwrap().words();
        assert_eq!(words.join(" "), RIGHT);
        for same in [
            "LEGAL WINNER THANK YEAR WAVE SAUSAGE WORTH USEFUL LEGAL WINNER THANK YELLOW",
            " lega winn than year wave saus wort usef lega winn than yell\n",
            "legal-winner-thank-year,wave, sausage\tworth useful\nlegal winner thank yellow",
        ] {
            assert_eq!(parse(same).unwrap().words(), words, "{same:?}");
        }
    }

    #[test]
    fn a_misspelt_word_is_named_with_its_position_and_a_suggestion() {
        let typed = RIGHT.replacen("sausage", "sausgae", 1);
        let problem = parse(&typed).unwrap_err();
        assert_eq!(problem.exit, Exit::Pairing);
        assert!(problem.message.contains("word 6") && problem.message.contains("did you mean \"sausage\"?"), "{}", problem.message);
    }

    #[test]
    fn a_wrong_word_of_the_list_is_offered_and_not_applied() {
        let typed = RIGHT.replacen("winner", "winter", 1);
        let problem = parse(&typed).unwrap_err();
        assert!(problem.message.contains("do not fit together"), "{}", problem.message);
        assert!(problem.message.contains("\"winner\" as word 2"), "{}", problem.message);
    }

    #[test]
    fn too_few_words_are_counted() {
        assert!(parse("legal winner thank").unwrap_err().message.contains('3'));
        assert!(parse("").unwrap_err().exit == Exit::Pairing);
    }

    #[test]
    fn what_was_typed_is_escaped_when_it_is_repeated() {
        let typed = RIGHT.replacen("sausage", "sau\x1b[2Jsage", 1);
        assert!(!parse(&typed).unwrap_err().message.contains('\x1b'));
    }

    #[test]
    fn completion_begins_at_the_word_under_the_cursor() {
        let history = DefaultHistory::new();
        assert_eq!(history.len(), 0);
        let context = Context::new(&history);
        assert_eq!(Words.complete("legal winn", 10, &context).unwrap(), (6, vec!["winner ".to_owned()]));
        assert_eq!(Words.complete("legal-Winn", 10, &context).unwrap(), (6, vec!["winner ".to_owned()]));
        assert_eq!(Words.complete("legal ", 6, &context).unwrap().1.len(), 0);
        assert!(Words.complete("le", 2, &context).unwrap().1.len() > 5);
        assert_eq!(Words.hint("legal winn", 10, &context).as_deref(), Some("er"));
        assert_eq!(Words.hint("legal win", 9, &context), None);
        assert_eq!(Words.hint("legal winner", 12, &context), None);
    }

    #[test]
    fn four_letters_complete_to_one_word() {
        let all: Vec<&str> = complete("").collect();
        assert_eq!(all.len(), 2048);
        for word in all.into_iter().filter(|word| word.len() >= ENOUGH) {
            let prefix: String = word.chars().take(ENOUGH).collect();
            assert_eq!(complete(&prefix).count(), 1, "{prefix}");
        }
    }

    #[test]
    fn words_are_numbered_in_rows() {
        let words: Vec<&str> = RIGHT.split(' ').collect();
        let text = numbered(&words);
        assert_eq!(text.lines().count(), 3);
        assert!(text.starts_with("   1 legal"));
        assert!(text.ends_with("12 yellow"));
    }

    #[test]
    fn the_qr_code_has_its_margin_and_explicit_colours() {
        let words: Vec<&str> = RIGHT.split(' ').collect();
        let drawn = qr(&words).unwrap();
        let lines: Vec<&str> = drawn.lines().collect();
        for line in &lines {
            assert!(line.starts_with("\x1b[30;107m") && line.ends_with("\x1b[0m"));
            let cells: Vec<char> = line.trim_start_matches("\x1b[30;107m").trim_end_matches("\x1b[0m").chars().collect();
            assert_eq!(cells.len(), 41);
            assert!(cells[..MARGIN].iter().chain(&cells[41 - MARGIN..]).all(|cell| *cell == ' '));
        }
        assert_eq!(lines.len(), 21);
    }
}
