//! Tables, plots and files derived from a record: one file per format.
