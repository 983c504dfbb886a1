//! What holds for any input of the parsers that strangers and tired people feed; for tests and fuzz targets.

use std::path::Path;

use clap::error::ErrorKind;
use clap::{Args, Command, FromArgMatches};
use xdpfrag::config::{self, ConfigFile, FileError, RunArgs, Treatment};
use xdpfrag::observe::request::Request;
use xdpfrag::packet::{Df, Rule, Tcp};
use xdpfrag::pcap::{self, Counts, Rewriter};

/// A request is understood or refused, and what was understood means the same when it is sent on.
pub(crate) fn request(line: &[u8]) {
    let Ok(request) = Request::parse(line) else { return };
    let sent = serde_json::to_vec(&request).expect("a request is JSON");
    assert_eq!(Request::parse(&sent).expect("a request of ours"), request);
}

/// A file is understood or refused in one line that names a place inside of it; the flags that it stands for are
/// flags of `run`, and if they do not go together one of its settings gets the blame.
pub(crate) fn config(text: &str) {
    let path = Path::new("lan.toml");
    let file = match ConfigFile::parse(path, text) {
        Ok(file) => file,
        Err(error) => return refused(&error, text),
    };
    let run = RunArgs::augment_args(Command::new("run").no_binary_name(true));
    let matches = match run.try_get_matches_from(file.arguments()) {
        Ok(matches) => matches,
        // Each setting is right by itself; only what must be given can be wrong with all of them.
        Err(error) => {
            return assert_eq!(error.kind(), ErrorKind::MissingRequiredArgument, "{error}: {text:?}");
        }
    };
    let args = RunArgs::from_arg_matches(&matches).expect("what was matched");
    if let Err(error) = config::plan(&args) {
        refused(&file.blame(&error), text);
    }
}

/// A capture is refused, or becomes one that can be read, with as many frames as were counted; and then nothing is left
/// to do to it.
pub(crate) fn capture(bytes: &[u8]) {
    for tcp in [Tcp::Fragment, Tcp::Resegment] {
        let Ok((first, counts)) = rewritten(bytes, tcp) else { continue };
        let (second, again) =
            rewritten(&first, tcp).unwrap_or_else(|error| panic!("what was written: {error}"));
        assert_eq!((again.frames_in, again.frames_out), (counts.frames_out, counts.frames_out));
        assert!(second == first, "the second time it is changed");
    }
}

fn rewritten(bytes: &[u8], tcp: Tcp) -> Result<(Vec<u8>, Counts), pcap::Error> {
    let rule = Rule::new(576, Some(536), Some(516));
    let everything = ["0.0.0.0/0", "::/0"].map(|prefix| (prefix.parse().expect("a prefix"), rule));
    let mut rewriter = Rewriter::new(&Treatment { scope: everything.into(), df: Df::Clear, tcp });
    let mut out = Vec::new();
    pcap::rewrite(bytes, &mut out, &mut rewriter, &mut |_| ())?;
    Ok((out, rewriter.counts().clone()))
}

fn refused(error: &FileError, text: &str) {
    let message = error.to_string();
    assert!(message.starts_with("lan.toml:") && !message.contains(char::is_control), "{message:?}: {text:?}");
    if let Some(place) = error.place {
        // The end of the file is a place, too.
        let line = text.split('\n').nth(place.line - 1).unwrap_or_else(|| panic!("{message}: {text:?}"));
        assert!((1..=line.chars().count() + 1).contains(&place.column), "{message}: {text:?}");
    }
}
