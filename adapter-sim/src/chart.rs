//! A run as people read it: a sequence chart for a browser, and the same as lines for a terminal.
//!
//! Entries become marks (`marks`: one for each thing to be shown, with what came of it), marks become rows (`rows`: what
//! repeats is folded, time in which nothing happens is folded), and rows are written as a page or as lines. Messages are
//! sealed, so their names follow from their place on their stream; a device that breaks the protocol may have sent
//! something else there.

mod marks;
mod page;
mod rows;
mod story;
#[cfg(test)]
mod tests;
mod words;

use protocol_core::ids::DeviceId;

use crate::trace::Entry;
use crate::world::{Dev, World};

/// A device of a chart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// What it is called. Anything: it is escaped.
    pub name: String,
    /// What other devices call it in their events.
    pub id: DeviceId,
}

/// What a chart says at its top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About<'a> {
    /// What the run is, or what went wrong in it.
    pub title: &'a str,
    /// The command that runs it again; may be empty.
    pub replay: &'a str,
    /// The hash of the run.
    pub hash: u64,
}

/// A sequence chart: one HTML file that needs nothing else.
pub fn html(about: &About<'_>, lanes: &[Lane], entries: &[Entry]) -> String {
    page::page(about, lanes, entries)
}

/// The same as lines: time, device, what it has to do with whom, what happened.
pub fn story(lanes: &[Lane], entries: &[Entry]) -> String {
    story::story(lanes, entries)
}

impl World {
    /// The devices of this world, for [`html`] and [`story`].
    pub fn lanes(&self) -> Vec<Lane> {
        let lane = |(dev, device): (usize, &crate::world::Device)| Lane { name: device.name.clone(), id: self.id(Dev(dev)) };
        self.devices.iter().enumerate().map(lane).collect()
    }

    /// A sequence chart of what has happened so far; see [`html`].
    pub fn chart(&self, title: &str, replay: &str) -> String {
        html(&About { title, replay, hash: self.trace().hash() }, &self.lanes(), self.trace().entries())
    }

    /// What has happened so far as lines; see [`story`].
    pub fn story(&self) -> String {
        story(&self.lanes(), self.trace().entries())
    }
}
