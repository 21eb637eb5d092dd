//! S3's secrets out of a file in the form of AWS's own tools, read anew for each request: whoever renews them replaces
//! the file, and the next request has the new ones.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use object_store::aws::AwsCredential;
use object_store::{CredentialProvider, Error, Result};

use super::local_durable::blocking;

/// More than any such file has.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// A file with lines `aws_access_key_id = …`, `aws_secret_access_key = …` and perhaps `aws_session_token = …`; of
/// several profiles, `[default]`.
pub(super) struct CredentialsFile {
    path: PathBuf,
}

impl fmt::Debug for CredentialsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CredentialsFile({})", self.path.display())
    }
}

impl CredentialsFile {
    /// Looks whether the file has what is needed.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        read(path)?;
        Ok(Self { path: path.to_owned() })
    }
}

fn read(path: &Path) -> io::Result<AwsCredential> {
    if std::fs::metadata(path)?.len() > FILE_BYTES_MAX {
        return Err(io::Error::other("it is too large to be a file of credentials"));
    }
    parse(&std::fs::read_to_string(path)?)
}

fn parse(text: &str) -> io::Result<AwsCredential> {
    let (mut key_id, mut secret_key, mut token) = (None, None, None);
    let mut ours = true;
    for line in text.lines().map(str::trim) {
        if let Some(profile) = line.strip_prefix('[') {
            ours = profile.trim_end_matches(']').trim() == "default";
        } else if let Some((name, value)) = line.split_once('=').filter(|_| ours && !line.starts_with(['#', ';'])) {
            let value = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
            match name.trim() {
                "aws_access_key_id" => key_id = value,
                "aws_secret_access_key" => secret_key = value,
                "aws_session_token" => token = value,
                _ => {}
            }
        }
    }
    // Which is missing may be said, what is there may not.
    let missing = |name| io::Error::other(format!("it has no line {name} = … (outside of profiles, or in [default])"));
    Ok(AwsCredential {
        key_id: key_id.ok_or_else(|| missing("aws_access_key_id"))?,
        secret_key: secret_key.ok_or_else(|| missing("aws_secret_access_key"))?,
        token,
    })
}

#[async_trait]
impl CredentialProvider for CredentialsFile {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> Result<Arc<AwsCredential>> {
        let path = self.path.clone();
        blocking(move || {
            let read = read(&path).map_err(|error| {
                let source = format!("cannot read the credentials in {}: {error}", path.display()).into();
                Error::Generic { store: "S3", source }
            });
            read.map(Arc::new)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_such_files_are_read() {
        let plain = parse("aws_access_key_id=A\naws_secret_access_key = B\n").expect("both");
        assert_eq!((plain.key_id.as_str(), plain.secret_key.as_str(), plain.token), ("A", "B", None));
        let text = "[other]\naws_access_key_id = X\n# aws_session_token = no\n[default]\naws_access_key_id = A\n\
                    aws_secret_access_key = B=\naws_session_token = C\n[last]\naws_secret_access_key = X\n";
        let profiles = parse(text).expect("the default");
        assert_eq!((profiles.key_id.as_str(), profiles.secret_key.as_str()), ("A", "B="));
        assert_eq!(profiles.token.as_deref(), Some("C"));
    }

    #[test]
    fn what_is_missing_is_named_and_nothing_else() {
        for (text, name) in [("", "aws_access_key_id"), ("aws_access_key_id = AKID", "aws_secret_access_key")] {
            let error = parse(text).expect_err("incomplete").to_string();
            assert!(error.contains(name) && !error.contains("AKID"), "{error}");
        }
    }
}
