//! `--config`: a TOML file whose settings have the names and values of the flags of `run`.
//!
//! The file becomes flags in front of the same parser, so that both accept the same and one
//! [validation](super::validate) judges them; here stands only what a file has and a command line has not: places.

use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::builder::ArgAction;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Args, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::RunArgs;
use super::validate::ConfigError;

/// Longest file read, bytes: thousands of prefixes.
const MAX_LEN: u64 = 1 << 20;

/// Flags that say where settings come from, how a run begins, or what is printed: no settings themselves.
const NO_SETTINGS: &[&str] = &["config", "json", "help", "replace"];

/// Why a file is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// Line and column, counted from 1; `None` if the file as a whole is meant.
    pub place: Option<Place>,
    /// What is wrong and what to do.
    pub message: String,
}

impl std::error::Error for FileError {}

impl fmt::Display for FileError {
    /// `FILE:LINE:COLUMN: message`, which editors jump to.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FileError { path, place, message } = self;
        // It quotes the file, which may hold what a terminal obeys.
        let message = message.replace(char::is_control, "\u{fffd}");
        match place {
            Some(Place { line, column }) => write!(f, "{}:{line}:{column}: {message}", path.display()),
            None => write!(f, "{}: {message}", path.display()),
        }
    }
}

/// A place in a file, counted from 1; columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

impl Place {
    fn of(text: &str, offset: usize) -> Place {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place { line: before.matches('\n').count() + 1, column: before[line..].chars().count() + 1 }
    }
}

/// One flag with one value.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    flag: String,
    /// `None` for a flag that takes none.
    value: Option<String>,
    place: Place,
}

/// The settings of a file, each of them valid by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    path: PathBuf,
    settings: Vec<Setting>,
}

impl ConfigFile {
    /// Reads `path`.
    ///
    /// # Errors
    /// If it cannot be read, is no TOML, or holds a setting that is unknown or wrong by itself.
    pub fn read(path: &Path) -> Result<ConfigFile, FileError> {
        let whole = |message: String| FileError { path: path.to_owned(), place: None, message };
        let length = fs::metadata(path).map_err(|error| whole(format!("cannot be read: {error}")))?.len();
        if length > MAX_LEN {
            return Err(whole(format!(
                "is {length} bytes long, which no configuration is; at most {MAX_LEN} are read"
            )));
        }
        let text = fs::read_to_string(path).map_err(|error| whole(format!("cannot be read: {error}")))?;
        ConfigFile::parse(path, &text)
    }

    /// Reads `text`, which stands at `path`.
    ///
    /// # Errors
    /// If it is no TOML, or holds a setting that is unknown or wrong by itself.
    pub fn parse(path: &Path, text: &str) -> Result<ConfigFile, FileError> {
        let at = |span: Range<usize>, message: String| FileError {
            path: path.to_owned(),
            place: Some(Place::of(text, span.start)),
            message,
        };
        let table = DeTable::parse(text)
            .map_err(|error| at(error.span().unwrap_or_default(), error.message().replace('\n', "; ")))?;
        let run = RunArgs::augment_args(Command::new("run").no_binary_name(true));
        let mut settings = Vec::new();
        for (key, value) in table.get_ref() {
            let Some(arg) = find(&run, key.get_ref()) else {
                return Err(at(key.span(), unknown(&run, key.get_ref())));
            };
            for (span, value) in values(arg, value).map_err(|(span, message)| at(span, message))? {
                if let Some(value) = &value {
                    check(arg, value).map_err(|message| at(span.clone(), message))?;
                }
                let place = Place::of(text, span.start);
                settings.push(Setting { flag: key.get_ref().to_string(), value, place });
            }
        }
        // A table is sorted by name; people and messages go by the file.
        settings.sort_by_key(|setting| (setting.place.line, setting.place.column));
        Ok(ConfigFile { path: path.to_owned(), settings })
    }

    /// Leaves out the settings of flags for which `given` is true: the command line has them, and it wins.
    pub fn overridden(mut self, given: impl Fn(&str) -> bool) -> ConfigFile {
        self.settings.retain(|setting| !given(&setting.flag));
        self
    }

