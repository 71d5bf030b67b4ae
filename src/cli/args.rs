//! The arguments, as clap reads them; help texts are written here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::demo::DemoOptions;

/// PostgreSQL connection pooler with read/write routing.
#[derive(Debug, Parser)]
#[command(name = "pgweir", version, propagate_version = true, arg_required_else_help = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the pooler.
    Run(RunOptions),
    /// Validate a configuration: all errors at once, with file, line and hint.
    Check(CheckOptions),
    /// Explain where a statement would go, and why, without running it.
    Route(RouteOptions),
    /// Tell the shard of a key under `function: hash`, which is PostgreSQL's hash partitioning.
    Hash(HashOptions),
    /// Start a throw-away PostgreSQL primary with replicas and pgweir in front of them.
    Demo(DemoOptions),
    /// Print the JSON schema of pooler.yaml, for editors.
    Schema,
}

/// Where the configuration comes from.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct ConfigSource {
    /// Configuration file [default: $PGWEIR_CONFIG, ./pooler.yaml, /etc/pgweir/pooler.yaml].
    #[arg(long, short, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Run without a file: the primary, as postgres://user:password@host:port/database
    /// [default: $PGWEIR_PRIMARY].
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    pub(super) primary: Option<String>,
    /// Without a file: a replica; may be given several times [default: $PGWEIR_REPLICAS].
    #[arg(long, value_name = "URL", requires = "primary")]
    pub(super) replica: Vec<String>,
    /// Without a file: where to listen, separated by commas [default: 127.0.0.1:6432].
    #[arg(long, value_name = "ADDRESS", requires = "primary")]
    pub(super) listen: Option<String>,
}

#[derive(Args, Clone, Debug)]
pub(super) struct RunOptions {
    #[command(flatten)]
    pub(super) source: ConfigSource,
}

#[derive(Args, Clone, Debug)]
pub(super) struct CheckOptions {
    #[command(flatten)]
    pub(super) source: ConfigSource,
    /// Also log in to every node and report its role, version and lag.
    #[arg(long)]
    pub(super) connect: bool,
}

#[derive(Args, Clone, Debug)]
pub(super) struct RouteOptions {
    /// The SQL, as an application would send it.
    #[arg(required_unless_present = "dump_catalog")]
    pub(super) sql: Option<String>,
    /// Also use what the database's catalog says: a file that --dump-catalog wrote.
    #[arg(long, value_name = "FILE")]
    pub(super) catalog: Option<PathBuf>,
    /// Also use what the database's catalog says, read now, without TLS:
    /// postgres://user:password@host:port/database.
    #[arg(long, value_name = "URL", conflicts_with = "catalog")]
    pub(super) connect: Option<String>,
    /// Print the catalog of --connect as JSON, for --catalog. It holds names, no data and no source code.
    #[arg(long, requires = "connect", conflicts_with = "sql")]
    pub(super) dump_catalog: bool,
    /// A configuration with a sharded database: also tell the shard, or why there is none.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Which sharded database of --config, if there are several.
    #[arg(long, value_name = "NAME", requires = "config")]
    pub(super) database: Option<String>,
    /// The value of a parameter, in text format, for --config: the first is $1.
    #[arg(long = "param", value_name = "VALUE", requires = "config", allow_hyphen_values = true)]
    pub(super) parameters: Vec<String>,
    /// The client's search_path; without it a bare name may be in any schema.
    #[arg(long, value_name = "SCHEMAS")]
    pub(super) search_path: Option<String>,
    /// The client's standard_conforming_strings.
    #[arg(long, value_name = "ON|OFF", default_value = "on", value_parser = ["on", "off"])]
    pub(super) standard_conforming_strings: String,
}

#[derive(Args, Clone, Debug)]
pub(super) struct HashOptions {
    /// The key's type, as in pooler.yaml; once for each column of the key.
    #[arg(long = "type", value_name = "TYPE", required = true)]
    pub(super) key_type: Vec<String>,
    /// How many shards there are.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) shards: u32,
    /// The key's value; one for each column.
    #[arg(required = true, allow_negative_numbers = true)]
    pub(super) value: Vec<String>,
}
