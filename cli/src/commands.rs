//! The verbs, one module each, and what several of them need.

pub(crate) mod completions;
mod demo;
mod devices;
mod dht;
mod doctor;
mod id;
mod join;
mod msg;
mod pair;
mod pairing;
mod ping;
mod reach;
mod recv;
mod send;
mod transfer;
mod transfers;
mod up;

use std::path::PathBuf;

use crate::args::{Cli, Command, Global};
use crate::ask::Asker;
use crate::exit::{Exit, Outcome, Problem};
use crate::output::Output;
use crate::stop::Stop;

/// What every command works with.
pub(crate) struct Context {
    pub(crate) global: Global,
    pub(crate) out: Output,
    pub(crate) asker: Asker,
    pub(crate) stop: Stop,
}

impl Context {
    /// The home of this device.
    pub(crate) fn home(&self) -> Outcome<PathBuf> {
        home(self.global.home.as_deref())
    }
}

/// Runs a command, and gives the output back for the last words.
pub(crate) async fn run(cli: Cli, out: Output) -> (Output, Outcome) {
    let stop = match Stop::listen() {
        Ok(stop) => stop,
        Err(problem) => return (out, Err(problem)),
    };
    let asker = Asker::new(cli.global.no_input);
    let mut context = Context { global: cli.global, out, asker, stop };
    let done = match cli.command {
        Command::Demo(args) => demo::run(&context, &args).await,
        Command::Id => id::run(&context).await,
        Command::Pair(args) => pair::run(&mut context, &args).await,
        Command::Join(args) => join::run(&mut context, &args).await,
        Command::Devices(args) => devices::run(&context, args.verb).await,
        Command::Send(args) => send::run(&context, &args).await,
        Command::Recv(args) => recv::run(&mut context, &args).await,
        Command::Transfers(args) => transfers::run(&mut context, args.verb).await,
        Command::Msg(args) => msg::run(&context, &args.verb).await,
        Command::Up(args) => up::run(&mut context, &args).await,
        Command::Dht(args) => dht::run(&context, &args).await,
        Command::Ping(args) => ping::run(&context, &args).await,
        Command::Doctor(args) => doctor::run(&context, &args).await,
        Command::Completions(args) => completions::run(&args.shell),
    };
    (context.out, done)
}

/// The chosen home, or the platform's place for data.
pub(crate) fn home(chosen: Option<&std::path::Path>) -> Outcome<PathBuf> {
    use etcetera::BaseStrategy as _;
    if let Some(chosen) = chosen {
        if chosen.as_os_str().is_empty() {
            return Err(Problem::usage("--home needs a directory"));
        }
        return Ok(chosen.to_owned());
    }
    match etcetera::choose_base_strategy() {
        Ok(strategy) => Ok(strategy.data_dir().join("kin")),
        Err(_) => Err(Problem::new(Exit::State, "no home directory was found for this user").next("kin --home DIR …")),
    }
}

/// Runs what may block for as long as a person likes on a thread of its own, which nobody waits for at the end.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> Outcome<T> + Send + 'static) -> Outcome<T> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Whoever waited may be gone.
        drop(sender.send(work()));
    });
    receiver.await.unwrap_or_else(|_| Err(Problem::internal("a thread ended without an answer")))
}
