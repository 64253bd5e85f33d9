kin_tests::conformance!(kin_tests::conformance::stacks::Noise);
