//! Which hand-back: the one asked for, or the best that this kernel has.

use super::{Flushed, Handback, HandbackConfig, Inject, Mixed, OpenError, Tap, Veth};
use crate::config::HandbackChoice;
use crate::frame::Ledger;
use crate::packet::{Datagram, Gathered, Segment, Sink};

/// Either hand-back, without dynamic dispatch on the data path.
#[derive(Debug)]
pub enum AnyHandback {
    /// Live frames.
    Inject(Inject),
    /// AF_XDP over a veth pair.
    Veth(Veth),
    /// A TAP device for what the kernel is to cut, live frames for the rest.
    Tap(Mixed),
}

/// A hand-back and why it was taken.
#[derive(Debug)]
pub struct Chosen {
    /// Ready for use.
    pub handback: AnyHandback,
    /// One line for the user.
    pub why: String,
}

/// Opens the hand-back that `choice` names. `Auto` tries live frames first, which cost about half as much per frame as
/// the veth pair, and with them a TAP device for what the kernel is to cut.
///
/// # Errors
/// [`OpenError`] of the hand-back asked for; with `Auto`, that of live frames if neither can be opened.
pub fn choose(choice: HandbackChoice, config: &HandbackConfig) -> Result<Chosen, OpenError> {
    let inject = || Inject::open(config);
    let veth = || Veth::open(config).map(AnyHandback::Veth);
    let tap = || Tap::open(config);
    match choice {
        HandbackChoice::Inject => {
            Ok(Chosen { handback: AnyHandback::Inject(inject()?), why: "inject, as asked".into() })
        }
        HandbackChoice::Veth => Ok(Chosen { handback: veth()?, why: "veth, as asked".into() }),
        HandbackChoice::Tap => {
            let handback = AnyHandback::Tap(Mixed::new(tap()?, inject()?));
            Ok(Chosen { handback, why: "tap, as asked".into() })
        }
        HandbackChoice::Auto => match inject() {
            Ok(inject) => Ok(match tap() {
                Ok(tap) => Chosen {
                    handback: AnyHandback::Tap(Mixed::new(tap, inject)),
                    why: "tap: a TAP device for what the kernel is to cut, live frames for the rest".into(),
                },
                Err(error) => Chosen {
                    handback: AnyHandback::Inject(inject),
                    why: format!("inject: nothing for the kernel to cut, because {error}"),
                },
            }),
            Err(error) => match veth() {
                Ok(handback) => Ok(Chosen { handback, why: format!("veth, because {error}") }),
                Err(_) => Err(error),
            },
        },
    }
}

impl AnyHandback {
    /// `inject`, `veth` or `tap`.
    pub fn name(&self) -> &'static str {
        match self {
            AnyHandback::Inject(_) => "inject",
            AnyHandback::Veth(_) => "veth",
            AnyHandback::Tap(_) => "tap",
        }
    }
}

macro_rules! either {
    ($self:ident, $inner:ident => $call:expr) => {
        match $self {
            AnyHandback::Inject($inner) => $call,
            AnyHandback::Veth($inner) => $call,
            AnyHandback::Tap($inner) => $call,
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

    #[inline]
    fn begin(&mut self, gso: bool) {
        either!(self, inner => inner.begin(gso));
    }

    #[inline]
    fn gathers(&self) -> bool {
        either!(self, inner => inner.gathers())
    }

    #[inline]
    fn gather(&mut self, segment: &Segment<'_>) -> Gathered {
        either!(self, inner => inner.gather(segment))
    }

    #[inline]
    fn takes_datagrams(&self) -> bool {
        either!(self, inner => inner.takes_datagrams())
    }

    #[inline]
    fn datagram(&mut self, datagram: &Datagram<'_>) -> Gathered {
        either!(self, inner => inner.datagram(datagram))
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
