//! Two devices tell each other what was copied, over a protocol of this program's own.
//!
//! ```text
//! clipboard HOME TEXT                   prints an address and a code, and waits for the other device
//! clipboard HOME TEXT ADDRESS WORD…     types that code
//! ```

use std::error::Error;

use adapter_tokio::protocol::ProtocolStream;
use adapter_tokio::service::{NetworkingService, ServiceConfig, Stack};
use protocol_core::effects::{DeviceState, Event};
use protocol_core::limits::CODE_TTL;
use protocol_core::node::{Access, Confirm};
use protocol_core::pairing::code::PairingCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const CLIPBOARD: &str = "clipboard/1";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (home, text, told) = match &arguments[..] {
        [home, text, told @ ..] if told.len() != 1 => (home, text, told),
        _ => return Err("usage: clipboard HOME TEXT [ADDRESS WORD…]".into()),
    };
    // Only this machine; without `at`, every network that it has.
    let stacks = vec![Stack::tcp().at(vec!["127.0.0.1:0".parse()?])];
    let service = NetworkingService::init_networking(ServiceConfig { stacks, ..ServiceConfig::new(home) }).await?;
    // Before anybody can know us: the first stream may come as soon as we are paired.
    let mut clipboards = service.register_protocol(CLIPBOARD, Access::Paired).await?;
    let mut events = service.events();

    let stream = if let [address, words @ ..] = told {
        let code = PairingCode::parse(&words.join(" "))?;
        service.start_pairing_as_joiner(code, vec![address.parse()?], Confirm::Automatic).await?;
        let device = loop {
            match events.next().await.ok_or("the service has ended")? {
                Event::Device { device, state: DeviceState::Connected, .. } => break device,
                Event::PairFailed { reason, .. } => return Err(reason.into()),
                _ => {}
            }
        };
        service.open_protocol(device, CLIPBOARD).await?
    } else {
        let invite = service.start_pairing_as_initiator(CODE_TTL, Confirm::Automatic).await?;
        let address = service.local_addresses().await?.into_iter().next().ok_or("no address")?;
        println!("{address} {}", invite.code.words().join(" "));
        clipboards.next().await.ok_or("the service has ended")?
    };
    exchange(stream, text).await?;
    service.shutdown().await;
    Ok(())
}

/// Says what was copied here, and prints what was copied there. An end that is read is one: a cut would be an error.
async fn exchange(mut stream: ProtocolStream, text: &str) -> Result<(), Box<dyn Error>> {
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await?;
    let mut theirs = String::new();
    stream.read_to_string(&mut theirs).await?;
    println!("{} copied: {theirs}", stream.device());
    Ok(())
}
