//! What a preflight check found.

use serde::Serialize;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Good to know.
    Note,
    /// `run` works, but not for all packets or not as well as it could.
    Warning,
    /// `run` refuses.
    Fatal,
}

impl Level {
    /// The word in tables and JSON.
    pub fn label(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Warning => "warning",
            Level::Fatal => "fatal",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// What was looked at, in a word or two.
    pub what: String,
    /// What was found and why it matters.
    pub why: String,
    /// The command that mends it, ready to paste.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn new(level: Level, what: &str, why: impl Into<String>) -> Finding {
        Finding { level, what: what.to_owned(), why: why.into(), remedy: None }
    }

    /// As it should be.
    pub fn ok(what: &str, why: impl Into<String>) -> Finding {
        Finding::new(Level::Ok, what, why)
    }

    /// Good to know.
    pub fn note(what: &str, why: impl Into<String>) -> Finding {
        Finding::new(Level::Note, what, why)
    }

    /// Works, with a drawback.
    pub fn warning(what: &str, why: impl Into<String>) -> Finding {
        Finding::new(Level::Warning, what, why)
    }

    /// Cannot work.
    pub fn fatal(what: &str, why: impl Into<String>) -> Finding {
        Finding::new(Level::Fatal, what, why)
    }

    /// Adds the command that mends it.
    pub fn remedy(mut self, command: impl Into<String>) -> Finding {
        self.remedy = Some(command.into());
        self
    }
}

impl std::fmt::Display for Finding {
    /// One line: what, why, and how to mend it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.why)?;
        match &self.remedy {
            Some(command) => write!(f, "; mend it with: {command}"),
            None => Ok(()),
        }
    }
}
