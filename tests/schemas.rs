//! `callsieve schemas`, through the binary. With a registry: tests/kafka_registry.rs.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_callsieve")).arg("schemas").args(arguments).output().unwrap();
    (done.status.code(), String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap())
}

/// Our own build fails here when a schema is no longer compatible with what it said before.
#[test]
fn our_schemas_are_compatible_with_all_that_they_said_before() {
    let (code, out, said) = run(&["check"]);
    assert_eq!(code, Some(0), "{out}{said}");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    let (code, out, said) = run(&["check", "--against", folder.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{out}{said}");
}

#[test]
fn an_incompatible_schema_fails_the_check_and_the_field_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, json: &str| {
        std::fs::create_dir_all(folder.path().join("below")).unwrap();
        std::fs::write(folder.path().join("below").join(name), json).unwrap();
    };
    let against = ["check", "--against", folder.path().to_str().unwrap()];
    assert!(run(&against).2.contains("has no schema of callsieve's records"), "an empty folder says nothing");
    write("other.avsc", r#"{"type":"record","name":"other.Thing","fields":[]}"#);
    write("notes.txt", "no schema");
    assert_eq!(run(&against).0, Some(1), "nor does one with other schemas");
    let fields = r#"{"name":"account_id","type":"string"},{"name":"removed_at","type":"long"}"#;
    write("AccountRemoved.avsc", &format!(r#"{{"type":"record","name":"callsieve.v1.AccountRemoved","fields":[{fields}]}}"#));
    let (code, out, _) = run(&against);
    assert!(code == Some(0) && out.contains("1 schemas in"), "{out}");
    let more = fields.replace("long", "string") + r#",{"name":"by","type":"string"}"#;
    write("AccountRemoved.avsc", &format!(r#"{{"type":"record","name":"callsieve.v1.AccountRemoved","fields":[{more}]}}"#));
    let (code, out, _) = run(&against);
    assert_eq!(code, Some(1));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 3, "{out}");
    for (line, parts) in lines.iter().zip([
        ["AccountRemoved.removed_at: string is read as timestamp", "can't read what"],
        ["AccountRemoved.by: is not written, and has no default", "can't read this version"],
        ["AccountRemoved.removed_at: timestamp is read as string", "AccountRemoved.avsc"],
    ]) {
        assert!(parts.iter().all(|part| line.contains(part)), "{parts:?}: {line}");
    }
    write("AccountRemoved.avsc", "{");
    assert!(run(&against).2.contains("AccountRemoved.avsc: it is no JSON"));
}

#[test]
fn schemas_are_listed_and_shown_as_they_are() {
    let (code, list, _) = run(&["show"]);
    assert_eq!((code, list.lines().count()), (Some(0), 12));
    for line in list.lines() {
        let name = line.split_whitespace().next().unwrap();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("schemas/{name}.avsc"));
        assert_eq!(run(&["show", name]).1, std::fs::read_to_string(file).unwrap());
    }
    assert!(run(&["show", "Nothing"]).2.contains("there is no record Nothing"));
}

#[test]
fn a_registry_is_named_by_a_url() {
    for (arguments, said) in [
        (&["check", "--schema-registry", "registry:8081"][..], "http://"),
        (&["register"], "--schema-registry"),
        (&["check", "--against", "/nowhere"], "/nowhere"),
    ] {
        let (code, _, error) = run(arguments);
        assert!(code != Some(0) && error.contains(said), "{arguments:?}: {error}");
    }
    let with = ["run", "--schema-registry", "http://127.0.0.1:1", "--listen", "127.0.0.1:0"];
    let folder = tempfile::tempdir().unwrap();
    let refused = std::process::Command::new(env!("CARGO_BIN_EXE_callsieve")).args(with).arg("--data-dir").arg(folder.path()).output().unwrap();
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("--brokers"));
}
