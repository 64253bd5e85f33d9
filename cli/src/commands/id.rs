//! `kin id`: who this device is.

use super::Context;
use crate::events::Event;
use crate::exit::Outcome;
use crate::net::snapshot_or_open;
use crate::output::shown;

pub(super) fn run(context: &Context) -> Outcome {
    let home = context.home()?;
    let (this, created) = snapshot_or_open(context, &home)?;
    let out = &context.out;
    if created {
        out.say(&format!("A new identity was made in {}.", shown(&home.to_string_lossy())));
    }
    out.event(&Event::Identity {
        device_id: this.device_id.clone(),
        name: this.name.clone(),
        fingerprint: this.fingerprint.clone(),
        addresses: this.addresses.clone(),
    });
    out.result(&format!("name         {}", shown(&this.name)));
    out.result(&format!("device id    {}", this.device_id));
    out.result(&format!("fingerprint  {}", this.fingerprint));
    out.result(&format!("device key   {}", this.device_key));
    for address in &this.addresses {
        out.result(&format!("address      {}", shown(address)));
    }
    out.result(&format!("home         {}", shown(&home.to_string_lossy())));
    Ok(())
}