    /// The settings as arguments for `run`.
    pub fn arguments(&self) -> impl Iterator<Item = String> {
        self.settings.iter().map(|Setting { flag, value, .. }| match value {
            Some(value) => format!("--{flag}={value}"),
            None => format!("--{flag}"),
        })
    }

    /// Where the file was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An error about the file as a whole.
    pub fn error(&self, message: String) -> FileError {
        FileError { path: self.path.clone(), place: None, message }
    }

    /// `error` with the place of the setting that is to blame, the last one if there are several.
    pub fn blame(&self, error: &ConfigError) -> FileError {
        let to_blame =
            |setting: &&Setting| error.concerns(&setting.flag, setting.value.as_deref().unwrap_or_default());
        let place = self.settings.iter().rfind(to_blame).map(|setting| setting.place);
        FileError { path: self.path.clone(), place, message: error.to_string() }
    }
}

/// The flag that a setting stands for.
fn find<'a>(run: &'a Command, key: &str) -> Option<&'a Arg> {
    run.get_arguments().find(|arg| arg.get_long() == Some(key) && !NO_SETTINGS.contains(&key))
}

fn unknown(run: &Command, key: &str) -> String {
    let similar = run.clone().try_get_matches_from([format!("--{key}=")]).err();
    let similar = similar.as_ref().and_then(|error| match error.get(ContextKind::SuggestedArg) {
        Some(ContextValue::String(flag)) => flag.strip_prefix("--").filter(|flag| find(run, flag).is_some()),
        _ => None,
    });
    match similar {
        Some(similar) => format!("there is no setting '{key}'; did you mean '{similar}'?"),
        None => {
            let known: Vec<&str> = run
                .get_arguments()
                .filter_map(Arg::get_long)
                .filter(|name| find(run, name).is_some())
                .collect();
            format!("there is no setting '{key}'; those there are: {}", known.join(", "))
        }
    }
}

/// A value, `None` for a flag that takes none, and where it stands in the text.
type Given = (Range<usize>, Option<String>);
/// What is wrong, and where.
type Wrong = (Range<usize>, String);

/// What `value` gives `arg`, each with its place in the text.
fn values(arg: &Arg, value: &Spanned<DeValue<'_>>) -> Result<Vec<Given>, Wrong> {
    let name = arg.get_long().unwrap_or_default();
    let scalar = |value: &Spanned<DeValue<'_>>| {
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            DeValue::Boolean(flag) => flag.to_string(),
            _ => {
                return Err((
                    value.span(),
                    format!("{name} takes a string or a decimal number, with lists in []"),
                ));
            }
        };
        Ok((value.span(), Some(text)))
    };
    match (arg.get_action(), value.get_ref()) {
        (ArgAction::SetTrue, DeValue::Boolean(true)) => Ok(vec![(value.span(), None)]),
        (ArgAction::SetTrue, DeValue::Boolean(false)) => Ok(Vec::new()),
        (ArgAction::SetTrue, _) => Err((value.span(), format!("{name} is either true or false"))),
        (ArgAction::Append, DeValue::Array(items)) => items.iter().map(scalar).collect(),
        (_, DeValue::Array(_)) => Err((value.span(), format!("{name} takes one value, not a list"))),
        _ => Ok(vec![scalar(value)?]),
    }
}

/// Has the flag's own parser judge `value`.
fn check(arg: &Arg, value: &str) -> Result<(), String> {
    let name = arg.get_long().unwrap_or_default();
    let alone = Command::new("setting").no_binary_name(true).arg(arg.clone().required(false));
    let Err(error) = alone.try_get_matches_from([format!("--{name}={value}")]) else { return Ok(()) };
    let why = match (std::error::Error::source(&error), error.get(ContextKind::ValidValue)) {
        (Some(source), _) => source.to_string(),
        (None, Some(ContextValue::Strings(valid))) => format!("write one of {}", valid.join(", ")),
        _ => error.kind().to_string(),
    };
    Err(format!("{name} = '{value}': {why}"))
}

#[cfg(test)]
mod tests;
