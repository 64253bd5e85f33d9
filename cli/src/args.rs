//! The command line: verbs, flags, environment and their help.

use std::ffi::OsString;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use adapter_tokio::service::SLOWEST;
use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use protocol_core::info::Address;
use protocol_core::limits::CODE_TTL_RANGE;

use crate::commands::completions::{complete_device, complete_word};
use crate::transports::{self, Bind, DhtNode, MainlineNode, Relay, Transports, VERSION};

/// The longest wait that a flag takes.
const LONGEST_WAIT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Pair devices by twelve words, then send each other files and folders, end to end encrypted.
#[derive(Debug, Parser)]
#[command(name = "kin", version = VERSION.as_str(), propagate_version = true, max_term_width = 100, after_help = MEETING)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const MEETING: &str = "\
Two machines on one local network meet like this:
  first   $ kin pair                              shows twelve words
  second  $ kin join                              asks for them
  first   $ kin recv ~/Downloads
  second  $ kin send ./album --to FIRST

On different networks they need a DHT (kin dht --help), or the second needs --address (kin join --help).

Try it on this machine alone: kin demo

Exit codes: 0 ok, 1 bug, 2 usage, 3 state or lock, 4 unreachable, 5 interrupted, 6 refused, 7 pairing, 8 integrity,
9 local disk, 10 conflict, 11 partial, 12 not found, 13 incompatible, 14 timeout, 15 unsafe offer, 130 and 143 signals.";

/// Flags of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Where identity and registry are kept [default: the platform's data directory]. One process at a time holds it.
    #[arg(long, env = "KIN_HOME", value_name = "DIR", global = true, help_heading = "Global options")]
    pub(crate) home: Option<PathBuf>,

    /// A list of transports (tcp, libp2p, iroh), or `auto`: all that are built in, the best that works.
    #[arg(
        long,
        env = "KIN_TRANSPORT",
        value_name = "auto|tcp,…",
        default_value = "auto",
        value_parser = transports::transports,
        global = true,
        help_heading = "Global options"
    )]
    pub(crate) transport: Transports,

    /// An address to listen at, for example 127.0.0.1:0, or of one transport, iroh:0.0.0.0:4712 [default: all interfaces].
    #[arg(
        long,
        env = "KIN_BIND",
        value_name = "ADDR",
        value_parser = transports::bind,
        value_delimiter = ',',
        global = true,
        help_heading = "Global options"
    )]
    pub(crate) bind: Vec<Bind>,

    /// Neither publish this device on the local network nor look for others there (multicast DNS).
    #[arg(
        long,
        env = "KIN_NO_LAN",
        value_parser = FalseyValueParser::new(),
        action = ArgAction::SetTrue,
        global = true,
        help_heading = "Global options"
    )]
    pub(crate) no_lan: bool,

    /// A node of the DHT through which devices find each other across networks; more than one by commas. See kin dht --help.
    #[arg(
        long,
        env = "KIN_DHT_BOOTSTRAP",
        value_name = "ADDR",
        value_parser = transports::dht_node,
        value_delimiter = ',',
        global = true,
        help_heading = "Global options"
    )]
    pub(crate) dht_bootstrap: Vec<DhtNode>,

    /// A first node of the Mainline DHT (BitTorrent's, or one of your own), through which devices find each other too; more than one by commas.
    #[arg(
        long,
        env = "KIN_MAINLINE_BOOTSTRAP",
        value_name = "HOST:PORT",
        value_parser = transports::mainline_node,
        value_delimiter = ',',
        global = true,
        help_heading = "Global options"
    )]
    pub(crate) mainline_bootstrap: Vec<MainlineNode>,

    /// Use no DHT, whatever the environment says.
    #[arg(
        long,
        env = "KIN_NO_DHT",
        value_parser = FalseyValueParser::new(),
        action = ArgAction::SetTrue,
        global = true,
        help_heading = "Global options"
    )]
    pub(crate) no_dht: bool,

    /// A relay of Iroh, through which this device can be reached where nothing direct leads to it; or `off`.
    #[arg(
        long,
        env = "KIN_RELAY",
        value_name = "URL|off",
        value_parser = transports::relay,
        value_delimiter = ',',
        global = true,
        help_heading = "Global options"
    )]
    pub(crate) relay: Vec<Relay>,

    /// Print one JSON object a line on standard output, and nothing else there.
    #[arg(long, env = "KIN_JSON", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue, global = true, help_heading = "Global options")]
    pub(crate) json: bool,

    /// Never ask; an answer that is needed is an error.
    #[arg(
        long,
        env = "KIN_NO_INPUT",
        value_parser = FalseyValueParser::new(),
        action = ArgAction::SetTrue,
        global = true,
        help_heading = "Global options"
    )]
    pub(crate) no_input: bool,

    /// How progress is shown.
    #[arg(long, value_enum, default_value_t = ProgressMode::Auto, global = true, help_heading = "Global options")]
    pub(crate) progress: ProgressMode,

    /// Errors and results only.
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Global options")]
    pub(crate) quiet: bool,

    /// Say more; twice: a lot more. RUST_LOG chooses in detail.
    #[arg(short, long, action = ArgAction::Count, global = true, help_heading = "Global options")]
    pub(crate) verbose: u8,
}

