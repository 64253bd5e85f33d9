//! `kin dht`: a node of the DHT, for devices that look for each other across networks. It is no device itself.

use super::Context;
use crate::args::Dht;
use crate::exit::Outcome;

#[cfg(not(feature = "libp2p"))]
pub(super) async fn run(_: &Context, _: &Dht) -> Outcome {
    Err(crate::exit::Problem::usage("libp2p is not built in, and the DHT is spoken over it"))
}

#[cfg(feature = "libp2p")]
pub(super) async fn run(context: &Context, args: &Dht) -> Outcome {
    node::run(context, args).await
}

#[cfg(feature = "libp2p")]
mod node {
    use std::fs::DirBuilder;
    use std::os::unix::fs::DirBuilderExt as _;
    use std::path::Path;

    use adapter_libp2p::kademlia::Server;
    use data_encoding::HEXLOWER_PERMISSIVE;

    use super::{Context, Dht, Outcome};
    use crate::events::Event;
    use crate::exit::{Exit, Problem};
    use crate::{private_file, transports};

    /// The file in the home that holds the node's key: its address has to stay the same.
    const KEY: &str = "dht.key";

    pub(super) async fn run(context: &Context, args: &Dht) -> Outcome {
        let seed = key(&context.home()?)?;
        let bound = Server::bind(seed, &transports::dht_binds(&context.global.bind)?, transports::dht_nodes(&context.global)).await;
        let mut server = bound.map_err(|error| {
            Problem::new(Exit::State, format!("the node cannot listen: {error}")).next("kin dht --bind 0.0.0.0:PORT  (another port)")
        })?;
        let addresses: Vec<String> = server.addresses().iter().map(|at| format!("libp2p:{at}")).collect();
        if let Some(path) = &args.address_file {
            private_file::write(path, &addresses.iter().map(|at| format!("{at}\n")).collect::<String>())?;
        }
        let shown: String = addresses.iter().map(|at| format!("\n  {at}")).collect();
        context.out.event(&Event::Listening { addresses });
        context.out.say(&format!("A node of the DHT. Devices use it with --dht-bootstrap and the one of these that they reach:{shown}"));
        let mut stop = context.stop.clone();
        stop.or(server.run()).await
    }

    /// The node's key, made at its first start.
    fn key(home: &Path) -> Outcome<[u8; 32]> {
        let path = home.join(KEY);
        let failed = |error: std::io::Error| Problem::new(Exit::LocalIo, format!("{}: {error}", path.display()));
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let seed = HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
                seed.ok_or_else(|| {
                    Problem::new(Exit::State, format!("{} is damaged: remove it, and give devices the new address", path.display()))
                })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut seed = [0; 32];
                getrandom::fill(&mut seed).map_err(|error| failed(error.into()))?;
                DirBuilder::new().recursive(true).mode(0o700).create(home).map_err(failed)?;
                private_file::write(&path, &(HEXLOWER_PERMISSIVE.encode(&seed) + "\n"))?;
                Ok(seed)
            }
            Err(error) => Err(failed(error)),
        }
    }
}
