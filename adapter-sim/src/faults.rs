//! Faults of a world: what tests and scripts have happen to devices, their hosts and the network between them, and their end.

use std::time::Duration;

use protocol_core::effects::{Fact, Input};
use protocol_core::faults::Failure;

use crate::link::Conn;
use crate::rules::{DialFault, DiskFault, Rule, StoreFault};
use crate::storage::DISK;
use crate::world::{Act, Answer, Dev, Pieces, World};

impl World {
    /// Faults of hosts end: disks, clocks, sleep, addresses that somebody took over.
    pub(crate) fn heal_hosts(&mut self) {
        // A crash that waits for its moment comes now: what it was to interrupt would be answered by nobody.
        let crashes: Vec<_> = self.queue.extract_if(.., |_, act| matches!(**act, Act::Crash { .. })).collect();
        for (_, act) in crashes {
            self.act(*act);
        }
        // First what waits for sleepers: it came before everything that is still on its way to them.
        for dev in (0..self.devices.len()).map(Dev) {
            self.devices[dev.0].asleep_until = 0;
            self.wake(dev);
        }
        self.let_go();
        self.mend_lookup();
        self.undialable_until = 0;
        for device in &mut self.devices {
            device.dial_faults.clear();
            device.open_faults.clear();
            device.disk_faults.clear();
            device.random.fails.clear();
            device.slow_disk = 0;
            device.resolution = 1;
            device.disk.heal();
        }
        for dev in (0..self.devices.len()).map(Dev) {
            let last = self.devices[dev.0].places.len().saturating_sub(1);
            self.devices[dev.0].places.drain(..last);
            if last > 0 {
                // Whoever came by an address that is gone is cut off with it.
                self.cut_all(dev);
            }
        }
        self.quicken_disks();
    }

    /// What disks that were slow still have to do is done soon, in its order.
    fn quicken_disks(&mut self) {
        let later = self.queue.split_off(&(self.now + 1, 0));
        for ((at, number), act) in later {
            match *act {
                Act::Durable { .. } | Act::Files { .. } | Act::Tell { input: Input::Done { result: Err(Failure::Disk(_)), .. }, .. } => {
                    self.after(DISK, *act);
                }
                _ => drop(self.queue.insert((at, number), act)),
            }
        }
        for device in &mut self.devices {
            device.store_busy = device.store_busy.min(self.now + DISK);
            device.disk_busy = device.disk_busy.min(self.now + DISK);
        }
    }

