//! The connections and streams of the simulator, of both kinds.

mod many {
    kin_tests::conformance!(kin_tests::conformance::simulated::Many);
}

mod one {
    kin_tests::conformance!(kin_tests::conformance::simulated::One);
}
