//! Signals: the first one asks every wait to end, so that the program shuts down in order; the second one does not ask.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::exit::{Exit, Outcome, Problem};

/// Tells whoever waits that the program should end.
#[derive(Clone, Debug)]
pub(crate) struct Stop(watch::Receiver<Option<Exit>>);

impl Stop {
    /// Listens for SIGINT and SIGTERM from now on. Needs a running runtime.
    pub(crate) fn listen() -> Outcome<Self> {
        let failed = |error: std::io::Error| Problem::internal(format_args!("no signal handler: {error}"));
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let (sender, receiver) = watch::channel(None);
        tokio::spawn(async move {
            let first = either(&mut interrupt, &mut terminate).await;
            sender.send_replace(Some(first));
            let second = either(&mut interrupt, &mut terminate).await;
            std::process::exit(i32::from(second.code()));
        });
        Ok(Self(receiver))
    }

    /// Ends when a signal came. Cancel-safe.
    pub(crate) async fn signalled(&mut self) -> Problem {
        let exit = match self.0.wait_for(Option::is_some).await {
            Ok(exit) => *exit,
            // The sender lives in a task that only ends with the process.
            Err(_) => return std::future::pending().await,
        };
        Problem::new(exit.unwrap_or(Exit::Interrupt), "ended by a signal, after a clean shutdown")
    }

    /// Runs `work` unless a signal comes first; then `work` is dropped.
    pub(crate) async fn or<T>(&mut self, work: impl Future<Output = T>) -> Outcome<T> {
        tokio::select! {
            biased;
            problem = self.signalled() => Err(problem),
            done = work => Ok(done),
        }
    }
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) -> Exit {
    tokio::select! {
        _ = interrupt.recv() => Exit::Interrupt,
        _ = terminate.recv() => Exit::Terminated,
    }
}
