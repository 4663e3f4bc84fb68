//! What the kernel is asked to tell: catalogue, engines, attaching, draining.
