//! Looks over all pools once in a while: ages, idleness, minimum sizes, averages.

use std::sync::Arc;
use std::time::Duration;

use crate::task::Moment;

use super::registry::PoolRegistry;

/// Time between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// Runs until dropped.
pub async fn run(registry: Arc<PoolRegistry>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = Moment::now();
        for pool in registry.pools() {
            pool.reap(now);
            pool.open_to_minimum();
        }
        registry.roll_averages(now);
    }
}
