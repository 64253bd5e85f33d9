//! Runs worlds by the thousand, and tells what came of them.
//!
//! `cargo run --release --bin sim -- --help`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use adapter_sim::coverage::{Counts, Report};
use adapter_sim::mutants::{Known, known, line, profile_of, search, search_again};
use adapter_sim::run::{Outcome, run, run_kept};
use adapter_sim::script::{Profile, Script};
use adapter_sim::shrink::shrink;
use adapter_sim::trace::Rolling;
use clap::{Parser, ValueEnum};
use protocol_core::planted::{Bug, plant};
use serde_json::json;

/// Runs simulated worlds of kin devices, searches them for broken promises, and replays what was found.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Arguments {
    /// Seeds to run, as FROM..TO (TO is not run); with --mutants, TO is how many each bug gets.
    #[arg(long, value_parser = seeds, default_value = "0..1000")]
    seeds: (u64, u64),
    /// What the worlds are about; `all` takes each in turn.
    #[arg(long, value_enum, default_value = "default")]
    profile: Kind,
    /// Threads; 0 is one for each processor.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print which states and transitions were reached, and fail if one was not that must be (see adapter-sim/coverage.txt).
    #[arg(long, conflicts_with_all = ["replay", "mutants", "exhaustive"])]
    coverage: bool,
    /// One JSON line on standard output, nothing else there.
    #[arg(long)]
    json: bool,
    /// Go on after a failure, and count.
    #[arg(long)]
    keep_going: bool,
    /// Plant the bugs of the core one after the other (all, or those that are named), and search each.
    #[arg(long, value_name = "BUG", num_args = 0.., conflicts_with = "replay")]
    mutants: Option<Vec<String>>,
    /// With --mutants: only bugs that took fewer than a thousand seeds in this list, and no more seeds than that for each.
    #[arg(long, value_name = "FILE", requires = "mutants")]
    quick: Option<PathBuf>,
    /// With --mutants: write what was found into such a list.
    #[arg(long, value_name = "FILE", requires = "mutants")]
    list: Option<PathBuf>,
    /// Enumerate every small world: every order of events and every place of a fault. Takes minutes.
    #[arg(long, conflicts_with_all = ["replay", "mutants"])]
    exhaustive: bool,
    /// Plant this bug for everything else that is asked for.
    #[arg(long, value_name = "BUG")]
    plant: Option<String>,
    /// Tell the story of one seed, or of a script in a file.
    #[arg(long, value_name = "SEED|FILE")]
    replay: Option<String>,
    /// With --replay: write the smallest script that fails in the same way.
    #[arg(long, value_name = "FILE")]
    shrink: Option<PathBuf>,
    /// With --replay: draw a sequence chart of the run, as one HTML file.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// With --replay: write the script.
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
}

