//! The order of phases, and the guards that undo them in reverse.
