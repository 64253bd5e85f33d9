//! Protocols of the embedder.

use protocol_core::faults::OpenError;
use protocol_core::ids::DeviceId;
use protocol_core::node::{Access, RegisterError};
use tokio::sync::oneshot;

use super::{CallError, NetworkingService};
use crate::protocol::{Protocol, ProtocolStream};

impl NetworkingService {
    /// Speaks a protocol from now on, until what is returned is dropped. 64 streams of it wait to be taken; one more is reset.
    ///
    /// # Errors
    /// [`RegisterError`].
    pub async fn register_protocol(&self, name: &str, access: Access) -> Result<Protocol, CallError<RegisterError>> {
        let of = name.to_owned();
        let incoming = self.call(move |host| host.register_protocol(&of, access)).await?.map_err(CallError::Refused)?;
        Ok(Protocol::new(name.to_owned(), incoming, self.calls.downgrade()))
    }

    /// Opens a stream of a protocol to a device with which a session stands ([`connect`](Self::connect) comes first).
    ///
    /// Ends when the other device has said yes, or does not say it; dropped early, a stream that comes about is reset.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open_protocol(&self, device: DeviceId, name: &str) -> Result<ProtocolStream, CallError<OpenError>> {
        let (answer, opened) = oneshot::channel();
        let name = name.to_owned();
        self.call(move |host| host.open_protocol(device, &name, answer)).await?;
        opened.await.map_err(|_| CallError::Closed)?.map_err(CallError::Refused)
    }
}
