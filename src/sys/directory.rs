//! Creates and fsyncs directories, and unlinks files in them.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Removes the file, if it exists.
pub fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Linux reports a read-only file system even if the file does not exist
        // (`fs/namei.c`, `do_unlinkat`).
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            match file.symlink_metadata() {
                Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            }
        }
        removed => removed,
    }
}

/// Creates a directory and its missing parents. Every user may read these directories,
/// but only root may write to them.
pub(crate) fn make(directory: &Path) -> io::Result<()> {
    DirBuilder::new()
        .mode(0o755)
        .recursive(true)
        .create(directory)
}

/// Fsyncs the directory that contains a file.
pub fn sync(file: &Path) -> io::Result<()> {
    File::open(file.parent().unwrap_or(file))?.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
pub(crate) mod tests {
    use std::env;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    /// If this environment variable is set, a test runs alone in its process. The test
    /// needs this, because all threads of a process share the umask.
    const ALONE: &str = "DIGESTFIX_TEST_UMASK";

    /// Runs `body` with a umask of 0. `test` is the name of the test that calls this
    /// function.
    #[track_caller]
    pub(crate) fn with_umask_of_0(test: &str, body: impl FnOnce()) {
        if env::var_os(ALONE).is_some() {
            return body();
        }
        let output = Command::new("sh")
            .args(["-c", "umask 0; exec \"$@\"", "sh"])
            .arg(env::current_exe().unwrap())
            .args(["--exact", test])
            .env(ALONE, "0")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("1 passed"), "{said}");
    }

    /// The modes of all files and directories below a directory. Each directory comes
    /// before the files in it.
    pub(crate) fn modes(directory: &Path) -> Vec<u32> {
        let mut found = Vec::new();
        let mut paths: Vec<_> = fs::read_dir(directory).unwrap().flatten().collect();
        paths.sort_by_key(fs::DirEntry::path);
        for entry in paths {
            let metadata = entry.metadata().unwrap();
            found.push(metadata.permissions().mode() & 0o7777);
            if metadata.is_dir() {
                found.extend(modes(&entry.path()));
            }
        }
        found
    }
}
