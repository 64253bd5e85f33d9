//! The thread that makes records durable: batches that wait together become one transaction.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::{io, thread};

use protocol_core::effects::Reply;
use protocol_core::faults::{Failure, FileFault};
use protocol_core::ids::Ticket;
use protocol_core::records::Change;
use tracing::warn;
use zeroize::Zeroize;

use super::Happened;
use super::links::Links;
use crate::home::Home;
use crate::store::{self, Store, StoreError};

enum Job {
    Persist(Ticket, Vec<Change>),
    Snapshot(Vec<u8>),
}

/// The loop's hold on the thread.
#[derive(Debug)]
pub(crate) struct Records {
    jobs: Sender<Job>,
    thread: JoinHandle<()>,
}

impl Records {
    pub(crate) fn start(store: Store, home: Arc<Home>, links: Links) -> io::Result<Self> {
        let (jobs, waiting) = channel();
        let thread = thread::Builder::new().name("kin-records".into()).spawn(move || work(&store, &home, &links, &waiting))?;
        Ok(Self { jobs, thread })
    }

    pub(super) fn persist(&self, ticket: Ticket, batch: Vec<Change>) {
        drop(self.jobs.send(Job::Persist(ticket, batch)));
    }

    pub(super) fn snapshot(&self, bytes: Vec<u8>) {
        drop(self.jobs.send(Job::Snapshot(bytes)));
    }

    /// Waits until everything that was asked for is done.
    pub(super) fn close(self) {
        drop(self.jobs);
        drop(self.thread.join());
    }
}

fn work(store: &Store, home: &Home, links: &Links, waiting: &Receiver<Job>) {
    while let Ok(first) = waiting.recv() {
        let (mut tickets, mut batches, mut snapshot) = (Vec::new(), Vec::<Vec<_>>::new(), None);
        for job in std::iter::once(first).chain(waiting.try_iter()) {
            match job {
                Job::Persist(ticket, batch) => {
                    tickets.push(ticket);
                    batches.push(batch.into_iter().map(stored).collect());
                }
                Job::Snapshot(bytes) => snapshot = Some(bytes),
            }
        }
        if !tickets.is_empty() {
            let result = store.commit_all(&batches).map(|()| Reply::Persisted).map_err(failure);
            // Values may be roots, and these are copies of ours.
            batches.iter_mut().flatten().filter_map(|change| change.value.as_mut()).for_each(Zeroize::zeroize);
            for ticket in tickets {
                links.tell_blocking(Happened::Done { ticket, result: result.clone() });
            }
        }
        if let Some(bytes) = snapshot
            && let Err(error) = home.write_snapshot(&bytes)
        {
            warn!(%error, "the snapshot could not be written");
        }
    }
}

fn stored(change: Change) -> store::Change {
    let Change { table, key, value } = change;
    store::Change { table, key, value: value.map(|value| value.bytes().to_vec()) }
}

fn failure(error: StoreError) -> Failure {
    warn!(%error, "records could not be written");
    Failure::Disk(match error {
        StoreError::File(fault) => fault.into(),
        StoreError::Busy | StoreError::Unsafe | StoreError::Damaged | StoreError::Forged => FileFault::Denied,
        StoreError::UnknownSchema(_) => FileFault::Unsupported,
        StoreError::NoEntropy => FileFault::Io(0),
    })
}
