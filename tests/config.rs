//! The configuration file through the binary: what comes before what.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::path::Path;
use std::process::Command;

/// What it says, of a start that ends with wrong usage.
fn refused(config: &Path, environment: &[(&str, &str)], flags: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_callsieve"));
    command.arg("run").args(flags).env("CALLSIEVE_CONFIG", config).envs(environment.iter().copied());
    let ended = command.output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(2), "{said}");
    said
}

#[test]
fn flags_come_before_the_environment_and_that_before_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("callsieve.toml");
    std::fs::write(&config, "brokers = '127.0.0.1:1'\nworkers = 1001\n[kafka]\n'linger.ms' = 1\n").unwrap();
    let said = refused(&config, &[], &[]);
    assert!(said.contains("1001") && said.contains("callsieve.toml"), "{said}");
    assert!(refused(&config, &[("CALLSIEVE_WORKERS", "1002")], &[]).contains("1002"));
    assert!(refused(&config, &[("CALLSIEVE_WORKERS", "1002")], &["--workers", "1003"]).contains("1003"));
    // The table goes together with what the environment has.
    let said = refused(&config, &[("CALLSIEVE_WORKERS", "1"), ("CALLSIEVE_KAFKA", "linger.ms=2\nacks=0")], &[]);
    assert!(said.contains("acks is set by callsieve itself"), "{said}");
    // And each setting that a flag has stands for itself.
    let said = refused(&config, &[("CALLSIEVE_WORKERS", "1"), ("CALLSIEVE_KAFKA", "acks=0")], &["--kafka", "linger.ms=3"]);
    assert!(said.contains("acks is set by callsieve itself"), "{said}");

    std::fs::write(&config, "broker = '127.0.0.1:1'\n").unwrap();
    let said = refused(&config, &[], &[]);
    assert!(said.contains("there is no broker; there are data-dir"), "{said}");
    std::fs::remove_file(&config).unwrap();
    assert!(refused(&config, &[], &[]).contains("reading the configuration file"));
}

/// Of the file that a service runs by, other commands take where everything is; and where that can't be reached, each says why.
#[test]
fn commands_go_where_the_service_goes_and_say_why_it_cant_be_reached() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("callsieve.toml");
    std::fs::write(&config, "brokers = '127.0.0.1:1'\nschema-registry = 'http://127.0.0.1:1'\n").unwrap();
    for arguments in
        ["schemas check", "schemas register", "topics check", "dead-letters list", "replay status", "replay start new", "replay diff new"]
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_callsieve"));
        command.args(arguments.split(' ')).env("CALLSIEVE_CONFIG", &config).env("CALLSIEVE_DATA_DIR", folder.path());
        let ended = command.output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{arguments}: {said}");
        assert!(said.contains("127.0.0.1:1") && said.contains("Connection refused"), "{arguments}: {said}");
    }
}

#[test]
fn the_chart_refuses_the_settings_that_callsieve_refuses() {
    let schema = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/helm/callsieve/values.schema.json")).unwrap();
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    let refused: Vec<&str> = schema
        .pointer("/properties/kafka/properties/settings/propertyNames/not/enum")
        .unwrap()
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    assert_eq!(refused, callsieve::log::kafka::FIXED);
}
