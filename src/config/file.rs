//! Reads the configuration file. The only place that touches the file system, and the only one
//! that names the YAML library.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::errors::{Complaint, ConfigErrors, Origin, Place, Problems};
use super::locate::locate;
use super::node::Node;
use super::resolve::{Outside, resolve};
use super::{Config, Environment};

/// Larger files than this are not configurations.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where a configuration is looked for when neither flag nor variable names it.
const PLACES: &[&str] = &["pooler.yaml", "/etc/pgweir/pooler.yaml"];

/// The configuration file to use: the flag, `PGWEIR_CONFIG`, `./pooler.yaml`,
/// `/etc/pgweir/pooler.yaml`. The first two are taken as they are; `None` when nothing is there.
pub fn find(flag: Option<&Path>, environment: &Environment) -> Option<PathBuf> {
    let named = flag.map(Path::to_path_buf).or_else(|| environment.get("PGWEIR_CONFIG").map(PathBuf::from));
    named.or_else(|| PLACES.iter().map(PathBuf::from).find(|path| path.exists()))
}

/// Reads the file at `path`, lays `PGWEIR__…` variables over it, and checks it all.
pub fn load(path: &Path, environment: &Environment) -> Result<Config, ConfigErrors> {
    let text = read(path).map_err(|error| {
        let complaint = Complaint::new(format!("cannot read the file: {error}"));
        ConfigErrors::one(Some(path), complaint)
    })?;
    let root = parse(&text).map_err(|(place, complaint)| {
        let mut problems = Problems::default();
        problems.push(&place, complaint);
        problems.into_errors(Some(path))
    })?;
    resolve(root, &Outside { environment, read: &read, file: Some(path) })
}

/// The tree of a YAML text, with positions.
pub(super) fn parse(text: &str) -> Result<Node, (Place, Complaint)> {
    let mut root: Node = serde_yaml::from_str(text).map_err(|error| {
        let origin =
            error.location().map_or(Origin::Whole, |l| Origin::File { line: l.line(), column: l.column() });
        // The library's message ends with the place, which we show in our own way.
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        (Place { origin, path: String::new() }, Complaint::new(format!("not valid YAML: {message}")))
    })?;
    locate(&mut root, text);
    Ok(root)
}

/// The text of a file, if it is not absurdly large.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(text)
}
