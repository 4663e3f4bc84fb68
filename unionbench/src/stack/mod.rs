//! Builds the layers that a scenario describes.
