//! Finds the configuration: reads the file and the environment, and hands both to the pure loader.

use std::path::Path;

use super::Global;
use crate::config::{Config, ENV_PREFIX, Keys, Sources};

/// Largest configuration file that is read, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The configuration that `global` and the environment ask for.
pub(crate) fn config(global: &Global) -> anyhow::Result<Config> {
    load(global.config.as_deref(), global.data_dir.as_deref())
}

/// The same, with the value of every key.
pub(crate) fn keys(global: &Global) -> anyhow::Result<(Config, Keys)> {
    load_keys(global.config.as_deref(), global.data_dir.as_deref())
}

/// The configuration of one file (or none).
pub(crate) fn load(file: Option<&Path>, data_dir: Option<&Path>) -> anyhow::Result<Config> {
    load_keys(file, data_dir).map(|(config, _)| config)
}

fn load_keys(file: Option<&Path>, data_dir: Option<&Path>) -> anyhow::Result<(Config, Keys)> {
    let text = file.map(read).transpose()?;
    let name = file.map(|f| f.display().to_string()).unwrap_or_default();
    let env: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
        .filter(|(k, _)| k.starts_with(ENV_PREFIX))
        .collect();
    let flags: Vec<_> = data_dir.map(|d| ("data_dir", d.display().to_string())).into_iter().collect();
    let sources = Sources { file: text.as_deref().map(|t| (name.as_str(), t)), env: &env, flags: &flags };
    Ok(Config::load_keys(&sources)?)
}

fn read(file: &Path) -> anyhow::Result<String> {
    let stop = |why: String| super::Stop::new(super::Exit::Usage, format!("{}: {why}", file.display()));
    let size = std::fs::metadata(file).map_err(|e| stop(format!("cannot be read: {e}")))?.len();
    if size > FILE_BYTES_MAX {
        return Err(stop(format!("is larger than {FILE_BYTES_MAX} bytes; is it a configuration?")).into());
    }
    let bytes = std::fs::read(file).map_err(|e| stop(format!("cannot be read: {e}")))?;
    Ok(String::from_utf8(bytes).map_err(|_| stop("is not UTF-8 text".to_owned()))?)
}
