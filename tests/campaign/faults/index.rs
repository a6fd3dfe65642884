//! The index is a cache: between two starts it is removed, damaged, or replaced by an old copy of itself.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::support::storm::dice::Dice;
use crate::world::{Way, Who, World};

pub(super) async fn strike(world: &mut World) -> Result<(), String> {
    let wait = world.some_ms(0, 500);
    world.rest(wait).await;
    let way = if world.dice.chance(50) { Way::Kill } else { Way::Stop };
    world.end(Who::Relay, way);
    let index = world.spool().join("index");
    let fail = |error: io::Error| format!("{}: {error}", index.display());
    let old = world.old_index.clone().filter(|_| world.dice.chance(50));
    if let Some(old) = old {
        fs::remove_dir_all(&index).map_err(fail)?;
        copy(&old, &index).map_err(fail)?;
        world.feel("old index put back");
    } else if world.dice.chance(50) {
        fs::remove_dir_all(&index).map_err(fail)?;
        world.feel("index removed");
    } else {
        damage(&index, &mut world.dice).map_err(fail)?;
        world.feel("index damaged");
    }
    world.launch(Who::Relay);
    world.recover().await?;
    // For a later round: as it is now, on a kill's terms.
    if world.old_index.is_none() || world.dice.chance(50) {
        let wait = world.some_ms(0, 1_000);
        world.rest(wait).await;
        world.end(Who::Relay, Way::Kill);
        let kept = world.dir().join("old-index");
        let _ = fs::remove_dir_all(&kept);
        copy(&index, &kept).map_err(fail)?;
        world.old_index = Some(kept);
        world.launch(Who::Relay);
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &place)?;
        } else {
            fs::copy(entry.path(), place)?;
        }
    }
    Ok(())
}

/// All files below `dir`.
fn files_in(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files_in(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// A few bytes of its files change, or one is cut off.
fn damage(index: &Path, dice: &mut Dice) -> io::Result<()> {
    let mut files = Vec::new();
    files_in(index, &mut files)?;
    files.sort();
    let Some(file) = files.get(usize::try_from(dice.below(files.len().max(1) as u64)).expect("small")) else {
        return Ok(());
    };
    let mut bytes = fs::read(file)?;
    if dice.chance(30) {
        bytes.truncate(bytes.len() / 2);
    } else {
        flip(&mut bytes, 20, dice);
    }
    fs::write(file, bytes)
}

/// Changes so many bytes.
pub(super) fn flip(bytes: &mut [u8], times: usize, dice: &mut Dice) -> Vec<usize> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let mut places = Vec::new();
    for _ in 0..times {
        let at = usize::try_from(dice.below(bytes.len() as u64)).expect("small");
        bytes[at] ^= 1 + u8::try_from(dice.below(255)).expect("a byte");
        places.push(at);
    }
    places
}
