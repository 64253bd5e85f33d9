//! Every label of the protocol, in one table, so that a test can say that all are distinct (PROTOCOL.md, section 4).

/// A label of the key tree: a domain prefix and a name inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label {
    /// One of `kin-id/1 `, `kin-pair/1 `, `kin-link/1 `, `kin-data/1 `, trailing space included.
    pub prefix: &'static str,
    /// The name below it.
    pub name: &'static str,
}

macro_rules! labels {
    ($($const:ident = $prefix:literal $name:literal;)*) => {
        $(#[doc = concat!("`", $prefix, $name, "`")] pub const $const: Label = Label { prefix: $prefix, name: $name };)*
        /// All of them.
        pub const ALL: &[Label] = &[$($const),*];
    };
}

// ID-1.
labels! {
    ID_DEVICE = "kin-id/1 " "device";
    ID_LIBP2P = "kin-id/1 " "libp2p";
    ID_IROH = "kin-id/1 " "iroh";
    ID_STORAGE = "kin-id/1 " "storage";
    PAIR_SESSION_ID = "kin-pair/1 " "session id";
    PAIR_DHT_KEY = "kin-pair/1 " "dht key";
    PAIR_MDNS_ID = "kin-pair/1 " "mdns id";
    PAIR_ADVERT_KEY = "kin-pair/1 " "advert key";
    PAIR_PKARR_KEY = "kin-pair/1 " "pkarr key";
    PAIR_PSK = "kin-pair/1 " "psk";
    PAIR_REQUEST_MAC = "kin-pair/1 " "request mac";
    PAIR_EARLY = "kin-pair/1 " "early";
    PAIR_KEY_I = "kin-pair/1 " "initiator handshake key";
    PAIR_KEY_J = "kin-pair/1 " "joiner handshake key";
    PAIR_MAIN = "kin-pair/1 " "main";
    PAIR_COMPLETE_KEY = "kin-pair/1 " "complete key";
    PAIR_ROOT = "kin-pair/1 " "pairing root";
    PAIR_TRAFFIC_I2J = "kin-pair/1 " "traffic i2j";
    PAIR_TRAFFIC_J2I = "kin-pair/1 " "traffic j2i";
    PAIR_SESSION_REF = "kin-pair/1 " "session ref";
    PAIR_SAS = "kin-pair/1 " "sas";
    LINK_RENDEZVOUS = "kin-link/1 " "rendezvous";
    LINK_RENDEZVOUS_ID = "kin-link/1 " "rendezvous id";
    LINK_RENDEZVOUS_RECORD = "kin-link/1 " "rendezvous record";
    LINK_RENDEZVOUS_PKARR = "kin-link/1 " "rendezvous pkarr";
    LINK_HELLO_MAC = "kin-link/1 " "hello mac";
    LINK_EARLY = "kin-link/1 " "early";
    LINK_KEY_L = "kin-link/1 " "listener handshake key";
    LINK_KEY_D = "kin-link/1 " "dialer handshake key";
    LINK_MAIN = "kin-link/1 " "main";
    LINK_TRAFFIC_D2L = "kin-link/1 " "traffic d2l";
    LINK_TRAFFIC_L2D = "kin-link/1 " "traffic l2d";
    LINK_SESSION_REF = "kin-link/1 " "session ref";
    LINK_UNPAIR_NOTICE = "kin-link/1 " "unpair notice";
    DATA_STREAM_KEY = "kin-data/1 " "stream key";
    DATA_RECORDS = "kin-data/1 " "records";
    DATA_CHUNKS = "kin-data/1 " "chunks";
    DATA_SEQ = "kin-data/1 " "seq";
}

/// Salts of `extract`, first fields of `H`, and signature prefixes: strings used as they stand.
pub mod strings {
    macro_rules! strings {
        ($($const:ident = $text:literal;)*) => {
            $(#[doc = concat!("`", $text, "`")] pub const $const: &[u8] = $text.as_bytes();)*
            /// All of them.
            pub const ALL: &[&[u8]] = &[$($const),*];
        };
    }

    strings! {
        ID_SEED = "kin-id/1 seed";
        DEVICE_ID = "kin-pair/1 device id";
        FINGERPRINT = "kin-pair/1 fingerprint";
        CODE = "kin-pair/1 code";
        ADVERT = "kin-pair/1 advert";
        COMMIT = "kin-pair/1 commit";
        PAIR_PROLOGUE = "kin-pair/1 prologue";
        SIGN_INITIATOR = "kin-pair/1 initiator signature";
        SIGN_JOINER = "kin-pair/1 joiner signature";
        LINK_PROLOGUE = "kin-link/1 prologue";
        SIGN_LISTENER = "kin-link/1 listener signature";
        SIGN_DIALER = "kin-link/1 dialer signature";
        RENDEZVOUS = "kin-link/1 rendezvous";
        RECORD_AAD = "kin-data/1 record";
        CHUNK_AAD = "kin-data/1 chunk";
        MANIFEST = "kin-data/1 manifest";
        RECEIPT = "kin-data/1 receipt";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Invariant N2: a label that stands twice would make one key serve two purposes.
    #[test]
    // ID-1.
    fn labels_are_distinct() {
        let labels: BTreeSet<_> = ALL.iter().map(|l| (l.prefix, l.name)).collect();
        assert_eq!(labels.len(), ALL.len(), "a label stands twice");
        let texts: BTreeSet<_> = strings::ALL.iter().collect();
        assert_eq!(texts.len(), strings::ALL.len(), "a string stands twice");
        for label in ALL {
            assert!(label.prefix.ends_with("/1 ") && label.prefix.is_ascii() && label.name.is_ascii(), "{label:?}");
        }
    }
}
