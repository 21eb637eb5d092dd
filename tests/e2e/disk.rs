//! A data directory on a small file system of its own, to fill it and to take away the right to write.
//!
//! Mounting needs rights, and a mount must not outlive its test. So such a test runs itself again in a mount namespace
//! of its own, with a user namespace where it is not root; where neither is allowed it fails and says so.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Tells a test that it is the one inside.
const INSIDE: &str = "E2E_INSIDE";

/// True in the process that may mount: there the test goes on. Elsewhere this runs the test of this name there, fails
/// if it fails, and answers false: everything has been done.
#[track_caller]
pub(crate) fn may_mount(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let program = std::env::current_exe().expect("this program has a path");
    let inside = |namespaces: &str| {
        let mut unshare = Command::new("unshare");
        unshare.args([namespaces, "--"]).arg(&program).args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
        unshare.output()
    };
    let try_out = |namespaces: &str| {
        let tried = Command::new("unshare").args([namespaces, "--", "mount", "-t", "tmpfs", "none", "/mnt"]).output();
        tried.is_ok_and(|output| output.status.success())
    };
    let namespaces = ["-m", "-rm"].into_iter().find(|namespaces| try_out(namespaces));
    let namespaces = namespaces.unwrap_or_else(|| {
        panic!(
            "{test} must mount a file system, and may not: run it as root, or allow user namespaces \
             (`unshare -rm mount -t tmpfs none /mnt` has to work)"
        )
    });
    let output = inside(namespaces).expect("unshare is there");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // A name that fits no test would be a success of none.
    assert!(output.status.success() && stdout.contains("1 passed"), "{test}:\n{stdout}\n{stderr}");
    false
}

#[track_caller]
fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().expect("the command is there");
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A mounted directory of limited size.
#[derive(Debug)]
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Makes the directory and mounts there.
    #[track_caller]
    pub(crate) fn mount(path: &Path, mib: u32) -> Self {
        fs::create_dir_all(path).expect("a directory");
        let path = path.to_path_buf();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "icecore-e2e", &path.to_string_lossy()]);
        Self(path)
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Takes all the space that there is. What the server frees afterwards is free again: call it once more.
    pub(crate) fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.ballast()).expect("one more file");
        for bytes in [1 << 20, 4096, 1] {
            let block = vec![0xA5; bytes];
            while file.write(&block).is_ok_and(|written| written > 0) {}
        }
    }

    /// Gives it back.
    pub(crate) fn free(&self) {
        fs::remove_file(self.ballast()).expect("the ballast");
    }

    /// With nobody writing.
    #[track_caller]
    pub(crate) fn remount(&self, how: &str) {
        run("mount", &["-o", &format!("remount,{how}"), &self.0.to_string_lossy()]);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: who still looks at it shall not hold the test up. The namespace ends soon in any case.
        let _ = Command::new("umount").args(["-l", &self.0.to_string_lossy()]).output();
    }
}

/// While this lives, nothing can be made, named or removed below a directory; files that are open stay as they are.
/// That is what a file system that has become read-only looks like to a process, as far as a mount can show it.
#[derive(Debug)]
pub(crate) struct ReadOnly(PathBuf);

impl ReadOnly {
    #[track_caller]
    pub(crate) fn cover(path: &Path) -> Self {
        let text = path.to_string_lossy();
        run("mount", &["--bind", &text, &text]);
        run("mount", &["-o", "remount,ro,bind", &text]);
        Self(path.to_path_buf())
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", &self.0.to_string_lossy()]).output();
    }
}
