//! What goes wrong: each fault strikes a running world, and leaves it to the world to come back.
//!
//! Every fault counts when it was felt; a campaign in which one never was has shown nothing, and fails.

pub(crate) mod clock;
mod disk;
mod flip;
mod index;
mod kill;
mod network;
mod pause;
pub(crate) mod syscalls;

use crate::world::World;

/// The kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill,
    Pause,
    Clock,
    Network,
    /// For so many milliseconds, in the middle.
    FullDisk(u64),
    SlowDisk,
    Syscall,
    Index,
    Flip,
}

impl Fault {
    /// Everything that damages nothing on purpose, as a part of a mixed storm.
    pub(crate) const ALL: [Self; 8] = [
        Self::Kill,
        Self::Pause,
        Self::Clock,
        Self::Network,
        Self::FullDisk(2_000),
        Self::SlowDisk,
        Self::Syscall,
        Self::Index,
    ];

    /// What it takes: programs, root.
    pub(crate) fn needs(self) -> Result<(), String> {
        let program = |name: &str| {
            let path = std::env::var("PATH").unwrap_or_default();
            let there = path
                .split(':')
                .chain(["/usr/sbin", "/sbin"])
                .any(|dir| std::path::Path::new(dir).join(name).exists());
            there.then_some(()).ok_or_else(|| format!("{name} is not installed"))
        };
        let root = || rustix::process::geteuid().is_root().then_some(()).ok_or_else(|| "not root".to_owned());
        match self {
            Self::Kill | Self::Pause | Self::Index | Self::Flip => Ok(()),
            Self::Clock => clock::library().map(drop),
            Self::Network => {
                root()?;
                program("ip")?;
                program("python3")?;
                std::path::Path::new("/dev/net/tun")
                    .exists()
                    .then_some(())
                    .ok_or_else(|| "no /dev/net/tun".to_owned())
            }
            Self::FullDisk(_) => {
                root()?;
                program("mount")
            }
            Self::SlowDisk | Self::Syscall => program("strace"),
        }
    }

    /// Strikes once.
    ///
    /// # Errors
    /// A violation, or a fault that could not be made.
    pub(crate) async fn strike(self, world: &mut World) -> Result<(), String> {
        match self {
            Self::Kill => kill::strike(world).await,
            Self::Pause => pause::strike(world).await,
            Self::Clock => clock::strike(world).await,
            Self::Network => network::strike(world).await,
            Self::FullDisk(ms) => disk::fill(world, ms).await,
            Self::SlowDisk => disk::slow_down(world).await,
            Self::Syscall => syscalls::strike(world).await,
            Self::Index => index::strike(world).await,
            Self::Flip => flip::strike(world).await,
        }
    }
}
