//! The Kubernetes example contains a configuration that loads, and times that fit each other.

use std::path::Path;
use std::time::Duration;

use doorward::config::Config;

const EXAMPLE: &str = include_str!("../../config/kubernetes/doorward.yaml");

#[test]
fn the_kubernetes_example_has_a_valid_configuration() {
    let (config, warnings) = example();
    // Plain connections to Redis and the app; docs/running/kubernetes.md states it.
    let unencrypted = warnings.iter().filter(|warning| warning.contains("unencrypted")).count();
    assert_eq!((warnings.len(), unencrypted), (2, 2), "{warnings:?}");
    assert_eq!(config.routes.iter().count(), 1);
    let ports: Vec<u16> = config.server.https.iter().map(|address| address.port()).collect();
    assert!(EXAMPLE.contains(&format!("name: https, containerPort: {}", ports[0])));
}

#[test]
fn a_pod_lives_longer_than_the_drain_of_its_gateway() {
    let (config, _) = example();
    let drain = config.server.drain_delay + config.server.drain;
    let grace = EXAMPLE.split_once("terminationGracePeriodSeconds: ").expect("a grace period").1;
    let grace: u64 = grace.lines().next().expect("a line").parse().expect("seconds");
    assert!(Duration::from_secs(grace) > drain, "{grace} s, {drain:?}");
}

#[test]
fn probes_of_the_kubernetes_example_do_not_need_the_store() {
    let probes: Vec<&str> = EXAMPLE.lines().filter(|line| line.contains("httpGet:")).collect();
    assert_eq!(probes.len(), 3);
    assert!(probes.iter().all(|probe| probe.contains("path: /.doorward/health, port: https")));
}

fn example() -> (Config, Vec<String>) {
    let (_, rest) = EXAMPLE.split_once("  doorward.toml: |\n").expect("a configuration");
    let (text, _) = rest.split_once("---").expect("its end");
    let text: String = text.lines().map(|line| format!("{}\n", line.trim())).collect();
    let parsed = Config::parse(&text, "doorward.yaml", Path::new(""));
    let (config, warnings) = parsed.unwrap_or_else(|error| panic!("{error}"));
    (config, warnings.iter().map(|warning| format!("{warning:?}")).collect())
}
