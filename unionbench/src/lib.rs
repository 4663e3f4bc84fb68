//! What a union file system costs, where and why.
//!
//! Data flows one way:
//! `scenario → plan → stack → backend → probe → workload → record → store →
//! report, compare, gate`. `unit` and `record` lie at the bottom: producers and
//! consumers share data, never each other. `cargo xtask check` refuses an
//! import that goes up.

pub mod unit;

pub mod record;

pub mod stats;

pub mod sys;

pub mod scenario;

pub mod plan;

pub mod stack;

pub mod backend;

pub mod probe;

pub mod workload;

pub mod run;

pub mod conformance;

pub mod lab;

pub mod trace;

pub mod export;

pub mod store;

pub mod report;

pub mod compare;

pub mod gate;

pub mod cli;
