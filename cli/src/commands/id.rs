//! `kin id`: who this device is.

use adapter_tokio::home::HomeError;
use adapter_tokio::service::{InitError, NetworkingService, ServiceConfig};

use super::Context;
use crate::events::Event;
use crate::exit::{Exit, Outcome, Problem};
use crate::output::shown;
use crate::registry::{Who, who};

pub(super) async fn run(context: &Context) -> Outcome {
    let home = context.home()?;
    let mut config = ServiceConfig::new(&home);
    config.stacks.clear();
    let out = &context.out;
    let this = match NetworkingService::init_networking(config).await {
        Ok(service) => {
            let identity = service.identity().clone();
            crate::registry::remember(&home, &identity);
            service.shutdown().await;
            if identity.created {
                out.say(&format!("A new identity was made in {}.", shown(&home.to_string_lossy())));
            }
            Who::from(&identity)
        }
        Err(InitError::Home(HomeError::Locked(_))) => who(&home)?,
        Err(InitError::Home(error)) => return Err(crate::net::home_failed(&error)),
        Err(error) => return Err(Problem::new(Exit::State, shown(&error.to_string()))),
    };
    out.event(&Event::Identity {
        device_id: this.device_id.clone(),
        name: this.name.clone(),
        fingerprint: this.fingerprint.clone(),
        addresses: Vec::new(),
    });
    out.result(&format!("name         {}", shown(&this.name)));
    out.result(&format!("device id    {}", this.device_id));
    out.result(&format!("fingerprint  {}", this.fingerprint));
    out.result(&format!("device key   {}", this.device_key));
    out.result(&format!("iroh key     {}", this.endpoint_id));
    out.result(&format!("home         {}", shown(&home.to_string_lossy())));
    out.say("Where it listens is known while it listens: kin recv DIR --address-file FILE");
    Ok(())
}
