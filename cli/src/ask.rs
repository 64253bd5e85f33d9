//! Questions. Each has a flag that answers it, a deadline, and no answer but "no" where nobody can be asked.

use std::io::{self, BufRead, IsTerminal};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::output::Output;

/// How a question ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Yes.
    Yes,
    /// Anything else that was typed.
    No,
    /// Nothing, in the time there was.
    Silence,
    /// There is nobody to ask.
    Nobody,
}

/// Reads answers from the terminal: whole lines, on a thread of its own, because a blocked read cannot be called back.
#[derive(Debug)]
pub(crate) struct Asker {
    possible: bool,
    lines: Option<mpsc::UnboundedReceiver<String>>,
}

impl Asker {
    pub(crate) fn new(no_input: bool) -> Self {
        Self { possible: !no_input && io::stdin().is_terminal(), lines: None }
    }

    /// Whether a question has a chance to be answered.
    pub(crate) const fn can_ask(&self) -> bool {
        self.possible
    }

    /// Asks for yes or no; only `y` and `yes` are yes. Cancel-safe.
    pub(crate) async fn yes(&mut self, out: &Output, question: &str, within: Duration) -> Answer {
        match self.line(out, &format!("{question} [y/N]"), within).await {
            Ok(line) if is_yes(&line) => Answer::Yes,
            Ok(_) => Answer::No,
            Err(why) => why,
        }
    }

    /// Asks for a line. `Err` is [`Answer::Silence`] or [`Answer::Nobody`]. Cancel-safe.
    pub(crate) async fn line(&mut self, out: &Output, question: &str, within: Duration) -> Result<String, Answer> {
        if !self.possible {
            return Err(Answer::Nobody);
        }
        let lines = self.lines.get_or_insert_with(spawn_reader);
        // What was typed before the question is no answer to it.
        while lines.try_recv().is_ok() {}
        out.question(question);
        match tokio::time::timeout(within, lines.recv()).await {
            Ok(Some(line)) => Ok(line),
            Ok(None) => {
                self.possible = false;
                Err(Answer::Nobody)
            }
            Err(_) => {
                out.say("");
                Err(Answer::Silence)
            }
        }
    }
}

fn is_yes(line: &str) -> bool {
    matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

fn spawn_reader() -> mpsc::UnboundedReceiver<String> {
    let (sender, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for yes in ["y", "Y", "yes", " YES \n"] {
            assert!(is_yes(yes), "{yes:?}");
        }
        for no in ["", "n", "no", "yess", "j", "1", "true", "sure"] {
            assert!(!is_yes(no), "{no:?}");
        }
    }

    #[test]
    fn without_input_nobody_is_asked() {
        assert!(!Asker::new(true).can_ask());
    }
}
