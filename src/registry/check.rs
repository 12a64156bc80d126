//! Whether the schemas of this version are compatible with what they said before, in both directions: with every version in a registry, or with
//! files.

use super::{COMPATIBILITY, Registry, RegistryError, placed, subject};
use crate::event::schema::{Schema, lost_of};
use crate::event::{EARLIER, Record};
use std::path::Path;

/// Every way in which a schema and one from before don't read each other, in words. `before` says which that is.
fn compare(record: Record, before: &str, json: &str) -> Result<Vec<String>, String> {
    let now = Schema::parse(record.schema_json())?;
    let then = Schema::parse(json).map_err(|why| format!("{before}: {why}"))?;
    let forward = now.cannot_read(&then).into_iter().map(|finding| format!("{finding} (this version can't read what {before} wrote)"));
    let backward = then.cannot_read(&now).into_iter().map(|finding| format!("{finding} (who reads by {before} can't read this version)"));
    Ok(forward.chain(backward).collect())
}

/// Against what comes with the program: the schemas of earlier versions, and the first contract.
#[must_use]
pub fn against_earlier() -> Vec<String> {
    let schemas: Vec<Schema> = Record::ALL.into_iter().filter_map(|record| Schema::parse(record.schema_json()).ok()).collect();
    let mut wrong: Vec<String> = lost_of(include_str!("../../schemas/first-contract.txt"), &schemas).iter().map(ToString::to_string).collect();
    for (record, json) in EARLIER {
        wrong.extend(compare(record, &format!("an earlier {}", record.name()), json).unwrap_or_else(|why| vec![why]));
    }
    wrong
}

/// Against the schemas in a folder and those below it, each in a file `*.avsc`. Also gives how many of them were ours.
///
/// # Errors
/// If a file can't be read, or is no schema.
pub fn against_files(dir: &Path) -> Result<(Vec<String>, usize), String> {
    let (mut wrong, mut compared) = (Vec::new(), 0);
    let entries = std::fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let mut paths: Vec<_> =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().map_err(|error| format!("{}: {error}", dir.display()))?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            let (more, of) = against_files(&path)?;
            wrong.extend(more);
            compared += of;
        } else if path.extension().is_some_and(|extension| extension == "avsc") {
            let name = path.display().to_string();
            let json = std::fs::read_to_string(&path).map_err(|error| format!("{name}: {error}"))?;
            let then = Schema::parse(&json).map_err(|why| format!("{name}: {why}"))?;
            let of = Record::ALL.into_iter().find(|record| then.record_name() == Some(record.full_name().as_str()));
            let Some(record) = of else { continue };
            wrong.extend(compare(record, &name, &json)?);
            compared += 1;
        }
    }
    Ok((wrong, compared))
}

/// Against every version of every subject in a registry, and by the registry's own check. Also gives how many versions there were.
///
/// # Errors
/// If the registry doesn't answer, or has something that is no schema.
pub fn against_registry(registry: &Registry, topic_prefix: &str) -> Result<(Vec<String>, usize), String> {
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for (topic, record) in placed() {
        let subject = subject(&format!("{topic_prefix}{topic}"), record);
        let failed = |error: RegistryError| format!("{subject} at {registry}: {error}");
        let before = wrong.len();
        let versions = registry.versions(&subject).map_err(failed)?;
        for version in &versions {
            wrong.extend(compare(record, &format!("{subject} version {}", version.version), &version.schema)?);
        }
        compared += versions.len();
        // The registry has the last word: its rules may be stricter.
        let refused = registry.would_refuse(&subject, record.schema_json()).map_err(failed)?;
        if let (Some(words), true) = (refused, wrong.len() == before) {
            wrong.push(format!("{}: the registry finds it incompatible with {subject}: {}", record.name(), words.join("; ")));
        }
        if !versions.is_empty() {
            let level = registry.compatibility(&subject).map_err(failed)?;
            if level.as_deref() != Some(COMPATIBILITY) {
                let level = level.unwrap_or_else(|| "that of the registry".to_owned());
                tracing::warn!("{subject}: its compatibility is {level}, not {COMPATIBILITY}");
            }
        }
    }
    Ok((wrong, compared))
}
