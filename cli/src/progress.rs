//! Progress as people and scripts see it: by what is durable at the receiver, and never above 100 %.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::args::ProgressMode;
use crate::events::Event;
use crate::output::{Output, rate, size};

/// Rates are averages over this long.
const WINDOW: Duration = Duration::from_secs(5);
/// Events and bars are renewed at most this often.
const EVENT_EVERY: Duration = Duration::from_millis(100);
/// Plain lines are written at most this often.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// The arithmetic: what is durable, how fast, how long still.
#[derive(Debug)]
pub(crate) struct Meter {
    total: u64,
    durable: u64,
    moved: u64,
    window: VecDeque<(Instant, u64)>,
}

impl Meter {
    pub(crate) fn new(total: u64, now: Instant) -> Self {
        Self { total, durable: 0, moved: 0, window: VecDeque::from([(now, 0)]) }
    }

    /// Takes a report. Whatever it says, nothing goes back, and nothing passes the total.
    pub(crate) fn update(&mut self, now: Instant, moved: u64, durable: u64) {
        self.durable = self.durable.max(durable.min(self.total));
        self.moved = self.moved.max(moved.min(self.total)).max(self.durable);
        self.window.push_back((now, self.durable));
        // The oldest sample stays until another one covers the window.
        while self.window.len() > 2 && self.window.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= WINDOW) {
            self.window.pop_front();
        }
    }

    /// Durable bytes a second over the window; 0 while there is nothing to go by.
    pub(crate) fn rate(&self) -> u64 {
        let (Some((from, start)), Some((to, end))) = (self.window.front(), self.window.back()) else { return 0 };
        let micros = to.duration_since(*from).as_micros();
        let bytes = u128::from(end - start) * 1_000_000;
        bytes.checked_div(micros).map_or(0, |rate| u64::try_from(rate).unwrap_or(u64::MAX))
    }

    /// Seconds left at this rate.
    pub(crate) fn eta_s(&self) -> Option<u64> {
        match self.rate() {
            0 => None,
            rate => Some((self.total - self.durable).div_ceil(rate)),
        }
    }

    /// 0 to 100; 100 only when everything is durable.
    pub(crate) fn percent(&self) -> u64 {
        if self.total == 0 { 100 } else { (u128::from(self.durable) * 100 / u128::from(self.total)) as u64 }
    }

    fn line(&self) -> String {
        let left = self.eta_s().map_or_else(String::new, |seconds| format!("  {seconds} s left"));
        format!("{:>3} %  {} / {}  {}{left}", self.percent(), size(self.durable), size(self.total), rate(self.rate()))
    }
}

/// A transfer's progress on the screen and in the events.
pub(crate) struct Progress<'a> {
    out: &'a Output,
    id: String,
    meter: Meter,
    files_total: u64,
    files_done: u64,
    bar: Option<ProgressBar>,
    shown_at: Option<Instant>,
}

impl<'a> Progress<'a> {
    pub(crate) fn new(out: &'a Output, id: String, total: u64, files_total: u64) -> Self {
        let bar = (out.progress == ProgressMode::Bar && !out.json).then(|| {
            let bar = out.draw(ProgressBar::new(total.max(1)));
            if let Ok(style) = ProgressStyle::with_template(" {bar:24} {msg}") {
                bar.set_style(style.progress_chars("█▌░"));
            }
            bar
        });
        Self { out, id, meter: Meter::new(total, Instant::now()), files_total, files_done: 0, bar, shown_at: None }
    }

    /// A report of the core.
    pub(crate) fn update(&mut self, moved: u64, durable: u64) {
        let now = Instant::now();
        self.meter.update(now, moved, durable);
        let every = if self.out.json || self.bar.is_some() { EVENT_EVERY } else { LINE_EVERY };
        if self.shown_at.is_none_or(|at| now.duration_since(at) >= every) {
            self.shown_at = Some(now);
            self.show();
        }
    }

    pub(crate) fn file_done(&mut self) {
        self.files_done = (self.files_done + 1).min(self.files_total);
    }

    /// The transfer is over, and `durable` bytes of it arrived: one last event, and the bar goes.
    pub(crate) fn finish(mut self, durable: Option<u64>) {
        if let Some(durable) = durable {
            self.meter.update(Instant::now(), durable, durable);
            if self.out.json {
                self.show();
            }
        }
    }

    fn show(&self) {
        let meter = &self.meter;
        self.out.event(&Event::Progress {
            id: self.id.clone(),
            bytes_sent: meter.moved,
            bytes_durable: meter.durable,
            bytes_total: meter.total,
            files_done: self.files_done,
            files_total: self.files_total,
            rate: meter.rate(),
            eta_s: meter.eta_s(),
        });
        match (&self.bar, self.out.progress) {
            (Some(bar), _) => {
                bar.set_position(meter.durable);
                bar.set_message(meter.line());
            }
            (None, ProgressMode::Plain) => self.out.say(&meter.line()),
            (None, ProgressMode::Auto | ProgressMode::Bar | ProgressMode::None) => {}
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            self.out.draw_no_more(bar);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_above_a_hundred_and_never_back() {
        let start = Instant::now();
        let mut meter = Meter::new(1000, start);
        let reports = [(10, 5), (2000, 400), (500, 300), (0, 0), (u64::MAX, 5000), (1, 1)];
        let mut last = 0;
        for (step, (moved, durable)) in reports.into_iter().enumerate() {
            meter.update(start + Duration::from_millis(100 * step as u64), moved, durable);
            assert!(meter.percent() <= 100 && meter.durable <= 1000 && meter.moved <= 1000);
            assert!(meter.durable >= last && meter.moved >= meter.durable);
            last = meter.durable;
        }
        assert_eq!(meter.percent(), 100);
    }

    #[test]
    fn a_hundred_only_when_everything_is_there() {
        let start = Instant::now();
        let mut meter = Meter::new(1 << 50, start);
        meter.update(start, (1 << 50) - 1, (1 << 50) - 1);
        assert_eq!(meter.percent(), 99);
        assert_eq!(Meter::new(0, start).percent(), 100);
    }

    #[test]
    fn the_rate_is_that_of_the_window() {
        let start = Instant::now();
        let mut meter = Meter::new(1_000_000, start);
        assert_eq!((meter.rate(), meter.eta_s()), (0, None));
        for second in 1..=10 {
            meter.update(start + Duration::from_secs(second), second * 100, second * 100);
        }
        assert_eq!(meter.rate(), 100);
        assert_eq!(meter.eta_s(), Some(9_990));
        // A burst after a pause counts over the window, not over an instant.
        meter.update(start + Duration::from_secs(12), 11_000, 11_000);
        assert!(meter.rate() < 2_100, "{}", meter.rate());
    }
}
