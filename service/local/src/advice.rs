//! What a person can do about an error of the control data: one table, by kind and subject.
//!
//! `control` knows no commands and no flags, so the advice that names them is here, beside the commands. [`Advise`] turns
//! its errors into what they print.

use control::{ErrorKind, Subject};
use problem::Problem;

/// Turns an error of the control data into a [`Problem`] with advice.
pub trait Advise<T> {
    /// Turns the error of a result into one for a person to read.
    ///
    /// # Errors
    /// Error type of the result.
    fn advise(self) -> problem::Result<T>;
}

impl<T> Advise<T> for control::Result<T> {
    fn advise(self) -> problem::Result<T> {
        self.map_err(|error| problem(&error))
    }
}

/// An error of the control data as a person reads it.
#[must_use]
pub fn problem(error: &control::Error) -> Problem {
    let mut problem = Problem::new(error.message());
    if let Some(detail) = error.detail() {
        problem = problem.detail(detail);
    }
    match help(error.kind(), error.subject()) {
        Some(help) => problem.help(help),
        None => problem,
    }
}

fn help(kind: ErrorKind, subject: &Subject) -> Option<String> {
    let text = match (kind, subject) {
        (ErrorKind::NotFound, Subject::Org) => {
            "`icecore org list` shows those that are there, `icecore org create NAME` makes one"
        }
        (ErrorKind::Taken, Subject::Org) => "choose another name; `icecore org list` shows those in use",
        (ErrorKind::Invalid, Subject::Retention) => "`icecore retention set --org NAME --keep 3y`, or --for-ever",
        (ErrorKind::Forbidden, Subject::Retention) => "run it again: the policy that is in force now counts",
        (ErrorKind::NotFound, Subject::Gateway) => "`icecore gateway list` shows all of them",
        (ErrorKind::Taken, Subject::Gateway) => {
            "choose another name, or take the old one's certificate back first: `icecore gateway revoke`"
        }
        (ErrorKind::NotFound, Subject::Token) => {
            "give the id (16 hex digits) that `icecore token list` shows, not the token itself"
        }
        (ErrorKind::Corrupt, Subject::ServerKey) => "remove it, and a new key and certificate are made",
        (ErrorKind::NotFound, Subject::Database) => {
            "make a data directory with `icecore init --data-dir DIR`, or name the right one"
        }
        (ErrorKind::Unavailable, Subject::Schema) => {
            "it was written by another version of icecore: use that one, or a newer one"
        }
        (ErrorKind::Taken, Subject::Schema) => {
            "use the icecore of that server, or stop it and start this version: `icecore serve` brings the tables up to \
             date"
        }
        (ErrorKind::Taken, Subject::DataDir(dir)) => {
            return Some(format!(
                "start it with `icecore serve --data-dir {}`, or name another directory",
                dir.display()
            ));
        }
        (ErrorKind::Invalid, Subject::DataDir(_)) => {
            "name an empty or a new directory. If an earlier init was interrupted here, and no server ever ran on it, \
             delete the directory first"
        }
        (ErrorKind::NotFound, Subject::DataDir(dir)) => {
            return Some(format!("make one with `icecore init --data-dir {}`, or name the right one", dir.display()));
        }
        (ErrorKind::Corrupt, Subject::DataDir(_)) => {
            "if no server ever ran on it, delete it and run `icecore init` again; else put the configuration back"
        }
        (ErrorKind::Taken, Subject::Lock(_)) => "stop it first, or name another data directory",
        (ErrorKind::Invalid, Subject::MasterKey) => "it must be 64 hexadecimal digits",
        (ErrorKind::NotFound, Subject::MasterKey) => {
            "without the key that `icecore init` made, nothing in this data directory can be read"
        }
        (ErrorKind::Forbidden, Subject::MasterKey) => {
            return Some(format!(
                "give back the original keys/master.key, or the original {}",
                control::master_key::MASTER_KEY_VARIABLE
            ));
        }
        (ErrorKind::Corrupt, Subject::MasterKey) => "`icecore init` did not finish on this data directory",
        (ErrorKind::Forbidden, Subject::File(path)) => return Some(format!("chmod 600 {}", path.display())),
        (ErrorKind::Invalid, Subject::Clock) => "set the clock",
        _ => return None,
    };
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use control::Error;

    use super::*;

    #[test]
    fn a_person_learns_what_to_do() {
        let error = Error::new(ErrorKind::NotFound, Subject::Org, "there is no organisation named x").with_detail("y");
        let text = problem(&error).to_string();
        assert_eq!(
            text,
            "there is no organisation named x\n  y\n  help: `icecore org list` shows those that are there, `icecore \
             org create NAME` makes one"
        );
        let error = Error::new(ErrorKind::Unavailable, Subject::Machine, "no");
        assert_eq!(problem(&error).to_string(), "no", "no advice is better than one that does not fit");
    }
}
