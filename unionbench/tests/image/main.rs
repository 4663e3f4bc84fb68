//! Images: what is unpacked is what the archives say, and nothing else.

mod builder;
mod hostile;
mod places;
mod study;
mod tree;
mod unpack;