    /// Adds a fault of streams.
    pub fn rule(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    /// Bytes for rules that put something in; their number.
    pub fn material(&mut self, bytes: &[u8]) -> usize {
        self.material.push(bytes.to_vec());
        self.material.len() - 1
    }

    /// Forgets the faults that have not fired.
    pub fn clear_rules(&mut self) {
        self.rules.clear();
        for device in &mut self.devices {
            device.store_faults.clear();
        }
    }

    /// The `number`th write that a device asks for from now on (from 1) meets this fault.
    pub fn fault_store(&mut self, dev: Dev, number: u32, fault: StoreFault) {
        let device = &mut self.devices[dev.0];
        device.store_faults.push((device.persists + number, fault));
    }

    /// The `number`th dial that a device asks for from now on (from 1) meets this fault.
    pub fn fault_dial(&mut self, dev: Dev, number: u32, fault: DialFault) {
        let device = &mut self.devices[dev.0];
        device.dial_faults.push((device.asked.dials + number, fault));
    }

    /// The `number`th stream that a device opens from now on (from 1) is not to be had.
    pub fn fault_open(&mut self, dev: Dev, number: u32) {
        let device = &mut self.devices[dev.0];
        device.open_faults.push(device.asked.opens + number);
    }

    /// The `number`th operation on files that a device asks for from now on (from 1) meets this fault.
    pub fn fault_disk(&mut self, dev: Dev, number: u32, fault: DiskFault) {
        let device = &mut self.devices[dev.0];
        device.disk_faults.push((device.asked.files + number, fault));
    }

    /// The `number`th draw of random bytes of a device from now on (from 1) fails.
    pub fn fault_entropy(&mut self, dev: Dev, number: u32) {
        let source = &mut self.devices[dev.0].random;
        source.fails.push(source.calls + number);
    }

    /// Files and writes of a device take this much longer.
    pub const fn slow_disk(&mut self, dev: Dev, by: Duration) {
        self.devices.as_mut_slice()[dev.0].slow_disk = by.as_micros() as u64;
    }

    /// The device's monotonic clock goes in steps of this length.
    pub const fn set_resolution(&mut self, dev: Dev, resolution: Duration) {
        let micros = resolution.as_micros() as u64;
        self.devices.as_mut_slice()[dev.0].resolution = if micros == 0 { 1 } else { micros };
    }

    /// Nothing happens in a device for this long; what comes meanwhile waits.
    pub fn sleep(&mut self, dev: Dev, time: Duration) {
        let until = self.now + time.as_micros() as u64;
        self.devices[dev.0].asleep_until = until;
        self.at(until, Act::Wake { dev });
    }

    /// A device that has slept long enough hears what it missed, before what comes to it now.
    pub(crate) fn wake(&mut self, dev: Dev) {
        if self.devices[dev.0].asleep_until <= self.now {
            for act in std::mem::take(&mut self.devices[dev.0].dreams) {
                self.act(act);
            }
        }
    }

    /// The device in which something is to happen.
    pub(crate) fn place(&self, act: &Act) -> Option<Dev> {
        act.place().or_else(|| match *act {
            Act::Opened { stream } => Some(self.device_of(stream, 1)),
            Act::Bytes { stream, from, .. } | Act::End { stream, from } => Some(self.device_of(stream, 1 - from)),
            Act::Broken { stream, end } | Act::Seal { stream, end } | Act::Talk { stream, end } | Act::Drained { stream, end } => {
                Some(self.device_of(stream, end))
            }
            Act::Up { conn, .. } => Some(self.conns[conn].ends[0].dev),
            Act::Gone { conn, end } => Some(self.conns[conn].ends[end].dev),
            _ => None,
        })
    }

    /// What one device sends another stays under way for this long, then arrives at once.
    pub fn hold(&mut self, from: Dev, to: Dev, time: Duration) {
        self.holds.insert((from, to), self.now + time.as_micros() as u64);
    }

    /// How writes are cut into pieces from now on.
    pub const fn set_pieces(&mut self, pieces: Pieces) {
        self.pieces = pieces;
    }

    /// A device gets another address, and its connections die without a word. With `taken_by`, that device answers at the old one.
    pub fn move_device(&mut self, dev: Dev, taken_by: Option<Dev>) {
        self.last_place += 1;
        let old = std::mem::replace(&mut self.devices[dev.0].places, vec![self.last_place]);
        if let Some(other) = taken_by.filter(|other| *other != dev) {
            // The newest place stands last: that is the one a device tells of.
            self.devices[other.0].places.splice(0..0, old);
        }
        for conn in 0..self.conns.len() {
            if self.conns[conn].ends.iter().any(|end| end.dev == dev && end.up) {
                for stream in self.conns[conn].streams.clone() {
                    for pipe in &mut self.streams[stream].pipes {
                        pipe.vanish = true;
                    }
                }
            }
        }
        if self.is_up(dev) {
            self.with_oracle(|oracle, world| oracle.on_roused(world, dev));
            let local = self.transports(dev);
            self.handle(dev, Input::Network(Fact::Local(local)));
            self.lookup_soon(dev);
        }
    }

    /// The newest connection between two devices is reset, as both hear.
    pub fn cut_connection(&mut self, one: Dev, other: Dev) -> bool {
        let between = |conn: &Conn| {
            let devs = conn.ends.each_ref().map(|end| end.dev);
            (devs == [one, other] || devs == [other, one]) && conn.ends.iter().all(|end| end.up)
        };
        let Some(conn) = self.conns.iter().rposition(between) else { return false };
        for end in 0..2 {
            let delay = self.one_way();
            self.after(delay, Act::Gone { conn, end });
        }
        true
    }

    /// What was held on its way arrives now, in its order.
    pub(crate) fn let_go(&mut self) {
        self.holds.clear();
        for pipe in self.streams.iter_mut().flat_map(|stream| &mut stream.pipes) {
            pipe.last = pipe.last.min(self.now);
        }
        let later = self.queue.split_off(&(self.now + 1, 0));
        for ((at, number), act) in later {
            match *act {
                Act::Bytes { .. } | Act::End { .. } | Act::Broken { .. } | Act::Cut { .. } | Act::Gone { .. } => self.after(0, *act),
                _ => drop(self.queue.insert((at, number), act)),
            }
        }
    }

    /// Every connection of a device is reset, as both sides hear.
    pub(crate) fn cut_all(&mut self, dev: Dev) {
        for conn in 0..self.conns.len() {
            if self.conns[conn].ends.iter().any(|end| end.dev == dev && end.up) {
                for end in 0..2 {
                    let delay = self.one_way();
                    self.after(delay, Act::Gone { conn, end });
                }
            }
        }
    }

    /// Copies a device's store, for [`Self::roll_back`].
    pub fn back_up(&mut self, dev: Dev) {
        let device = &mut self.devices[dev.0];
        device.backup = Some(device.store.clone());
    }

    /// A device that is down gets the store that was copied; without a copy, an empty one.
    pub fn roll_back(&mut self, dev: Dev) {
        let device = &mut self.devices[dev.0];
        device.store = device.backup.clone().unwrap_or_default();
    }

    /// From now on nothing reaches a device and nothing leaves it, without anybody being told; or that is over.
    pub fn silence(&mut self, dev: Dev, silent: bool) {
        self.devices[dev.0].silent = silent;
    }

    /// The wall clock of a device is set back.
    pub fn set_back(&mut self, dev: Dev, by: Duration) {
        self.devices[dev.0].unix_shift -= by.as_secs() as i64;
    }

    /// The wall clock of a device jumps.
    pub fn shift_clock(&mut self, dev: Dev, by: Duration) {
        self.devices[dev.0].unix_shift += by.as_secs() as i64;
    }

    /// What a device's user says to pairings.
    pub fn set_pairings(&mut self, dev: Dev, answer: Answer) {
        self.devices[dev.0].pairings = answer;
    }

    /// What a device's user says to offers.
    pub fn set_offers(&mut self, dev: Dev, answer: Answer) {
        self.devices[dev.0].offers = answer;
    }
}