impl Global {
    /// Where devices that do not know where the other is look for each other, in words; `None`: nowhere.
    pub(crate) fn looks(&self) -> Option<&'static str> {
        let dht = !transports::dht_nodes(self).is_empty() || !transports::mainline_nodes(self).is_empty();
        match (!self.no_lan, dht) {
            (true, true) => Some("on the local network and through the DHT"),
            (true, false) => Some("on the local network"),
            (false, true) => Some("through the DHT"),
            (false, false) => None,
        }
    }
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    /// A bar on a terminal, else nothing.
    Auto,
    /// A bar.
    Bar,
    /// Now and then a line.
    Plain,
    /// Nothing.
    None,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Watch the whole story on this machine: two devices as two processes pair, send, compare and send back.
    Demo(Demo),
    /// Show this device: name, id, fingerprint, keys. Creates the identity on first use.
    Id,
    /// Make a one-time code of twelve words, wait for the other device, and ask before trusting it.
    #[command(after_help = PAIR_HELP)]
    Pair(Pair),
    /// Enter the code that another device shows.
    #[command(after_help = JOIN_HELP)]
    Join(Join),
    /// The paired devices: list, show, rename, policy, block, forget.
    Devices(Devices),
    /// Send files and directories to a paired device.
    #[command(after_help = SEND_HELP)]
    Send(Send),
    /// Receive in the foreground.
    #[command(after_help = RECV_HELP)]
    Recv(Recv),
    /// Transfers that are not finished: list, show, resume, cancel, prune.
    Transfers(Transfers),
    /// Messages: send one, show those that came, follow them.
    Msg(Msg),
    /// Stay up: receive by policy (who sits at the terminal is asked), deliver what is queued, keep connections; other commands of this home ask this one.
    #[command(after_help = UP_HELP)]
    Up(Up),
    /// Be a node of the DHT through which devices find each other across networks.
    #[command(after_help = DHT_HELP)]
    Dht(Dht),
    /// Ask a device for a sign of life: the route, and how long the round trip takes.
    Ping(Ping),
    /// What is wrong, and what to do: home, disk, clock, network, a device.
    Doctor(Doctor),
    /// Print the completion script of a shell: source it when the shell starts.
    Completions(Completions),
}

impl Command {
    /// Whether standard output carries a file.
    pub(crate) fn fills_stdout(&self) -> bool {
        matches!(self, Self::Recv(recv) if recv.dir.as_os_str() == "-")
    }
}

/// `kin demo`.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// What to send [default: a sample that is made for it].
    pub(crate) path: Option<PathBuf>,
}

const PAIR_HELP: &str = "\
How two machines meet:
  here   $ kin pair      shows twelve words
  there  $ kin join      asks for them, and finds this device if it is on the same local network