impl Arguments {
    fn threads(&self) -> usize {
        if self.threads == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { self.threads }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Default,
    Pairing,
    Link,
    Transfer,
    Enemy,
    Lookup,
    All,
}

impl Kind {
    fn profile(self, seed: u64) -> Profile {
        match self {
            Self::All => profile_of(seed),
            Self::Default => Profile::Default,
            Self::Pairing => Profile::Pairing,
            Self::Link => Profile::Link,
            Self::Transfer => Profile::Transfer,
            Self::Enemy => Profile::Enemy,
            Self::Lookup => Profile::Lookup,
        }
    }

    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

fn seeds(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once("..").ok_or("seeds are given as FROM..TO")?;
    let number = |text: &str| text.replace('_', "").parse::<u64>().map_err(|error| format!("{text}: {error}"));
    let (from, to) = (number(from)?, number(to)?);
    if from < to { Ok((from, to)) } else { Err("there is no seed in this range".into()) }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A panic in a run is a finding, and is told as one.
    std::panic::set_hook(Box::new(|panic| {
        if !adapter_sim::run::is_running() {
            eprintln!("{panic}");
        }
    }));
    let result = planted(&arguments).and_then(|()| match (&arguments.replay, &arguments.mutants) {
        (Some(what), _) => replay(&arguments, what),
        (None, Some(names)) => mutants(&arguments, names),
        (None, None) if arguments.exhaustive => exhaustive(),
        (None, None) => Ok(search_clean(&arguments)),
    });
    result.unwrap_or_else(|error| {
        eprintln!("sim: {error}");
        ExitCode::from(2)
    })
}

fn bug(name: &str) -> Result<Bug, String> {
    Bug::by_name(name).ok_or_else(|| format!("no bug is called {name}"))
}

fn planted(arguments: &Arguments) -> Result<(), String> {
    let Some(name) = &arguments.plant else { return Ok(()) };
    plant(Some(bug(name)?));
    Ok(())
}

/// How many seeds a bug may take that `--quick` looks for.
const QUICK: u64 = 1_000;

/// Searches planted bugs, and prints how many seeds each took.
fn mutants(arguments: &Arguments, names: &[String]) -> Result<ExitCode, String> {
    let bugs = if names.is_empty() { Bug::ALL.to_vec() } else { names.iter().map(|name| bug(name)).collect::<Result<Vec<_>, _>>()? };
    let quick = arguments.quick.is_some();
    let text = arguments.quick.as_ref().map(|path| std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display())));
    let known = known(&text.transpose()?.unwrap_or_default())?;
    let known: BTreeMap<&str, Known> = known.into_iter().map(|known| (known.bug.name(), known)).collect();
    let (started, mut missed, mut took, mut lines, mut explained) = (Instant::now(), Vec::new(), Vec::new(), Vec::new(), 0);
    let mut unplanted = Vec::new();
    for &bug in &bugs {
        let found = match known.get(bug.name()) {
            Some(known) if quick && known.seed < QUICK => search_again(*known, QUICK, arguments.threads()),
            Some(_) | None if quick => continue,
            Some(_) | None => search(bug, arguments.seeds.1, arguments.threads()),
        };
        lines.extend(line(&found));
        if let Some(seed) = found.unplanted {
            eprintln!("seed {seed} FAILED with nothing planted\n    {}", command("all", None, &seed.to_string()));
            unplanted.push(seed);
        }
        match (found.seed, bug.unseen()) {
            (Some((seed, violation)), _) => {
                took.push(seed + 1);
                eprintln!("{:<44} {:>7} seeds  {:<7} {}", bug.name(), seed + 1, violation.rule, bug.breaks());
            }
            (None, Some(why)) => {
                explained += 1;
                eprintln!("{:<44}  not found, and cannot be: {why}", bug.name());
            }
            (None, None) => {
                missed.push(bug.name());
                eprintln!("{:<44}  NOT FOUND      {}\n      seen by: {}", bug.name(), bug.breaks(), bug.seen_by());
            }
        }
    }
    if let Some(path) = &arguments.list {
        let head = "# Planted bugs, the seeds that each took, and the rule that showed it: sim --mutants --list FILE";
        std::fs::write(path, format!("{head}\n{}\n", lines.join("\n"))).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    took.sort_unstable();
    let line = json!({
        "bugs": took.len() + missed.len() + explained,
        "found": took.len(),
        "explained": explained,
        "not_found": missed,
        "failed_without": unplanted,
        "seeds_each_at_most": if quick { QUICK } else { arguments.seeds.1 },
        "median_seeds": took.get(took.len() / 2),
        "most_seeds": took.last(),
        "seconds": (started.elapsed().as_secs_f64() * 10.0).round() / 10.0,
    });
    println!("{line}");
    Ok(if missed.is_empty() && unplanted.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Enumerates the small worlds, and prints a line for each.
fn exhaustive() -> Result<ExitCode, String> {
    let counts = adapter_sim::exhaustive::all(&mut |count| println!("{count}")).map_err(|violation| violation.to_string())?;
    println!("{} small worlds hold what must hold", counts.len());
    Ok(ExitCode::SUCCESS)
}

/// What plays this once more.
fn command(profile: &str, planted: Option<&str>, what: &str) -> String {
    let plant = planted.map_or_else(String::new, |bug| format!(" --plant {bug}"));
    format!("cargo run --release -p adapter-sim --bin sim -- --profile {profile}{plant} --replay {what}")
}

fn replay(arguments: &Arguments, what: &str) -> Result<ExitCode, String> {
    let script = match what.parse::<u64>() {
        Ok(seed) => Script::of_seed(seed, arguments.profile.profile(seed)),
        Err(_) => Script::from_text(&std::fs::read_to_string(what).map_err(|error| format!("{what}: {error}"))?)?,
    };
    let write = |path: &PathBuf, text: &str| std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()));
    if let Some(path) = &arguments.script {
        write(path, &script.to_text())?;
    }
    let kept = run_kept(&script);
    print!("{}", kept.world.story());
    if let Some(path) = &arguments.html {
        let title = match &kept.outcome.violation {
            Some(violation) => format!("{}: {}", violation.rule, violation.what),
            None => "a run in which everything held".to_owned(),
        };
        let command = command(&arguments.profile.name(), arguments.plant.as_deref(), what);
        write(path, &kept.world.chart(&title, &command))?;
    }
    if let Some(path) = &arguments.shrink {
        let Some(small) = shrink(&script) else { return Err("this run does not fail: there is nothing to shrink".into()) };
        write(path, &small.to_text())?;
        eprintln!("{} of {} steps are left, in {}", small.steps.len(), script.steps.len(), path.display());
    }
    eprintln!("hash {:016x}, {} events, {:?} of virtual time", kept.outcome.hash, kept.outcome.events, kept.outcome.time);
    Ok(match kept.outcome.violation {
        Some(violation) => {
            eprintln!("FAILED {}: {}", violation.rule, violation.what);
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    })
}

/// What all runs came to.
#[derive(Default)]
struct Sum {
    /// The hash of each block of seeds, by its first seed: so the hash of all does not depend on who ran what.
    hashes: BTreeMap<u64, u64>,
    events: u64,
    runs: u64,
    virtual_s: f64,
    sealed: u64,
    fired: BTreeMap<&'static str, u64>,
    recovered: BTreeMap<&'static str, u64>,
    marks: BTreeMap<&'static str, u64>,
    transitions: Counts,
    failures: Vec<(u64, Outcome)>,
}

impl Sum {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.events += outcome.events;
        self.runs += 1;
        self.virtual_s += outcome.time.as_secs_f64();
        self.sealed += outcome.sealed;
        for kind in &outcome.fired {
            *self.fired.entry(kind).or_default() += 1;
            *self.recovered.entry(kind).or_default() += u64::from(outcome.recovered);
        }
        self.transitions.merge(&outcome.transitions);
        for mark in &outcome.marks {
            *self.marks.entry(mark).or_default() += 1;
        }
        if outcome.violation.is_some() {
            self.failures.push((seed, outcome));
        }
    }

    fn merge(&mut self, other: Self) {
        self.hashes.extend(other.hashes);
        self.events += other.events;
        self.runs += other.runs;
        self.virtual_s += other.virtual_s;
        self.sealed += other.sealed;
        for (kind, count) in other.fired {
            *self.fired.entry(kind).or_default() += count;
        }
        for (kind, count) in other.recovered {
            *self.recovered.entry(kind).or_default() += count;
        }
        for (mark, count) in other.marks {
            *self.marks.entry(mark).or_default() += count;
        }
        self.transitions.merge(&other.transitions);
        self.failures.extend(other.failures);
    }
}

const BLOCK: u64 = 64;

fn search_clean(arguments: &Arguments) -> ExitCode {
    let (from, to) = arguments.seeds;
    let profile = arguments.profile;
    let threads = arguments.threads();
    let (next, stop) = (AtomicU64::new(from), AtomicBool::new(false));
    let sum = Mutex::new(Sum::default());
    let (wall, cpu) = (Instant::now(), cpu_seconds());
    let work = || {
        let mut mine = Sum::default();
        while !stop.load(Ordering::Relaxed) {
            let first = next.fetch_add(BLOCK, Ordering::Relaxed);
            if first >= to {
                break;
            }
            let mut hash = Rolling::default();
            for seed in first..(first + BLOCK).min(to) {
                let outcome = run(&Script::of_seed(seed, profile.profile(seed)));
                hash.number(outcome.hash);
                let failed = outcome.violation.is_some();
                mine.add(seed, outcome);
                if failed && !arguments.keep_going {
                    stop.store(true, Ordering::Relaxed);
                    break;
                }
            }
            mine.hashes.insert(first, hash.value());
        }
        if let Ok(mut sum) = sum.lock() {
            sum.merge(mine);
        }
    };
    std::thread::scope(|scope| {
        // The last is this one: a machine without threads can search, too.
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    let sum = sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    report(arguments, &sum, wall.elapsed().as_secs_f64(), cpu_seconds() - cpu)
}

fn report(arguments: &Arguments, sum: &Sum, wall: f64, cpu: f64) -> ExitCode {
    let mut hash = Rolling::default();
    for of_block in sum.hashes.values() {
        hash.number(*of_block);
    }
    let mut failures: Vec<_> = sum.failures.iter().collect();
    failures.sort_by_key(|(seed, _)| *seed);
    let command = |seed: u64| command(&arguments.profile.name(), arguments.plant.as_deref(), &seed.to_string());
    for (seed, outcome) in failures.iter().take(20) {
        if let Some(violation) = &outcome.violation {
            eprintln!("seed {seed} FAILED {}: {}\n    {}", violation.rule, violation.what, command(*seed));
        }
    }
    if !arguments.json {
        eprintln!(
            "{} runs, {} failures, {wall:.1} s, {cpu:.1} CPU seconds, {:.1} virtual days",
            sum.runs,
            failures.len(),
            sum.virtual_s / 86_400.0
        );
        for (kind, fired) in &sum.fired {
            eprintln!("    {kind:<4} fired in {fired} runs, recovered in {}", sum.recovered.get(kind).copied().unwrap_or(0));
        }
        for (mark, count) in &sum.marks {
            eprintln!("    {count:>8} × {mark}");
        }
    }
    let rules: BTreeMap<&str, u64> = failures.iter().fold(BTreeMap::new(), |mut rules, (_, outcome)| {
        *rules.entry(outcome.violation.as_ref().map_or("", |violation| violation.rule)).or_default() += 1;
        rules
    });
    let coverage = arguments.coverage.then(|| Report::new(&sum.transitions, &sum.marks, sum.runs));
    if let (Some(coverage), false) = (&coverage, arguments.json) {
        eprint!("{}", coverage.table());
    }
    let mut line = json!({
        "seeds": sum.runs,
        "failures": failures.len(),
        "failed_rules": rules,
        "trace_hash": format!("{:016x}", hash.value()),
        "events": sum.events,
        "events_per_cpu_second": (sum.events as f64 / cpu).round(),
        "runs_per_cpu_second": (sum.runs as f64 / cpu * 10.0).round() / 10.0,
        "fault_kinds_fired": sum.fired.len(),
        "fault_kinds_recovered": sum.recovered.values().filter(|count| **count > 0).count(),
        "aead_uses": sum.sealed,
        "virtual_seconds": sum.virtual_s.round(),
        "cpu_seconds": (cpu * 10.0).round() / 10.0,
    });
    if let Some(coverage) = &coverage {
        line["coverage"] = coverage.summary();
    }
    println!("{line}");
    let covered = coverage.is_none_or(|coverage| coverage.is_complete());
    if failures.is_empty() && covered { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The CPU time of this process so far, in seconds; where nobody counts it, the time that went by.
fn cpu_seconds() -> f64 {
    #[cfg(all(unix, not(miri)))]
    {
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
    }
    #[cfg(any(not(unix), miri))]
    {
        static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        START.elapsed().as_secs_f64()
    }
}
