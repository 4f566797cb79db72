//! What the Lambdas share: reading their environment and opening the ports.