On different networks, or where multicast does not come through, they find each other through a DHT of your own
(kin dht --help), or:
  here   $ kin pair --address-file addresses     the file says where this device listens
  there  $ kin join --address tcp:IP:PORT        one --address for each line of the file

Who types the words there becomes a paired device here; it will be able to offer you files, and you approve each offer.
A code serves one device, once, and is void after its time.";

/// `kin pair`.
#[derive(Debug, Args)]
pub(crate) struct Pair {
    /// Trust whoever knows the code, without a question.
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// How long the code lives, 5m to 10m.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = ttl)]
    pub(crate) ttl: Duration,
    /// What this device is called from now on.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Write the words to this file, readable for you only.
    #[arg(long, value_name = "FILE")]
    pub(crate) code_file: Option<PathBuf>,
    /// Write this device's addresses to this file, one a line.
    #[arg(long, value_name = "FILE")]
    pub(crate) address_file: Option<PathBuf>,
}

const JOIN_HELP: &str = "\
How two machines meet:
  there  $ kin pair      shows twelve words
  here   $ kin join      asks for them; four letters of each are enough

The other device is looked for on the local network, and with --dht-bootstrap everywhere, for ten minutes at most. With --address
it need not be found: `kin pair --address-file FILE` there says where it listens.";

/// `kin join`.
#[derive(Debug, Args)]
pub(crate) struct Join {
    /// The words. Better typed at the prompt: a shell remembers its command lines.
    #[arg(value_name = "WORDS", add = ArgValueCompleter::new(complete_word))]
    pub(crate) words: Vec<String>,
    /// Read the words from this file.
    #[arg(long, value_name = "FILE", conflicts_with = "words")]
    pub(crate) code_file: Option<PathBuf>,
    /// Read the words from standard input.
    #[arg(long, conflicts_with_all = ["words", "code_file"])]
    pub(crate) code_stdin: bool,
    /// Where the other device listens: tcp:IP:PORT.
    #[arg(long, value_name = "ADDR", value_parser = transports::address)]
    pub(crate) address: Vec<Address>,
    /// Pair without a question.
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// What this device is called from now on.
    #[arg(long)]
    pub(crate) name: Option<String>,
}

/// `kin devices`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Devices {
    #[command(subcommand)]
    pub(crate) verb: Option<DevicesVerb>,
}

/// `kin devices …`. A DEVICE is an id, a name, or a unique beginning of either.
#[derive(Debug, Subcommand)]
pub(crate) enum DevicesVerb {
    /// All of them.
    List,
    /// Everything about one.
    Show {
        /// Id, name, or a unique beginning of either.
        #[arg(add = ArgValueCompleter::new(complete_device))]
        device: String,
    },
    /// Call it something else, here.
    Rename {
        /// Id, name, or a unique beginning of either.
        #[arg(add = ArgValueCompleter::new(complete_device))]
        device: String,
        /// The new name.
        name: String,
    },
    /// What it may do here: shown, or changed by the flags.
    Policy(PolicyArgs),
    /// Let it do nothing at all, and never pair with it again, until --off.
    Block {
        /// Id, name, or a unique beginning of either.
        #[arg(add = ArgValueCompleter::new(complete_device))]
        device: String,
        /// Lift it.
        #[arg(long)]
        off: bool,
    },
    /// Remove it: from then on nothing of it is accepted. It is told, now or at its next contact.
    Forget {
        /// Id, name, or a unique beginning of either.
        #[arg(add = ArgValueCompleter::new(complete_device))]
        device: String,
        /// And never pair with it again, whatever code it brings.
        #[arg(long)]
        block: bool,
    },
}

