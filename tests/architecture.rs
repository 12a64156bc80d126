//! The invariants of ARCHITECTURE.md that imports show, read from the sources: tests aside, who uses what.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What the standard library offers to reach a clock, a socket, a file, a thread or another process.
const OUTSIDE: [&str; 7] = ["time", "fs", "net", "thread", "process", "env", "os"];
/// Files that only tests compile.
const TEST_FILES: [&str; 4] = ["tests.rs", "memory.rs", "arbitrary.rs", "contract.rs"];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_rust = path.extension().is_some_and(|extension| extension == "rs");
        if path.is_dir() {
            found.extend(sources(&path));
        } else if is_rust && !TEST_FILES.iter().any(|name| path.ends_with(name)) {
            found.push(path);
        }
    }
    found
}

/// The code of a module, a file's after another's, without comments and tests.
fn code(module: &str) -> String {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let file = src.join(module).with_extension("rs");
    let files = if file.is_file() { vec![file] } else { sources(&src.join(module)) };
    let mut code = String::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for line in text.lines() {
            code.push_str(line.split("//").next().unwrap());
            code.push('\n');
        }
    }
    code
}

/// The names that stand right after `root::`, in a path or in a group of them.
fn names(code: &str, root: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let first = |text: &str| text.trim_start().chars().take_while(|c| is_part(*c)).collect::<String>();
    let mut names = BTreeSet::new();
    for (at, prefix) in code.match_indices(&format!("{root}::")) {
        if code[..at].ends_with(is_part) {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            names.insert(first(rest));
            continue;
        };
        let (mut depth, mut begins) = (0, true);
        for (at, c) in group.char_indices() {
            if begins && !c.is_whitespace() {
                names.insert(first(&group[at..]));
                begins = false;
            }
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' => begins = depth == 0,
                _ => {}
            }
        }
    }
    names.remove("");
    names
}

fn uses(module: &str) -> BTreeSet<String> {
    let code = code(module);
    names(&code, "crate").union(&names(&code, "callsieve")).filter(|name| *name != module).cloned().collect()
}

#[test]
fn names_are_found_in_paths_and_groups() {
    let code = "use std::{fs::{self, File}, io::{Read, Write}, net};\nlet x = std::thread::spawn(f); my_std::time::now();\nuse std::\n";
    assert_eq!(names(code, "std").into_iter().collect::<Vec<_>>(), ["fs", "io", "net", "thread"]);
}

#[test]
fn event_and_judge_touch_no_clock_socket_file_thread_randomness_or_rocksdb() {
    for module in ["event", "judge"] {
        let code = code(module);
        assert!(code.contains("use crate::event::") || code.contains("use super::"), "{module} is read");
        let outside: Vec<_> = names(&code, "std").into_iter().filter(|name| OUTSIDE.contains(&name.as_str())).collect();
        assert_eq!(outside, [""; 0], "{module} uses std");
        for root in ["rocksdb", "rand", "rand_chacha", "tokio", "rdkafka", "tracing", "metrics"] {
            assert_eq!(names(&code, root), BTreeSet::new(), "{module} uses {root}");
        }
        for call in ["Timestamp::now", "Zoned::now", "RandomState", "static mut", "thread_local!"] {
            assert!(!code.contains(call), "{module} has {call}");
        }
    }
}

#[test]
fn each_module_uses_only_those_below_it() {
    let rows: [(&str, &[&str]); 9] = [
        ("event", &[]),
        ("judge", &["event"]),
        ("state", &["event", "judge"]),
        ("log", &["state"]),
        ("registry", &["event", "log"]),
        ("ringcentral", &["event", "judge"]),
        ("simulate", &["event"]),
        ("roles", &["event", "judge", "state", "log", "registry", "ringcentral", "simulate"]),
        ("cli", &["event", "judge", "state", "log", "registry", "ringcentral", "simulate", "roles"]),
    ];
    for (module, below) in rows {
        let used = uses(module);
        assert!(used.iter().all(|name| below.contains(&name.as_str())), "{module} uses {used:?}");
    }
    assert_eq!(uses("main").into_iter().collect::<Vec<_>>(), ["cli"]);
}

#[test]
fn of_the_state_the_log_uses_the_database_alone_and_of_the_core_parsing_uses_numbers_alone() {
    assert_eq!(names(&code("log"), "crate::state").into_iter().collect::<Vec<_>>(), ["database"]);
    assert_eq!(names(&code("ringcentral"), "crate::judge").into_iter().collect::<Vec<_>>(), ["number"]);
}

/// What is released is built without any feature, and whoever runs it can't stop it by the environment.
#[test]
fn without_being_asked_for_nothing_has_points_to_fail_at() {
    let manifest = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let features = manifest.split("[features]").nth(1).unwrap().split("\n[").next().unwrap();
    assert!(features.contains("failpoints = [\"dep:fail\"") && !features.contains("\ndefault"), "{features}");
    assert!(manifest.lines().any(|line| line.starts_with("fail = ") && line.contains("optional = true")));
    let binary = std::fs::read(env!("CARGO_BIN_EXE_callsieve")).unwrap();
    let reads_variable = memchr::memmem::find(&binary, b"FAILPOINTS").is_some();
    assert_eq!(reads_variable, cfg!(feature = "failpoints"), "the binary reads FAILPOINTS");
}
