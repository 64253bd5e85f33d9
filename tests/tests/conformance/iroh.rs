kin_tests::conformance!(kin_tests::conformance::stacks::Quic);
