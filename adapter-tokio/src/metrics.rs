//! What passed between this device and others since the process began: counted from events, read by owners and by Prometheus.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol_core::effects::{DeviceState, Direction, Event, Route, TransferKey};
use protocol_core::ids::DeviceId;
use protocol_core::info::Address;
use protocol_core::node::DeviceView;
use protocol_core::time::Timestamp;
use protocol_core::wire::control::MessageState;

/// Over so long goodput is averaged: what is older counts less than half.
const WINDOW: Duration = Duration::from_secs(2);

/// What passed between this device and another.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DeviceMetrics {
    /// Bytes of files that left for it.
    pub bytes_sent: u64,
    /// Bytes of files that came from it and were written.
    pub bytes_received: u64,
    /// Transfers that ended with a receipt.
    pub transfers_done: u64,
    /// Transfers that ended without one.
    pub transfers_failed: u64,
    /// Messages whose delivery it told.
    pub messages_delivered: u64,
    /// Messages that came from it.
    pub messages_received: u64,
    /// Bytes of files a second, both ways together, over the last seconds in which any moved.
    pub goodput: f64,
}

#[derive(Debug, Default)]
struct Counted {
    metrics: DeviceMetrics,
    last: Option<Timestamp>,
}

/// The counters of every device.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    devices: BTreeMap<DeviceId, Counted>,
    moved: BTreeMap<TransferKey, u64>,
}

impl Metrics {
    /// Something happened.
    // HOST-21.
    pub(crate) fn on(&mut self, now: Timestamp, event: &Event) {
        match event {
            Event::Progress { transfer, moved, .. } => self.on_progress(now, *transfer, *moved),
            Event::Done { transfer, .. } => {
                self.moved.remove(transfer);
                self.of(transfer.device).transfers_done += 1;
            }
            Event::Failed { transfer, .. } => {
                self.moved.remove(transfer);
                self.of(transfer.device).transfers_failed += 1;
            }
            Event::MessageReceipt { device, state: MessageState::Delivered | MessageState::HandedOver, .. } => {
                self.of(*device).messages_delivered += 1;
            }
            Event::Message { device, .. } => self.of(*device).messages_received += 1,
            Event::Removed { device } => drop(self.devices.remove(device)),
            _ => {}
        }
    }

    fn of(&mut self, device: DeviceId) -> &mut DeviceMetrics {
        &mut self.devices.entry(device).or_default().metrics
    }

    fn on_progress(&mut self, now: Timestamp, transfer: TransferKey, moved: u64) {
        let before = self.moved.insert(transfer, moved).unwrap_or(0);
        let bytes = moved.saturating_sub(before);
        let counted = self.devices.entry(transfer.device).or_default();
        match transfer.direction {
            Direction::Outgoing => counted.metrics.bytes_sent += bytes,
            Direction::Incoming => counted.metrics.bytes_received += bytes,
        }
        let since = counted.last.replace(now).map_or(Duration::ZERO, |last| now.since(last)).as_secs_f64();
        if since > 0.0 && bytes > 0 {
            let share = 1.0 - (-since / WINDOW.as_secs_f64()).exp();
            counted.metrics.goodput += (bytes as f64 / since - counted.metrics.goodput) * share;
        }
    }

    /// The counters of a device, all zero if nothing passed.
    pub(crate) fn get(&self, device: DeviceId) -> DeviceMetrics {
        self.devices.get(&device).map(|counted| counted.metrics).unwrap_or_default()
    }
}

/// The state of every device in the text form that Prometheus reads (exposition format 0.0.4). Devices are named by their ids alone.
pub fn prometheus(devices: &[(DeviceView, DeviceMetrics)]) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, value: &dyn Fn(&DeviceView, &DeviceMetrics) -> Option<f64>| {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        for (device, metrics) in devices {
            if let Some(value) = value(device, metrics) {
                text.push_str(&format!("{name}{{device=\"{}\"}} {value}\n", device.id));
            }
        }
    };
    family("kin_connected", "gauge", "1 while a proven session stands.", &|device, _| {
        Some(f64::from(u8::from(device.state == DeviceState::Connected)))
    });
    family(
        "kin_sessions_total",
        "counter",
        "Times that there was a session since the start, however often it was renewed.",
        &|device, _| Some(device.sessions as f64),
    );
    family("kin_reconnects_total", "counter", "The same without the first.", &|device, _| Some(device.sessions.saturating_sub(1) as f64));
    family("kin_rtt_seconds", "gauge", "The last round trip on the session.", &|device, _| device.rtt.map(|rtt| rtt.as_secs_f64()));
    family("kin_sent_bytes_total", "counter", "Bytes of files that left.", &|_, metrics| Some(metrics.bytes_sent as f64));
    family("kin_received_bytes_total", "counter", "Bytes of files that came.", &|_, metrics| Some(metrics.bytes_received as f64));
    family("kin_goodput_bytes_per_second", "gauge", "Bytes of files a second, lately.", &|_, metrics| Some(metrics.goodput));
    family("kin_transfers_done_total", "counter", "Transfers that ended with a receipt.", &|_, metrics| {
        Some(metrics.transfers_done as f64)
    });
    family("kin_transfers_failed_total", "counter", "Transfers that ended without.", &|_, metrics| Some(metrics.transfers_failed as f64));
    family("kin_messages_delivered_total", "counter", "Messages that were delivered.", &|_, metrics| {
        Some(metrics.messages_delivered as f64)
    });
    family("kin_messages_received_total", "counter", "Messages that came.", &|_, metrics| Some(metrics.messages_received as f64));
    text.push_str("# HELP kin_route_info The way of the session that stands.\n# TYPE kin_route_info gauge\n");
    for (device, _) in devices {
        if let Some(Route { transport, address }) = &device.route {
            let relayed = Address { kind: transport.clone(), text: address.clone() }.is_relayed();
            let transport = transport.name();
            text.push_str(&format!("kin_route_info{{device=\"{}\",transport=\"{transport}\",relayed=\"{relayed}\"}} 1\n", device.id));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol_core::ids::{MessageId, TransferId};

    fn progress(moved: u64) -> Event {
        let transfer = TransferKey { device: DeviceId([1; 16]), direction: Direction::Outgoing, id: TransferId([2; 16]) };
        Event::Progress { transfer, moved, durable: 0, total: 100 }
    }

    /// HOST-21.
    #[test]
    fn bytes_are_counted_once_and_goodput_follows() {
        let mut metrics = Metrics::default();
        for second in 1..=60 {
            metrics.on(Timestamp::from_micros(second * 1_000_000), &progress(second * 1_000));
        }
        let counted = metrics.get(DeviceId([1; 16]));
        assert_eq!((counted.bytes_sent, counted.bytes_received), (60_000, 0));
        assert!((counted.goodput - 1_000.0).abs() < 1.0, "{}", counted.goodput);
    }

    /// HOST-21: what was refused was not delivered.
    #[test]
    fn a_message_counts_once_it_is_delivered() {
        let mut metrics = Metrics::default();
        for state in [MessageState::Delivered, MessageState::Refused, MessageState::Conflict, MessageState::HandedOver] {
            metrics.on(Timestamp::from_micros(1), &Event::MessageReceipt { device: DeviceId([1; 16]), id: MessageId([2; 16]), state });
        }
        assert_eq!(metrics.get(DeviceId([1; 16])).messages_delivered, 2);
    }
}
