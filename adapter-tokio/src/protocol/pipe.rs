//! A bounded queue of bytes between an application and the task that has a half of its stream.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use protocol_core::limits::RECORD_TEXT;
use tokio::io::ReadBuf;
use tokio::sync::Notify;

/// A full queue: four records. Whoever fills it waits, and that is all the back-pressure there is beside the transport's own.
const FULL: usize = 4 * RECORD_TEXT;

/// Why a half of a stream ended before its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault(pub(crate) ErrorKind, pub(crate) &'static str);

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        Self::new(fault.0, fault.1)
    }
}

/// What a sending task takes out.
#[derive(Debug)]
pub(crate) enum Took {
    /// The plaintext of a record.
    Text(Vec<u8>),
    /// The application has said all.
    All,
    /// It has let go, and had not.
    Gone,
}

/// One direction. An application at one end, a task at the other.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    state: Mutex<State>,
    /// Wakes the task.
    task: Notify,
    /// Wakes whoever waits for the application to let go.
    left: Notify,
}

#[derive(Debug, Default)]
struct State {
    bytes: VecDeque<u8>,
    /// The application has said all.
    all: bool,
    /// The application has let go of the stream.
    gone: bool,
    /// The task is through, and how.
    end: Option<Result<(), Fault>>,
    /// Wakes the application.
    application: Option<Waker>,
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.application.take() {
            waker.wake();
        }
    }

    fn wait<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        self.application = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Pipe {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // The task's side.

    /// The task is through with this half. What is in the queue of a receiving half can still be read.
    pub(crate) fn end(&self, how: Result<(), Fault>) {
        let mut state = self.state();
        state.end.get_or_insert(how);
        state.wake();
    }

    /// Puts in what came, when there is room; an application that is gone hears nothing.
    pub(crate) async fn push(&self, text: &[u8]) {
        loop {
            {
                let mut state = self.state();
                if state.gone {
                    return;
                }
                if state.bytes.len() < FULL {
                    state.bytes.extend(text);
                    return state.wake();
                }
            }
            self.task.notified().await;
        }
    }

    /// Takes out what is to be sent next.
    pub(crate) async fn take(&self) -> Took {
        loop {
            {
                let mut state = self.state();
                if state.gone && !state.all {
                    return Took::Gone;
                }
                let len = state.bytes.len().min(RECORD_TEXT);
                if len > 0 {
                    let text = state.bytes.drain(..len).collect();
                    state.wake();
                    return Took::Text(text);
                }
                if state.all {
                    return Took::All;
                }
            }
            self.task.notified().await;
        }
    }

    /// Waits until the application has let go.
    pub(crate) async fn gone(&self) {
        while !self.state().gone {
            self.left.notified().await;
        }
    }

    /// Whether the application has said all.
    pub(crate) fn is_all(&self) -> bool {
        self.state().all
    }

    // The application's side.

    pub(crate) fn poll_read(&self, cx: &Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state();
        let len = state.bytes.len().min(into.remaining());
        if len > 0 {
            let (first, second) = state.bytes.as_slices();
            let of_first = len.min(first.len());
            into.put_slice(&first[..of_first]);
            into.put_slice(&second[..len - of_first]);
            state.bytes.drain(..len);
            self.task.notify_one();
            return Poll::Ready(Ok(()));
        }
        match state.end {
            _ if into.remaining() == 0 => Poll::Ready(Ok(())),
            Some(how) => Poll::Ready(how.map_err(Into::into)),
            None => state.wait(cx),
        }
    }

    pub(crate) fn poll_write(&self, cx: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.state();
        if let Some(Err(fault)) = state.end {
            return Poll::Ready(Err(fault.into()));
        }
        if state.all {
            return Poll::Ready(Err(Fault(ErrorKind::BrokenPipe, "the stream was shut down").into()));
        }
        let len = bytes.len().min(FULL - state.bytes.len().min(FULL));
        if len == 0 && !bytes.is_empty() {
            return state.wait(cx);
        }
        state.bytes.extend(&bytes[..len]);
        self.task.notify_one();
        Poll::Ready(Ok(len))
    }

    /// Ready when the task has taken everything.
    pub(crate) fn poll_flush(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state();
        match state.end {
            Some(how) => Poll::Ready(how.map_err(Into::into)),
            None if state.bytes.is_empty() => Poll::Ready(Ok(())),
            None => state.wait(cx),
        }
    }

    /// Says that this was all; ready when the task is through.
    pub(crate) fn poll_shutdown(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state();
        if !std::mem::replace(&mut state.all, true) {
            self.task.notify_one();
        }
        match state.end {
            Some(how) => Poll::Ready(how.map_err(Into::into)),
            None => state.wait(cx),
        }
    }

    /// The application lets go.
    pub(crate) fn let_go(&self) {
        self.state().gone = true;
        self.task.notify_one();
        self.left.notify_one();
    }
}