/// `kin devices policy`.
#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    /// Id, name, or a unique beginning of either.
    #[arg(add = ArgValueCompleter::new(complete_device))]
    pub(crate) device: String,
    /// What happens to its files under `kin up`: `ask` leaves them to a `kin recv`.
    #[arg(long, value_enum)]
    pub(crate) files: Option<crate::events::Files>,
    /// Bytes that one offer may have, for example 500M; `none`: as many as there are.
    #[arg(long, value_name = "SIZE", value_parser = size_or_none)]
    pub(crate) max: Option<Limit>,
    /// Files, directories and links that one offer may have; `none`: as many as there are.
    #[arg(long, value_name = "NUMBER", value_parser = number_or_none)]
    pub(crate) max_entries: Option<Entries>,
    /// Where its files go under `kin up`; an empty one: where all others go.
    #[arg(long, value_name = "DIR")]
    pub(crate) folder: Option<OsString>,
    /// Whether its messages are taken.
    #[arg(long, value_name = "yes|no", value_parser = yes_or_no)]
    pub(crate) messages: Option<bool>,
    /// A protocol of an application that it may speak from now on.
    #[arg(long, value_name = "NAME")]
    pub(crate) allow: Vec<String>,
    /// One that it may not speak any more.
    #[arg(long, value_name = "NAME")]
    pub(crate) deny: Vec<String>,
}

/// A bound, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit(pub(crate) Option<u64>);

/// A number of entries, or no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entries(pub(crate) Option<u32>);

fn number_or_none(text: &str) -> Result<Entries, String> {
    if text == "none" {
        return Ok(Entries(None));
    }
    text.parse().map(|number| Entries(Some(number))).map_err(|_| "a number, or `none`".to_owned())
}

fn size_or_none(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit(None));
    }
    let size: bytesize::ByteSize = text.parse().map_err(|_| "a size has the form 500M or 2GiB, or is `none`".to_owned())?;
    Ok(Limit(Some(size.as_u64())))
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("yes or no".to_owned()),
    }
}

const UP_HELP: &str = "\
Files are taken by the policy of their device:  kin devices policy DEVICE --files auto
Those that are left to a person wait for whoever runs `kin recv` beside it, and are declined if nobody does.
Every other command of this home goes on working: it asks this one.  Ctrl-C or SIGTERM ends it in order.

As a service of systemd:  kin up --systemd DIR > ~/.config/systemd/user/kin.service && systemctl --user enable --now kin";

/// `kin up`.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Where files go that are taken by policy [default: nowhere; only devices with a folder of their own may send].
    pub(crate) dir: Option<PathBuf>,
    /// Write this device's addresses into this file, one a line.
    #[arg(long, value_name = "F")]
    pub(crate) address_file: Option<PathBuf>,
    /// Serve counters in Prometheus' text form on this local port, for example 127.0.0.1:9464.
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<std::net::SocketAddr>,
    /// Print a unit for systemd, and end.
    #[arg(long)]
    pub(crate) systemd: bool,
}

const DHT_HELP: &str = "\
On a machine that all devices can reach:
  $ kin dht                          says at which address, on port 4711
On each device:
  $ export KIN_DHT_BOOTSTRAP=/ip4/203.0.113.7/tcp/4711/p2p/12D3KooW…
  $ kin pair, kin join, kin send …   find each other from any network

The node keeps sealed records for half an hour: it learns from which networks devices ask, and not who they are. Several nodes
that know each other (--dht-bootstrap) serve each other's devices. What two devices that have found each other need besides is
a way: an address of one of them that the other reaches, or a relay (--relay).";

/// `kin dht`.
#[derive(Debug, Args)]
pub(crate) struct Dht {
    /// Write this node's addresses to this file, one a line.
    #[arg(long, value_name = "FILE")]
    pub(crate) address_file: Option<PathBuf>,
}

/// `kin ping`.
#[derive(Debug, Args)]
pub(crate) struct Ping {
    /// Id, name, or a unique beginning of either.
    #[arg(add = ArgValueCompleter::new(complete_device))]
    pub(crate) device: String,
    /// How often.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) count: u32,
    /// Where the other device listens, beside the addresses of earlier contacts.
    #[arg(long, value_name = "ADDR", value_parser = transports::address)]
    pub(crate) address: Vec<Address>,
    /// Try for so long until the device is there.
    #[arg(long, value_name = "TIME", value_parser = wait, num_args = 0..=1, default_missing_value = "30s")]
    pub(crate) wait: Option<Duration>,
}

