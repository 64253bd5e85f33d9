//! A relay of Iroh without TLS, for tests on a network of one's own: `cargo run -p adapter-iroh --example relay -- 127.0.0.1:3340`.
//! It prints its URL. What runs in public is the program `iroh-relay`, with a certificate (docs/SERVERS.md).

use std::net::SocketAddr;

use iroh_relay::server::{RelayConfig, Server, ServerConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let at: SocketAddr = std::env::args().nth(1).ok_or("where to listen: IP:PORT")?.parse()?;
    let mut config = ServerConfig::default();
    config.relay = Some(RelayConfig::new(at));
    let server = Server::spawn(config).await?;
    println!("http://{}", server.http_addr().ok_or("it does not listen")?);
    std::future::pending::<()>().await;
    Ok(())
}
