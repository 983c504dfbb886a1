//! What user space may change while the XDP program runs.

use std::sync::{Mutex, PoisonError};

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::layout::{Leave, Live};

/// The program's `.data.live`, and what is in it.
#[derive(Debug)]
pub struct LiveSettings {
    pub(super) map: MapHandle,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    live: Live,
    /// What the workers need not see, but for [`LiveSettings::keep_from_late`].
    late: Leave,
    kept: bool,
}

impl LiveSettings {
    /// Writes `live`.
    pub(super) fn new(map: MapHandle, live: Live) -> libbpf_rs::Result<LiveSettings> {
        let settings = LiveSettings { map, state: Mutex::new(State { live, late: live.late, kept: false }) };
        settings.change(|_| ())?;
        Ok(settings)
    }

    /// Changes what is no matter of the program behind GRO.
    pub(super) fn change(&self, change: impl FnOnce(&mut Live)) -> libbpf_rs::Result<()> {
        self.change_state(|state| change(&mut state.live))
    }

    /// Has the workers see all but `late`.
    pub(super) fn set_late(&self, late: Leave) -> libbpf_rs::Result<()> {
        self.change_state(|state| state.late = late)
    }

    /// While `kept`, the workers get everything, for a capture to see.
    ///
    /// # Errors
    /// If the kernel refuses the map update; it is as before then.
    pub fn keep_from_late(&self, kept: bool) -> libbpf_rs::Result<()> {
        self.change_state(|state| state.kept = kept)
    }

    fn change_state(&self, change: impl FnOnce(&mut State)) -> libbpf_rs::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        let kept = Leave { marked: state.late.marked, ..Leave::NOTHING };
        state.live.late = if state.kept { kept } else { state.late };
        self.map.update(&0u32.to_ne_bytes(), &state.live.to_bytes(), MapFlags::ANY)
    }
}