/// `kin doctor`.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Id, name, or a unique beginning of either [default: only this device is looked at].
    #[arg(add = ArgValueCompleter::new(complete_device))]
    pub(crate) device: Option<String>,
    /// Where the other device listens, beside the addresses of earlier contacts.
    #[arg(long, value_name = "ADDR", value_parser = transports::address)]
    pub(crate) address: Vec<Address>,
}

const SEND_HELP: &str = "\
`send DIR` makes DIR at the destination; `send DIR/` sends what is in it. What cannot be read, and sockets, devices and
pipes, are left out and listed (exit 11). Kept: names, bytes, permissions within the receiver's umask, modification times,
empty directories, symbolic links. Not kept: owners, ACLs, extended attributes, hard links as links.

What is interrupted goes on: the same command once more, or `kin transfers resume`, sends nothing that has arrived.

Patterns are those of a .gitignore: `*.o` anywhere, `build/` only directories, `/album/raw` from where paths begin as they
arrive, `!keep.o` takes back what an earlier one left out. A file .kinignore in a directory that is sent has them a line each,
for what is in that directory. What is left out so is no failure. Sparse files arrive sparse.

The other device must be receiving:  kin recv DIR
It is looked for at the addresses of earlier contacts, on the local network, and at --address.";

/// `kin send`.
#[derive(Debug, Args)]
pub(crate) struct Send {
    /// Files and directories; `-` alone is standard input, and needs a --name.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<OsString>,
    /// Id, name, or a unique beginning of either.
    #[arg(long, value_name = "DEVICE", add = ArgValueCompleter::new(complete_device))]
    pub(crate) to: String,
    /// Where the other device listens, beside the addresses of earlier contacts.
    #[arg(long, value_name = "ADDR", value_parser = transports::address)]
    pub(crate) address: Vec<Address>,
    /// Try for so long until the device is there [default: 30s without the flag's value; exit 14 when it runs out].
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "30s", value_parser = wait)]
    pub(crate) wait: Option<Duration>,
    /// Where the device is not reached in 5 s (--wait), remember for so long what to send: `kin up` sends it when the device comes [default: 7d without the flag's value].
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "7d", value_parser = wait)]
    pub(crate) queue: Option<Duration>,
    /// Leave out what this pattern matches; may be given several times, and the last that matches decides.
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,
    /// Files of this name in a sent tree say what is left out there; an empty one: none do.
    #[arg(long, value_name = "NAME", default_value = ".kinignore")]
    pub(crate) ignore_file: Vec<OsString>,
    /// What becomes of symbolic links.
    #[arg(long, value_enum, default_value_t = Symlinks::Keep)]
    pub(crate) symlinks: Symlinks,
    /// Bytes of files a second at most, for example 20M; at least 100k.
    #[arg(long, value_name = "RATE", value_parser = limit_rate)]
    pub(crate) limit_rate: Option<NonZeroU64>,
    /// List what would be sent, and send nothing. Needs no network.
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// What standard input is called at the other device, where PATH is `-`.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<OsString>,
}

fn limit_rate(text: &str) -> Result<NonZeroU64, String> {
    let size: bytesize::ByteSize = text.trim_end_matches("/s").parse().map_err(|_| "a rate has the form 500k, 20M or 1MiB".to_owned())?;
    let rate = NonZeroU64::new(size.as_u64()).filter(|rate| rate.get() >= SLOWEST);
    rate.ok_or_else(|| "at least 100k: slower streams look broken to the other device".to_owned())
}

/// What becomes of symbolic links in a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Symlinks {
    /// Sent as links.
    Keep,
    /// What they point to is sent in their place.
    Follow,
    /// Left out, and listed.
    Skip,
}

const RECV_HELP: &str = "\
How the other device finds this one, if it moved since the last contact, and they are not on one local network:
  here   $ kin recv ~/Downloads --address-file addresses
  there  $ kin send ./album --to THIS-DEVICE --address tcp:IP:PORT

Nothing has its final name before its digest was compared. The umask applies. Not kept: owners, ACLs, extended attributes,
hard links as links. What a policy skips makes the exit code 11, here and at the sender.";

