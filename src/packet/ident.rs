//! Fresh IPv4 identifications.

/// See design.md section 3.
#[derive(Debug, Default)]
pub struct Idents {}
