//! What is done to the mounted tree: one file per verb.