/// `kin recv`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Recv {
    /// Where to put what arrives; made if its parent exists. `-`: one file, to standard output once all of it is verified.
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Take nothing from others than this device.
    #[arg(long, value_name = "DEVICE", add = ArgValueCompleter::new(complete_device))]
    pub(crate) from: Option<String>,
    /// End after one transfer.
    #[arg(long)]
    pub(crate) once: bool,
    /// Take every offer without a question.
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// What happens where a name is taken [default: ask on a terminal, else fail; rename with --yes].
    #[arg(long, value_enum, value_name = "POLICY")]
    pub(crate) on_conflict: Option<OnConflict>,
    /// End (exit 14) when no offer comes for so long.
    #[arg(long, value_name = "TIME", value_parser = wait)]
    pub(crate) timeout: Option<Duration>,
    /// Write this device's addresses to this file, one a line.
    #[arg(long, value_name = "FILE")]
    pub(crate) address_file: Option<PathBuf>,
    /// It is for standard output.
    #[arg(skip)]
    pub(crate) one_file: bool,
}

/// What happens where a name is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnConflict {
    /// The one that arrives is left out.
    Skip,
    /// The top item arrives under a new name.
    Rename,
    /// The one that arrives takes the place.
    Overwrite,
    /// The newer one stays.
    Update,
    /// The offer is declined.
    Fail,
    /// A person decides.
    Ask,
}

/// `kin transfers`.
#[derive(Debug, Args)]
pub(crate) struct Transfers {
    #[command(subcommand)]
    pub(crate) verb: Option<TransfersVerb>,
}

/// `kin transfers …`.
#[derive(Debug, Subcommand)]
pub(crate) enum TransfersVerb {
    /// What was begun and is not finished, in both directions.
    List,
    /// Everything about one.
    Show {
        /// A unique beginning of its id.
        transfer: String,
    },
    /// Go on with one: let what is paused go on, offer the same again, or receive what is offered again. What has arrived is not sent again.
    Resume {
        /// A unique beginning of its id.
        transfer: String,
        /// Where the other device listens, beside the addresses of earlier contacts.
        #[arg(long, value_name = "ADDR", value_parser = transports::address)]
        address: Vec<Address>,
    },
    /// Have one rest until it is resumed here: what is on its way arrives, and nothing more is sent. `kin up` carries it, and the other device
    /// hears of it; what a command carries by itself ends with Ctrl-C, and keeps what has arrived.
    Pause {
        /// A unique beginning of its id.
        transfer: String,
    },
    /// Give one up: what has arrived of it under temporary names is removed.
    Cancel {
        /// A unique beginning of its id.
        transfer: String,
    },
    /// Give up all that do not run.
    Prune,
}

/// `kin msg`.
#[derive(Debug, Args)]
pub(crate) struct Msg {
    #[command(subcommand)]
    pub(crate) verb: MsgVerb,
}

const MSG_HELP: &str = "\
A message is there once or not at all: what is reported delivered is in the other device's store, until it is taken there
with `kin msg tail`. It is delivered while something of kin runs there: kin recv, kin msg tail.";

/// `kin msg …`.
#[derive(Debug, Subcommand)]
pub(crate) enum MsgVerb {
    /// Send a text to a paired device, and wait until it is delivered.
    #[command(after_help = MSG_HELP)]
    Send(MsgSend),
    /// Print messages as they come, and take them out of the store. Begins with those that are there.
    Tail(MsgTail),
    /// Print the messages that came and were not taken, and those that wait.
    List {
        /// Only of this device.
        #[arg(add = ArgValueCompleter::new(complete_device))]
        device: Option<String>,
    },
}

