//! A small disk of its own for the relay's data, to be filled. Needs root.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the disk is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An image with a file system of this many MiB.
    Ext4(u32),
    /// Memory: for campaigns in which nothing else waits for a disk.
    Tmpfs(u32),
}

/// A mounted disk; unmounted when dropped.
pub(crate) struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Mounts one at `path`.
    pub(crate) fn mount(kind: Kind, path: &Path) -> Result<Self, String> {
        fs::create_dir_all(path).expect("made");
        let at = path.to_str().expect("text");
        match kind {
            Kind::Tmpfs(mib) => run("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "none", at])?,
            Kind::Ext4(mib) => {
                let image = path.with_extension("img");
                let file = File::create(&image).expect("made");
                file.set_len(u64::from(mib) << 20).expect("made longer");
                let image = image.to_str().expect("text");
                run("mkfs.ext4", &["-q", "-m", "0", image])?;
                run("mount", &["-o", "loop", image, at])?;
            }
        }
        Ok(Self { path: path.to_owned() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn free(&self) -> u64 {
        let told = rustix::fs::statvfs(&self.path).expect("a file system");
        told.f_bavail * told.f_frsize
    }

    /// Takes what is free, but for `left` bytes.
    pub(crate) fn fill(&self, left: u64) -> Result<(), String> {
        let file = File::create(self.path.join("filler")).map_err(|error| format!("filler: {error}"))?;
        // What others take meanwhile is taken, too.
        for _ in 0..20 {
            let size = file.metadata().expect("known").len();
            let Some(more) = self.free().checked_sub(left).filter(|more| *more >= 4096) else {
                return Ok(());
            };
            let mode = rustix::fs::FallocateFlags::empty();
            if rustix::fs::fallocate(&file, mode, size, more).is_err() {
                let _ = rustix::fs::fallocate(&file, mode, size, more / 2);
            }
        }
        Ok(())
    }

    /// Gives it back.
    pub(crate) fn free_up(&self) {
        let _ = fs::remove_file(self.path.join("filler"));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let at = self.path.to_str().expect("text");
        if let Err(problem) = run("umount", &["-l", at]) {
            eprintln!("{problem}");
        }
    }
}

/// Runs a program of the system to its end.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let done = Command::new(program).args(args).stdin(Stdio::null()).output();
    match done {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{program}: {error}")),
    }
}
