//! The connections and streams of the simulator, of both kinds. A Node takes everything at once: nothing waits there.

mod many {
    kin_tests::conformance!(kin_tests::conformance::simulated::Many, unbounded);
}

mod one {
    kin_tests::conformance!(kin_tests::conformance::simulated::One, unbounded);
}
