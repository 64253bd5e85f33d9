//! `kin`: pair devices by twelve words, then send each other files. The program people and scripts use.

#![forbid(unsafe_code)]

mod args;
mod ask;
mod commands;
mod events;
mod exit;
mod local;
mod names;
mod net;
mod output;
mod private_file;
mod progress;
mod registry;
mod scratch;
mod stop;
mod transports;
mod words;

use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};
use clap_complete::CompleteEnv;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Global};
use crate::events::{Event, SCHEMA};
use crate::exit::{Exit, Outcome, Problem};
use crate::output::Output;

/// How long threads may take to end when everything else is done.
const LAST_THREADS: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    // Answers the shell when it asks for completions, and then does not return.
    CompleteEnv::with_factory(Cli::command).complete();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    log(&cli.global);
    let out = Output::new(&cli.global, cli.command.fills_stdout());
    hello(&out);
    let (out, done) = run(cli, out);
    match done {
        Ok(()) => Exit::Ok.into(),
        Err(problem) => {
            out.problem(&problem);
            problem.exit.into()
        }
    }
}

fn run(cli: Cli, out: Output) -> (Output, Outcome) {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return (out, Err(Problem::internal(format_args!("no runtime: {error}")))),
    };
    let result = runtime.block_on(commands::run(cli, out));
    // A thread may be waiting for a line that nobody will type.
    runtime.shutdown_timeout(LAST_THREADS);
    result
}

fn hello(out: &Output) {
    out.event(&Event::Hello { schema: SCHEMA, version: env!("CARGO_PKG_VERSION").to_owned() });
}

/// Help and version go to standard output and are a success; everything else is a wrong command line.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return if error.print().is_ok() { Exit::Ok.into() } else { Exit::LocalIo.into() };
    }
    let json = std::env::args_os().any(|argument| argument == "--json")
        || std::env::var("KIN_JSON").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false" | "no" | "off"));
    if json {
        let out = Output::events_only();
        hello(&out);
        let text = error.render().to_string();
        let message = text.lines().take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
        let message = message.trim_start_matches("error: ").to_owned();
        out.problem_event(&Problem::usage(message).next("kin help"));
    }
    // Clap has its own colours and knows NO_COLOR.
    drop(error.print());
    Exit::Usage.into()
}

fn log(global: &Global) {
    let default = match global.verbose {
        0 => "off",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).finish();
    // There is no other one in this process.
    drop(tracing::subscriber::set_global_default(subscriber));
}