/// `kin msg send`.
#[derive(Debug, Args)]
pub(crate) struct MsgSend {
    /// The text; `-` reads standard input, up to 1 MiB.
    #[arg(value_name = "TEXT", default_value = "-")]
    pub(crate) text: String,
    /// Id, name, or a unique beginning of either.
    #[arg(long, value_name = "DEVICE", add = ArgValueCompleter::new(complete_device))]
    pub(crate) to: String,
    /// Where the other device listens, beside the addresses of earlier contacts.
    #[arg(long, value_name = "ADDR", value_parser = transports::address)]
    pub(crate) address: Vec<Address>,
    /// Try for so long until the device is there [default: 30s without the flag's value; exit 14 when it runs out].
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "30s", value_parser = wait)]
    pub(crate) wait: Option<Duration>,
    /// Wait so long for the receipt.
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "30s", default_value = "30s", value_parser = wait)]
    pub(crate) wait_receipt: Duration,
    /// Where the device is not reached in 5 s (--wait), keep the message for so long: it leaves with the next contact [default: 7d without the flag's value].
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "7d", value_parser = wait)]
    pub(crate) queue: Option<Duration>,
}

/// `kin msg tail`.
#[derive(Debug, Args)]
pub(crate) struct MsgTail {
    /// Nothing of others than this device.
    #[arg(long, value_name = "DEVICE", add = ArgValueCompleter::new(complete_device))]
    pub(crate) from: Option<String>,
    /// End after one message.
    #[arg(long)]
    pub(crate) once: bool,
    /// End (exit 14) when no message comes for so long.
    #[arg(long, value_name = "TIME", value_parser = wait)]
    pub(crate) timeout: Option<Duration>,
    /// Write this device's addresses to this file, one a line.
    #[arg(long, value_name = "FILE")]
    pub(crate) address_file: Option<PathBuf>,
}

/// `kin completions`.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// bash, elvish, fish, powershell or zsh.
    #[arg(value_parser = ["bash", "elvish", "fish", "powershell", "zsh"])]
    pub(crate) shell: String,
}

fn ttl(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let (least, most) = CODE_TTL_RANGE;
    if time < least || time > most { Err("a code lives 5m to 10m".to_owned()) } else { Ok(time) }
}

fn wait(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| format!("{error}; for example 30s or 10m"))?;
    if time.is_zero() || time > LONGEST_WAIT { Err("more than nothing and at most 30days".to_owned()) } else { Ok(time) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Cli, ErrorKind> {
        Cli::try_parse_from(line.split(' ')).map_err(|error| error.kind())
    }

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_are_bounded() {
        for good in ["5m", "10m", "300s", "7m 30s"] {
            assert!(ttl(good).is_ok(), "{good}");
        }
        for bad in ["4m 59s", "11m", "1M", "10", "0s", "", "-5m"] {
            assert!(ttl(bad).is_err(), "{bad}");
        }
        assert!(wait("30s").is_ok() && wait("0s").is_err() && wait("1y").is_err());
    }

    #[test]
    fn flags_of_the_contract_are_understood() {
        for line in [
            "kin pair --yes --ttl 10m --name x --code-file f --address-file g --json --bind 127.0.0.1:0 --bind [::1]:0",
            "kin --home /x join a b c --address tcp:127.0.0.1:1 --address tcp:127.0.0.1:2 --yes --name y",
            "kin join --code-stdin",
            "kin devices",
            "kin devices list",
            "kin devices show x",
            "kin devices rename x y",
            "kin devices forget x --no-input",
            "kin send a b --to c --wait --symlinks skip",
            "kin send a/ --to c --symlinks follow --exclude *.o --exclude /b --ignore-file .gitignore --limit-rate 20M -n",
            "kin send - --to c --name x.tar",
            "kin recv - --from c",
            "kin send a --to c --wait=5m -q",
            "kin recv",
            "kin recv d --from x --once --yes --on-conflict update --timeout 10s --address-file f",
            "kin demo --transport tcp",
            "kin completions zsh",
            "kin id -vv --progress plain",
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err());
        }
    }

    #[test]
    fn contradictions_are_usage_errors() {
        for line in [
            "kin",
            "kin send a",
            "kin send --to b",
            "kin join a --code-stdin",
            "kin -q -v id",
            "kin recv --on-conflict maybe",
            "kin send a --to b --limit-rate 5k",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
