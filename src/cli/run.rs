//! `pgweir run`: configuration, logging, runtime, and the app until it is told to stop.

use std::num::NonZeroUsize;
use std::process::ExitCode;

use tokio::runtime::{Builder, Runtime};

use crate::app::{App, AppError, Shutdown};
use crate::config::{self, Config, Environment};
use crate::observe::logging;
use crate::task::{self, Workers};

use super::args::{ConfigSource, RunOptions};
use super::print;

/// Runs the pooler.
pub(super) fn run(options: &RunOptions) -> ExitCode {
    use_small_pages();
    let loaded = load(&options.source);
    let config = match loaded {
        Ok(config) => config,
        Err(complaint) => {
            print::error(&complaint);
            return ExitCode::from(2);
        }
    };
    logging::init("info");
    task::install_panic_hook();
    let count = workers(config.workers);
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            print::error(&format!("could not start the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match serve(&runtime, config, count) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print::error(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// What the first worker does all its life, in a frame that has nothing else in it.
#[inline(never)]
fn serve(runtime: &Runtime, config: Config, count: NonZeroUsize) -> Result<(), AppError> {
    runtime.block_on(async {
        let workers = Workers::start(count).map_err(AppError::Threads)?;
        workers.adapt_scheduling();
        let app = App::build_on(config, workers).await?;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), addresses = ?app.addresses(), "pgweir is listening");
        app.run(Shutdown::default()).await;
        Ok(())
    })
}

/// The configuration from flags, environment or file.
///
/// # Errors
/// Everything that is wrong with it, in one text.
pub(super) fn load(source: &ConfigSource) -> Result<Config, String> {
    let environment = Environment::of_process();
    let from_flags = source.primary.clone().map(|primary| (primary, source.replica.clone()));
    let from_environment = || if source.config.is_none() { environment.urls() } else { None };
    if let Some((primary, replicas)) = from_flags.or_else(from_environment) {
        return Config::from_urls(&primary, &replicas, source.listen.as_deref(), &environment)
            .map_err(|errors| errors.to_string());
    }
    let path = config::find(source.config.as_deref(), &environment).ok_or(
        "no configuration: there is no ./pooler.yaml and no /etc/pgweir/pooler.yaml\n\
         hint: name a file with --config, or run without one: pgweir run --primary postgres://user:password@host/database",
    )?;
    config::load(&path, &environment).map_err(|errors| errors.to_string())
}

/// What thousands of clients needed for a moment leaves holes smaller than a huge page, which would stay with us, and a
/// heap of some MB gains nothing from huge pages. Where the kernel does not know the wish, they are harmless.
fn use_small_pages() {
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

fn workers(configured: Option<NonZeroUsize>) -> NonZeroUsize {
    configured.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
}
