//! libp2p over its QUIC, which is an optional feature.

kin_tests::conformance!(kin_tests::conformance::stacks::Libp2pQuic);
