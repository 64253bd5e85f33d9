//! The README's example: show a code, pair, send a folder.

use adapter_tokio::service::{NetworkingService, SendRequest, ServiceConfig};
use protocol_core::effects::Event;
use protocol_core::node::Confirm;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let service = NetworkingService::init_networking(ServiceConfig::new("/var/lib/my-program/kin")).await?;
    let mut events = service.events();

    let invite = service.start_pairing_as_initiator(protocol_core::limits::CODE_TTL, Confirm::Ask).await?;
    println!("type this on the other device: {}", invite.code.words().join(" "));

    while let Some(event) = events.next().await {
        match event {
            // Ask your user: is this the device, and does it show the same six digits?
            Event::PairRequest { session, peer, check } => {
                println!("{} wants to pair, check number {check:06}", peer.name);
                service.answer_pairing(session, true).await?;
            }
            Event::Paired { peer, .. } => {
                let request = SendRequest { paths: vec!["holiday-pictures".into()], ..SendRequest::default() };
                service.share_with_device(peer.device, request).await?;
            }
            Event::Progress { durable, total, .. } => println!("{durable} of {total} bytes are safe there"),
            Event::Done { summary, .. } => {
                println!("{} files arrived", summary.files);
                break;
            }
            Event::Failed { reason, .. } => return Err(reason.into()),
            _ => {}
        }
    }
    service.shutdown().await;
    Ok(())
}
