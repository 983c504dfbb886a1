//! A whole worker, from the RX ring to the hand-back, with faults on both sides.
#![no_main]

#[path = "../../tests/turn/property.rs"]
mod property;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use nix::errno::Errno;
use xdpfrag::handback::mem::FlushFault;
use xdpfrag::port::Fault;

use property::{Input, Step};

#[derive(Debug, Arbitrary)]
enum Frame {
    Datagram { payload: u16, in_scope: bool, meta: bool },
    Bytes { bytes: Vec<u8>, mtu: Option<u16> },
}

#[derive(Debug, Arbitrary)]
enum PortFault {
    Short(u8),
    Truncate(u8),
    RefuseRefill,
    Interrupt,
}

#[derive(Debug, Arbitrary)]
enum HandbackFault {
    Again(u8, u8),
    NoBuffers(u8),
    Gone(u8),
    Lose(u8),
    Withhold,
}

#[derive(Debug, Arbitrary)]
struct Iteration {
    frames: Vec<Frame>,
    port: Option<PortFault>,
    flush: Option<HandbackFault>,
    complete: bool,
}

impl From<Frame> for Input {
    fn from(frame: Frame) -> Input {
        match frame {
            // Beyond the longest frame of the port, too.
            Frame::Datagram { payload, in_scope, meta } => {
                Input::Datagram { payload: usize::from(payload % 4200), in_scope, meta }
            }
            Frame::Bytes { bytes, mtu } => Input::Bytes { bytes, mtu },
        }
    }
}

impl From<Iteration> for Step {
    fn from(Iteration { frames, port, flush, complete }: Iteration) -> Step {
        let fail = |taken: u8, lost: u8, errno| {
            FlushFault::Fail { taken: taken.into(), lost: lost.into(), errno }
        };
        Step {
            frames: frames.into_iter().map(Input::from).collect(),
            port: port.map(|fault| match fault {
                PortFault::Short(most) => Fault::Short(most.into()),
                PortFault::Truncate(frames) => Fault::Truncate(frames.into()),
                PortFault::RefuseRefill => Fault::RefuseRefill,
                PortFault::Interrupt => Fault::Wait(Errno::EINTR),
            }),
            flush: flush.map(|fault| match fault {
                HandbackFault::Again(taken, lost) => fail(taken, lost, Errno::EAGAIN),
                HandbackFault::NoBuffers(taken) => fail(taken, 0, Errno::ENOBUFS),
                HandbackFault::Gone(taken) => fail(taken, 0, Errno::ENODEV),
                HandbackFault::Lose(lost) => FlushFault::Lose(lost.into()),
                HandbackFault::Withhold => FlushFault::Withhold,
            }),
            complete,
        }
    }
}

fuzz_target!(|script: (u8, Vec<Iteration>)| {
    let (slots, steps) = script;
    let steps: Vec<Step> = steps.into_iter().map(Step::from).collect();
    property::check(&steps, usize::from(slots) + 1);
});
