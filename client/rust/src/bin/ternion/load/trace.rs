use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::json_lines;
use super::lengths::MAX_TOKENS;
use super::tenants::Tenant;
use crate::failure::Failure;

/// One request of a recorded run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) due: Duration,
    pub(crate) prompt_tokens: u32,
    pub(crate) output_tokens: u32,
    pub(crate) tenant: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// Seconds since the start.
    arrival: f64,
    prompt_tokens: u32,
    output_tokens: u32,
    tenant: Option<String>,
}

/// Reads a trace that is played so many times as fast. Where the tenants were
/// not given, they are those it names.
pub(crate) fn from_file(
    path: &Path,
    speed: f64,
    tenants: &mut Vec<Tenant>,
    given: bool,
) -> Result<Vec<Entry>, Failure> {
    let mut parser = Parser::new(speed, tenants, given);
    json_lines::read(path, |line| parser.parse(line))
}

struct Parser<'a> {
    speed: f64,
    tenants: &'a mut Vec<Tenant>,
    given: bool,
    last: f64,
}

impl Parser<'_> {
    fn new(speed: f64, tenants: &mut Vec<Tenant>, given: bool) -> Parser<'_> {
        if !given {
            tenants.clear();
        }
        Parser {
            speed,
            tenants,
            given,
            last: 0.0,
        }
    }

    fn parse(&mut self, line: Line) -> Result<Entry, String> {
        // A billion seconds are more than anyone waits.
        if !(self.last..=1e9).contains(&line.arrival) {
            return Err(format!(
                "arrival is {}, and must not be before the one above it ({})",
                line.arrival, self.last
            ));
        }
        self.last = line.arrival;
        for (field, tokens) in [
            ("prompt_tokens", line.prompt_tokens),
            ("output_tokens", line.output_tokens),
        ] {
            if !(1..=MAX_TOKENS).contains(&tokens) {
                return Err(format!(
                    "{field} is {tokens}, and must be from 1 to {MAX_TOKENS}"
                ));
            }
        }
        Ok(Entry {
            due: Duration::from_secs_f64(line.arrival / self.speed),
            prompt_tokens: line.prompt_tokens,
            output_tokens: line.output_tokens,
            tenant: self.tenant(line.tenant.unwrap_or_default())?,
        })
    }

    fn tenant(&mut self, name: String) -> Result<usize, String> {
        let known = self.tenants.iter().position(|tenant| tenant.name == name);
        match known {
            Some(index) => Ok(index),
            None if self.given && name.is_empty() => Ok(0),
            None if self.given => Err(format!("tenant {name:?} is not in the --tenants file")),
            None if self.tenants.len() >= 256 => Err("names more than 256 tenants".into()),
            None => {
                self.tenants.push(Tenant::named(name));
                Ok(self.tenants.len() - 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &str, tenants: &mut Vec<Tenant>, given: bool) -> Result<Vec<Entry>, String> {
        let mut parser = Parser::new(2.0, tenants, given);
        json_lines::lines(file.as_bytes(), |line| parser.parse(line))
            .map_err(|error| error.to_string())
    }

    const FILE: &str = r#"{"arrival": 0, "prompt_tokens": 3, "output_tokens": 4, "tenant": "a"}
        {"arrival": 1.5, "prompt_tokens": 5, "output_tokens": 6, "tenant": "b"}"#;

    #[test]
    fn a_trace_is_played_at_its_speed_by_the_tenants_it_names() {
        let mut tenants = vec![Tenant::named("all")];
        let entries = read(FILE, &mut tenants, false).expect("a good file");
        assert_eq!(tenants, [Tenant::named("a"), Tenant::named("b")]);
        let second = Entry {
            due: Duration::from_millis(750),
            prompt_tokens: 5,
            output_tokens: 6,
            tenant: 1,
        };
        assert_eq!(entries[1], second);
    }

    #[test]
    fn what_is_wrong_in_a_trace_is_told_with_its_line() {
        let mut tenants = vec![Tenant::named("a")];
        let error = read(FILE, &mut tenants, true).expect_err("b is nobody");
        assert!(error.starts_with("line 2: tenant \"b\""), "{error}");
        for (file, expected) in [
            (
                r#"{"arrival": -1, "prompt_tokens": 1, "output_tokens": 1}"#,
                "line 1: arrival is -1",
            ),
            (
                r#"{"arrival": 0, "prompt_tokens": 0, "output_tokens": 1}"#,
                "line 1: prompt_tokens is 0",
            ),
            (
                r#"{"arrival": 0, "prompt_tokens": 1, "output_tokens": 9999999}"#,
                "line 1: output_tokens is",
            ),
            (
                r#"{"arrival": 0, "prompt_tokens": 1}"#,
                "line 1: missing field `output_tokens`",
            ),
            ("", "holds no line"),
        ] {
            let error = read(file, &mut tenants, true).expect_err("a bad file");
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
