//! Memory for frames: where it lies ([`Region`]) and who owns which frame of it ([`Pool`]).

pub mod pool;
pub mod region;

pub use pool::{Frame, Ledger, Lent, NotLent, Pool};
pub use region::Region;
