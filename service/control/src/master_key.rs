//! The master key: 32 random bytes that wrap every organisation's key and every WAL file's key.
//!
//! It is in `keys/master.key` as 64 hex digits, mode 0600, or in the environment variable `ICECORE_MASTER_KEY`, which
//! goes first. The control database holds a check value of it, so that a wrong key is known before anything is read.

use std::path::{Path, PathBuf};

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use storage_format::encryption::SecretKey;

use crate::Control;
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::private_file;

/// The environment variable that holds the master key as 64 hex digits.
pub const MASTER_KEY_VARIABLE: &str = "ICECORE_MASTER_KEY";

const CHECK_KEY: &str = "master_key_check";

fn path(keys: &Path) -> PathBuf {
    keys.join("master.key")
}

fn parse(text: &str, source: &str) -> Result<SecretKey> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text.trim(), &mut bytes)
        .map_err(|_| Error::new(ErrorKind::Invalid, Subject::MasterKey, format!("{source} is not a master key")))?;
    Ok(SecretKey::from_bytes(bytes))
}

fn from_environment() -> Result<Option<SecretKey>> {
    match std::env::var(MASTER_KEY_VARIABLE) {
        Ok(text) => parse(&text, MASTER_KEY_VARIABLE).map(Some),
        Err(_) => Ok(None),
    }
}

/// Makes the master key of a new data directory; one from the environment is not written to the disk.
///
/// # Errors
/// When there is one already, or it cannot be written.
pub fn create_master_key(keys: &Path) -> Result<SecretKey> {
    if let Some(key) = from_environment()? {
        return Ok(key);
    }
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::no_random())?;
    private_file::create(&path(keys), &(hex::encode(bytes) + "\n"))?;
    Ok(SecretKey::from_bytes(bytes))
}

/// The master key of a data directory, from the environment or its file.
///
/// # Errors
/// When there is none, it is not 64 hex digits, or others may read its file.
pub fn load_master_key(keys: &Path) -> Result<SecretKey> {
    if let Some(key) = from_environment()? {
        return Ok(key);
    }
    let path = path(keys);
    if !path.exists() {
        let message = format!("there is no master key: neither {} nor {MASTER_KEY_VARIABLE}", path.display());
        return Err(Error::new(ErrorKind::NotFound, Subject::MasterKey, message));
    }
    parse(&private_file::read_secret(&path)?, &path.display().to_string())
}

/// A value that tells one master key from another and tells nothing about either.
fn check_value(key: &SecretKey) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.expose()), b"icecore master key check 1");
    hex::encode(&tag.as_ref()[..16])
}

/// Writes the master key's check value down, at `init`.
///
/// # Errors
/// When the control database cannot be written.
pub async fn record_check(control: &Control, key: &SecretKey) -> Result<()> {
    control.set_meta(CHECK_KEY, &check_value(key)).await
}

/// Is this the master key that the data directory was made with?
///
/// # Errors
/// When it is not.
pub async fn verify_check(control: &Control, key: &SecretKey) -> Result<()> {
    match control.meta(CHECK_KEY).await? {
        Some(value) if value == check_value(key) => Ok(()),
        Some(_) => {
            let message = "this is not the master key that the data directory was made with";
            Err(Error::new(ErrorKind::Forbidden, Subject::MasterKey, message))
        }
        None => Err(Error::new(ErrorKind::Corrupt, Subject::MasterKey, "the control database knows no master key")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn kept_private_and_never_replaced() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert!(load_master_key(dir.path()).is_err(), "none yet");
        let made = create_master_key(dir.path()).expect("made");
        assert_eq!(load_master_key(dir.path()).expect("loaded").expose(), made.expose());
        assert!(create_master_key(dir.path()).is_err(), "never replaced");
        std::fs::set_permissions(path(dir.path()), Permissions::from_mode(0o644)).expect("changed");
        assert!(load_master_key(dir.path()).expect_err("refused").message().contains("read by others"));
        private_file::replace(&path(dir.path()), "abc").expect("written");
        assert!(load_master_key(dir.path()).expect_err("refused").message().contains("not a master key"));
    }

    #[tokio::test]
    async fn a_wrong_key_is_told() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let control = Control::create(&dir.path().join("control.db")).await.expect("made");
        let (right, wrong) = (SecretKey::from_bytes([1; 32]), SecretKey::from_bytes([2; 32]));
        assert!(verify_check(&control, &right).await.is_err(), "nothing recorded yet");
        record_check(&control, &right).await.expect("recorded");
        verify_check(&control, &right).await.expect("the right one");
        assert!(verify_check(&control, &wrong).await.is_err());
    }
}
