//! Output records as JSON for people and programs: snake_case, enum symbols as in the schemas, times as RFC 3339 in UTC
//! with milliseconds. (On the topics the same records are Avro, where a time is a number.)
