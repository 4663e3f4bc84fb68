//! From a scenario to setups, cells and the order of measuring. No I/O.
