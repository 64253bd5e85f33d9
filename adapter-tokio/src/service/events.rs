//! What happens, for whoever listens: every subscriber has a queue of its own, in which only progress is merged.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use protocol_core::effects::Event;
use tokio::sync::Notify;

/// All subscribers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subscribers(Arc<Mutex<List>>);

#[derive(Debug, Default)]
struct List {
    queues: Vec<Weak<Queue>>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Event>,
    closed: bool,
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscribers {
    fn list(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn subscribe(&self) -> Events {
        let queue = Arc::new(Queue::default());
        let mut list = self.list();
        queue.waiting().closed = list.closed;
        list.queues.push(Arc::downgrade(&queue));
        Events(queue)
    }

    pub(crate) fn publish(&self, event: Event) {
        self.list().queues.retain(|queue| {
            let Some(queue) = queue.upgrade() else { return false };
            put(&mut queue.waiting().events, event.clone());
            queue.more.notify_one();
            true
        });
    }

    /// No event comes any more.
    pub(crate) fn close(&self) {
        let mut list = self.list();
        list.closed = true;
        for queue in list.queues.drain(..).filter_map(|queue| queue.upgrade()) {
            queue.waiting().closed = true;
            queue.more.notify_one();
        }
    }
}

/// Of a transfer's progress only the newest matters, so a slow listener has at most one waiting for each transfer's turn.
fn put(events: &mut VecDeque<Event>, event: Event) {
    if let (Event::Progress { transfer: new, .. }, Some(last @ Event::Progress { .. })) = (&event, events.back_mut())
        && let Event::Progress { transfer, .. } = last
        && transfer == new
    {
        *last = event;
        return;
    }
    events.push_back(event);
}

/// The events since [`NetworkingService::events`](super::NetworkingService::events) was called.
///
/// Nothing but merged progress is ever left out; whoever stops listening should drop this.
#[derive(Debug)]
pub struct Events(Arc<Queue>);

impl Events {
    /// The next event; `None` once the service has ended. Dropped early, nothing is lost.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            {
                let mut waiting = self.0.waiting();
                if let Some(event) = waiting.events.pop_front() {
                    return Some(event);
                }
                if waiting.closed {
                    return None;
                }
            }
            self.0.more.notified().await;
        }
    }

    /// The next event if one is waiting.
    pub fn try_next(&mut self) -> Option<Event> {
        self.0.waiting().events.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol_core::effects::{Direction, TransferKey};
    use protocol_core::ids::{DeviceId, TransferId};

    fn progress(id: u8, moved: u64) -> Event {
        let transfer = TransferKey { device: DeviceId([0; 16]), direction: Direction::Outgoing, id: TransferId([id; 16]) };
        Event::Progress { transfer, moved, durable: 0, total: 100 }
    }

    #[tokio::test]
    async fn a_slow_listener_loses_nothing_but_old_progress() {
        let subscribers = Subscribers::default();
        let mut events = subscribers.subscribe();
        let removed = Event::Removed { device: DeviceId([1; 16]) };
        for event in [progress(1, 1), progress(1, 2), removed.clone(), progress(1, 3), progress(2, 1), progress(2, 9)] {
            subscribers.publish(event);
        }
        subscribers.close();
        let mut got = Vec::new();
        while let Some(event) = events.next().await {
            got.push(event);
        }
        assert_eq!(got, [progress(1, 2), removed, progress(1, 3), progress(2, 9)]);
        assert_eq!(subscribers.subscribe().next().await, None, "nobody waits for a service that ended");
    }
}
