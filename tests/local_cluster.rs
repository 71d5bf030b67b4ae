//! The disposable cluster itself: it comes up, replicates, obeys, and leaves nothing behind.

mod support;

use std::time::{Duration, Instant};

use pgweir::cli::local_cluster::{LocalCluster, LocalClusterOptions, Mode};

#[test]
fn a_cluster_lives_obeys_and_leaves_nothing() {
    let cluster = LocalCluster::start(&LocalClusterOptions::with_replicas(2)).unwrap();
    let directory = cluster.access().directory.clone();

    // Writes on the primary arrive on both replicas, which refuse writes themselves.
    cluster.access().psql_as_app(0, "app", "CREATE TABLE t AS SELECT 1 AS x").unwrap();
    cluster.wait_caught_up().unwrap();
    for replica in [1, 2] {
        assert_eq!(cluster.psql(replica, "app", "SELECT x FROM t").unwrap(), "1");
        let refused = cluster.psql(replica, "app", "DELETE FROM t").unwrap_err().to_string();
        assert!(refused.contains("read-only transaction"), "{refused}");
    }

    // A paused replica answers from the past until it goes on.
    cluster.pause_replay(1).unwrap();
    cluster.psql(0, "app", "INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(cluster.psql(1, "app", "SELECT count(*) FROM t").unwrap(), "1");
    cluster.resume_replay(1).unwrap();
    cluster.wait_caught_up().unwrap();
    assert_eq!(cluster.psql(1, "app", "SELECT count(*) FROM t").unwrap(), "2");

    // Stopped and started again; a stopped node does not hold up the others.
    cluster.stop(2, Mode::Immediate).unwrap();
    assert!(cluster.psql(2, "app", "SELECT 1").is_err());
    cluster.wait_caught_up().unwrap();
    cluster.start_node(2).unwrap();
    assert_eq!(cluster.psql(2, "app", "SELECT 1").unwrap(), "1");

    // Failover by hand.
    cluster.stop(0, Mode::Fast).unwrap();
    cluster.promote(1).unwrap();
    cluster.follow(2, 1).unwrap();
    cluster.psql(1, "app", "INSERT INTO t VALUES (3)").unwrap();
    let begun = Instant::now();
    while cluster.psql(2, "app", "SELECT count(*) FROM t").unwrap() != "3" {
        assert!(begun.elapsed() < Duration::from_secs(20), "replica-2 does not follow the new primary");
        std::thread::sleep(Duration::from_millis(50));
    }

    drop(cluster);
    assert!(!directory.exists(), "{} was left behind", directory.display());
}

#[test]
fn each_test_has_its_own_database_on_all_nodes() {
    let (one, two) = (support::database(), support::database());
    assert_ne!(one.name, two.name);
    one.on(0, "CREATE TABLE t AS SELECT 7 AS x");
    support::cluster().wait_caught_up(0).unwrap();
    assert_eq!(one.on(1, "SELECT x FROM t"), "7");
    assert_eq!(two.on(2, "SELECT to_regclass('t') IS NULL"), "t");

    let gone = one.name.clone();
    drop(one);
    let count = format!("SELECT count(*) FROM pg_database WHERE datname = '{gone}'");
    assert_eq!(support::cluster().psql(0, "postgres", &count).unwrap(), "0");
}
