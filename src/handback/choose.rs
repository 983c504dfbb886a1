//! Which hand-back: the one asked for, or the best that this kernel has.

use super::{Flushed, Handback, HandbackConfig, Inject, OpenError, Veth};
use crate::config::HandbackChoice;
use crate::frame::Ledger;
use crate::packet::Sink;

/// Either hand-back, without dynamic dispatch on the data path.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one per worker, never moved on the data path")]
pub enum AnyHandback {
    /// Live frames.
    Inject(Inject),
    /// AF_XDP over a veth pair.
    Veth(Veth),
}

/// A hand-back and why it was taken.
#[derive(Debug)]
pub struct Chosen {
    /// Ready for use.
    pub handback: AnyHandback,
    /// One line for the user.
    pub why: String,
}

/// Opens the hand-back that `choice` names. `Auto` tries live frames first, which cost about half as much
/// per frame, and the veth pair where they are not to be had.
///
/// # Errors
/// [`OpenError`] of the hand-back asked for; with `Auto`, that of live frames if neither can be opened.
pub fn choose(choice: HandbackChoice, config: &HandbackConfig) -> Result<Chosen, OpenError> {
    let inject = || Inject::open(config).map(AnyHandback::Inject);
    let veth = || Veth::open(config).map(AnyHandback::Veth);
    match choice {
        HandbackChoice::Inject => Ok(Chosen { handback: inject()?, why: "inject, as asked".into() }),
        HandbackChoice::Veth => Ok(Chosen { handback: veth()?, why: "veth, as asked".into() }),
        HandbackChoice::Auto => match inject() {
            Ok(handback) => Ok(Chosen { handback, why: "inject: this kernel runs live frames".into() }),
            Err(error) => match veth() {
                Ok(handback) => Ok(Chosen { handback, why: format!("veth, because {error}") }),
                Err(_) => Err(error),
            },
        },
    }
}

impl AnyHandback {
    /// `inject` or `veth`.
    pub fn name(&self) -> &'static str {
        match self {
            AnyHandback::Inject(_) => "inject",
            AnyHandback::Veth(_) => "veth",
        }
    }
}

macro_rules! either {
    ($self:ident, $inner:ident => $call:expr) => {
        match $self {
            AnyHandback::Inject($inner) => $call,
            AnyHandback::Veth($inner) => $call,
        }
    };
}

impl Sink for AnyHandback {
    #[inline]
    fn reserve(&mut self, frames: usize, len: usize) -> bool {
        either!(self, inner => inner.reserve(frames, len))
    }

    #[inline]
    fn push(&mut self, len: usize) -> &mut [u8] {
        either!(self, inner => inner.push(len))
    }
}

impl Handback for AnyHandback {
    fn flush(&mut self) -> Flushed {
        either!(self, inner => inner.flush())
    }

    fn pending(&self) -> usize {
        either!(self, inner => inner.pending())
    }

    fn discard(&mut self) {
        either!(self, inner => inner.discard());
    }

    fn capacity(&self) -> usize {
        either!(self, inner => inner.capacity())
    }

    fn max_frame(&self) -> usize {
        either!(self, inner => inner.max_frame())
    }

    fn reap(&mut self) {
        either!(self, inner => inner.reap());
    }

    fn synchronous(&self) -> bool {
        either!(self, inner => inner.synchronous())
    }

    fn ledger(&self) -> Ledger {
        either!(self, inner => inner.ledger())
    }
}
