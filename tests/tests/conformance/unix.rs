//! The transport that documents the door.

use std::sync::atomic::{AtomicU32, Ordering};

use kin_tests::conformance::stacks::Bare;
use kin_tests::conformance::{Bench, Traits};

#[path = "../../../adapter-tokio/examples/unix.rs"]
mod page;

struct Page;

impl Bench for Page {
    type Transport = page::Unix;
    const TRAITS: Traits = Traits { tells_cuts: false, resets: false, ..Bare::TRAITS };

    async fn up(of: u8) -> page::Unix {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("kin-{}-{of}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        page::Unix::bind(std::env::temp_dir().join(name).to_string_lossy().into_owned()).expect("the name is free")
    }
}

kin_tests::conformance!(Page);
