//! What a running `up` does.
