//! What one small world of the simulator takes: two devices that pair, with nothing going wrong, and one tree that is sent; against the
//! cryptography of the pairing and its session alone, which is the real one.
//!
//! ```sh
//! cargo bench -p kin-tests --bench worlds
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on says where")]

use std::hint::black_box;
use std::time::Duration;

use adapter_sim::run::run;
use adapter_sim::script::Script;
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use kin_tests::figures::Figure;
use protocol_core::crypto::exchange::ExchangeSecret;
use protocol_core::crypto::kem::{KemSecret, encapsulate};
use protocol_core::crypto::secret::Secret;
use rustix::time::{ClockId, clock_gettime};

const ROUNDS: usize = 21;
/// Worlds of one round.
const TIMES: u64 = 40;

const SMALL: &str = r#"{"chance":1,"wires":["both","both"],"pieces":"whole","latency":[0,0],"aes":0,"patient":false,"lookups":0}
{"at":0,"step":{"invite":{"dev":0,"ask":false}}}
{"at":0,"step":{"join":{"dev":1,"of":0,"words":"right","ask":false,"lost":0}}}
"#;
const SENT: &str = r#"{"at":500,"step":{"share":{"dev":0,"peer":1,"tree":1}}}
"#;

/// Processor time of this process.
fn used() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.try_into().unwrap(), now.tv_nsec.try_into().unwrap())
}

/// The primitives of one pairing, of both sides.
fn primitives() {
    let sign = SigningKey::from_bytes(&[9; 32]);
    let kem = KemSecret::new(black_box(&Secret::new([4; 64])));
    let (ciphertext, _) = encapsulate(&kem.public(), black_box(&Secret::new([8; 32]))).unwrap();
    black_box(kem.decapsulate(&ciphertext));
    for other in [2, 3] {
        let other = ExchangeSecret::new(&Secret::new([other; 32])).public();
        let own = ExchangeSecret::new(black_box(&Secret::new([5; 32])));
        black_box((own.public(), own.agree(&other)));
        let signature = sign.sign(black_box(&[5; 80]));
        let key = VerifyingKey::from_bytes(black_box(sign.verifying_key().as_bytes())).unwrap();
        key.verify_strict(&[5; 80], &signature).unwrap();
    }
}

fn main() {
    println!("| world | runs a CPU second | events a CPU second | events a run | AEADs a run | a run, in pairings' primitives |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for (what, text) in [("pairing", SMALL.to_owned()), ("pairing, one tree", format!("{SMALL}{SENT}"))] {
        let script = Script::from_text(&text).unwrap();
        let outcome = run(&script);
        assert_eq!(outcome.violation, None);
        let (mut runs, mut ratios) = (Vec::new(), (Vec::new(), Vec::new()));
        for _ in 0..=ROUNDS {
            let since = used();
            for _ in 0..TIMES {
                black_box(run(&script));
            }
            let between = used();
            (0..TIMES).for_each(|_| primitives());
            let (world, alone) = (between - since, used() - between);
            runs.push(TIMES as f64 / world.as_secs_f64());
            ratios.0.push(world.as_secs_f64());
            ratios.1.push(alone.as_secs_f64());
        }
        let (runs, events) = (Figure::of(runs[1..].iter().copied()), outcome.events as f64);
        let ratio = Figure::ratio(&ratios.0[1..], &ratios.1[1..]);
        println!("| {what} | {runs:.0} | {:.0} | {events} | {} | {ratio:.2} |", runs.median * events, outcome.sealed);
    }
}
