//! What lasts: a device's store and the files at its destination.

use std::ops::Range;

use protocol_core::effects::{EntryNote, FileOp, Input, Reply, TransferKey};
use protocol_core::faults::{Failure, FileFault};
use protocol_core::ids::Ticket;
use protocol_core::records::{BLOCKED, Change, DEVICES};

use crate::rules::{DiskFault, StoreFault};
use crate::trace::What;
use crate::world::{Act, Dev, World};

/// A disk's time, in microseconds.
pub(crate) const DISK: u64 = 1_000;

impl World {
    pub(crate) fn persist(&mut self, dev: Dev, ticket: Ticket, batch: Vec<Change>) {
        let device = &mut self.devices[dev.0];
        let life = device.life;
        device.persists += 1;
        let number = device.persists;
        let at = device.store_busy.max(self.now) + DISK + device.slow_disk;
        device.store_busy = at;
        self.note(dev, What::Persists { number });
        self.with_oracle(|oracle, world| oracle.on_persist(world, dev, &batch));
        let device = &mut self.devices[dev.0];
        let fault = device.store_faults.iter().position(|&(of, _)| of == number).map(|at| device.store_faults.remove(at).1);
        if let Some(fault) = fault {
            self.fire(fault.kind());
        }
        match fault {
            None => self.at(at, Act::Durable { dev, life, ticket, batch }),
            Some(StoreFault::Fail) => {
                let result = Err(Failure::Disk(FileFault::DiskFull));
                self.at(at, Act::Tell { dev, life, input: Input::Done { ticket, result } });
            }
            // Not now: the Node is in the middle of saying what is to be done.
            Some(StoreFault::CrashBefore) => self.after(0, Act::Crash { dev, life }),
            Some(StoreFault::CrashAfter) => {
                self.at(at, Act::Durable { dev, life, ticket: Ticket(0), batch });
                self.at(at, Act::Crash { dev, life });
            }
        }
    }

    pub(crate) fn durable(&mut self, dev: Dev, life: u32, ticket: Ticket, batch: Vec<Change>) {
        if !self.is_life(dev, life) {
            return;
        }
        self.note(dev, What::Durable);
        let of_roots = batch.iter().any(|change| matches!(change.table, DEVICES | BLOCKED));
        for Change { table, key, value } in batch {
            match value {
                Some(value) => self.devices[dev.0].store.insert((table, key), value.bytes().to_vec()),
                None => self.devices[dev.0].store.remove(&(table, key)),
            };
        }
        if of_roots {
            self.with_oracle(|oracle, world| oracle.on_durable(world, dev));
        }
        self.handle(dev, Input::Done { ticket, result: Ok(Reply::Persisted) });
    }

    /// An operation on files; `None` if the device does not live to hear how it went.
    pub(crate) fn files(
        &mut self,
        dev: Dev,
        key: TransferKey,
        entries: Range<u32>,
        op: FileOp,
    ) -> Option<Result<Vec<(u32, EntryNote)>, FileFault>> {
        let manifest = self.node(dev).manifest(key);
        let device = &mut self.devices[dev.0];
        device.asked.files += 1;
        let number = device.asked.files;
        let fault = device.disk_faults.iter().position(|&(of, _)| of == number).map(|at| device.disk_faults.remove(at).1);
        if fault == Some(DiskFault::SyncLost) && op != FileOp::Sync {
            // It waits for its sync.
            device.disk_faults.push((number + 1, DiskFault::SyncLost));
        } else if let Some(fault) = fault {
            self.fire(fault.kind());
        }
        let disk = &mut self.devices[dev.0].disk;
        let result = match fault {
            Some(DiskFault::Full) => disk.fail(key, op, FileFault::DiskFull),
            Some(DiskFault::Io) => disk.fail(key, op, FileFault::Failing(5)),
            Some(DiskFault::Entry) => {
                disk.perform(key, manifest, entries.start + 1..entries.end.max(entries.start + 1), op).map(|mut notes| {
                    disk.drop_entry(key, entries.start);
                    let fault = if number.is_multiple_of(2) { FileFault::Io(22) } else { FileFault::Failing(5) };
                    notes.insert(0, (entries.start, EntryNote::Failed(fault)));
                    notes
                })
            }
            Some(DiskFault::Crash) => {
                // Some of it may have been done, and none of that is durable.
                drop(disk.perform(key, manifest, entries, op));
                let renamed = disk.undo_durability();
                if let (FileOp::Publish, true, Some(watch)) = (op, renamed, &mut self.watch) {
                    watch.mark("a crash came between rename and directory sync");
                }
                self.crash(dev);
                return None;
            }
            Some(DiskFault::WritesFail) => {
                disk.writes_fail = true;
                disk.perform(key, manifest, entries, op)
            }
            Some(DiskFault::ReadsFail) => {
                disk.reads_fail = true;
                disk.perform(key, manifest, entries, op)
            }
            Some(DiskFault::SyncLost) if op == FileOp::Sync => disk.lose_sync(key),
            Some(DiskFault::SyncLost) | None => disk.perform(key, manifest, entries, op),
        };
        self.with_oracle(|oracle, world| oracle.on_files(world, dev, key, op));
        Some(result)
    }
}
