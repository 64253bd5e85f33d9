//! A small Mainline DHT, for tests and for trying things out: `mainline IP [NODES]`. It prints where they are, for `--mainline-bootstrap`.

use std::net::Ipv4Addr;

use mainline::Testnet;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let at: Ipv4Addr = args.next().ok_or("an IPv4 address to listen at")?.parse()?;
    let nodes = args.next().map_or(Ok(3), |nodes| nodes.parse())?;
    let network = Testnet::builder(nodes).bind_address(at).build()?;
    println!("{}", network.bootstrap.join(","));
    loop {
        std::thread::park();
    }
}
