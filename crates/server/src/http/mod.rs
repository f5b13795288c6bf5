//! Below the interface: connections, who may ask, bodies.

pub mod accept;
pub mod access;
pub mod body;
