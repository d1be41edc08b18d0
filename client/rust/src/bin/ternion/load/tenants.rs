use std::fmt;
use std::path::Path;

use rand::rngs::ChaCha8Rng;
use rand_distr::Distribution;
use rand_distr::weighted::WeightedIndex;
use serde::Deserialize;

use super::json_lines;
use super::seed::{Purpose, random};
use crate::failure::Failure;

/// Who sends requests.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tenant {
    pub(crate) name: String,
    /// Absent: that of the command line.
    pub(crate) api_key: Option<ApiKey>,
    /// Part of all requests, relative to those of the others.
    pub(crate) share: f64,
    /// Part of the service it is entitled to, relative to the others.
    pub(crate) weight: f64,
    pub(crate) priority: Option<i32>,
}

/// Not to be shown.
#[derive(Clone, PartialEq)]
pub(crate) struct ApiKey(pub(crate) String);

/// Draws whose request an arrival is.
#[derive(Debug)]
pub(crate) struct Draw {
    shares: WeightedIndex<f64>,
    random: Box<ChaCha8Rng>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    api_key: Option<String>,
    share: Option<f64>,
    weight: Option<f64>,
    priority: Option<i32>,
}

/// Each has figures of its own, which a person reads.
const MAX_TENANTS: usize = 256;

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey")
    }
}

impl Tenant {
    /// One that is like the others but for its name.
    pub(crate) fn named(name: impl Into<String>) -> Tenant {
        Tenant {
            name: name.into(),
            api_key: None,
            share: 1.0,
            weight: 1.0,
            priority: None,
        }
    }

    pub(crate) fn from_file(path: &Path) -> Result<Vec<Tenant>, Failure> {
        let tenants = json_lines::read(path, parse)?;
        check(&tenants).map_err(|error| Failure::Usage(format!("--tenants: {error}")))?;
        Ok(tenants)
    }

    pub(crate) fn key(&self) -> Option<&str> {
        self.api_key.as_ref().map(|ApiKey(key)| key.as_str())
    }

    /// Requests at a time of each, of so many in all.
    pub(crate) fn slots(tenants: &[Tenant], concurrency: u32) -> Vec<usize> {
        let all: f64 = tenants.iter().map(|tenant| tenant.share).sum();
        let slots = |tenant: &Tenant| f64::from(concurrency) * tenant.share / all;
        let slots = tenants.iter().map(slots);
        slots.map(|slots| (slots.round() as usize).max(1)).collect()
    }
}

impl Draw {
    pub(crate) fn new(tenants: &[Tenant], seed: u64) -> Draw {
        let shares = tenants.iter().map(|tenant| tenant.share);
        Draw {
            shares: WeightedIndex::new(shares).expect("shares are positive and there are some"),
            random: Box::new(random(seed, Purpose::Tenants)),
        }
    }

    pub(crate) fn next(&mut self) -> usize {
        self.shares.sample(&mut self.random)
    }
}

fn parse(line: Line) -> Result<Tenant, String> {
    let part = |field, value: Option<f64>| match value.unwrap_or(1.0) {
        value if (1e-6..=1e6).contains(&value) => Ok(value),
        value => Err(format!(
            "{field} is {value}, and must be from 0.000001 to 1000000"
        )),
    };
    Ok(Tenant {
        share: part("share", line.share)?,
        weight: part("weight", line.weight)?,
        name: line.name,
        api_key: line.api_key.map(ApiKey),
        priority: line.priority,
    })
}

fn check(tenants: &[Tenant]) -> Result<(), String> {
    if tenants.len() > MAX_TENANTS {
        return Err(format!(
            "{} tenants, at most {MAX_TENANTS} may be",
            tenants.len()
        ));
    }
    for (i, tenant) in tenants.iter().enumerate() {
        if tenants[..i].iter().any(|other| other.name == tenant.name) {
            return Err(format!("two tenants are named {:?}", tenant.name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenants(shares: &[f64]) -> Vec<Tenant> {
        let tenant = |&share| Tenant {
            share,
            ..Tenant::named("t")
        };
        shares.iter().map(tenant).collect()
    }

    #[test]
    fn arrivals_are_shared_as_asked() {
        let mut draw = Draw::new(&tenants(&[1.0, 10.0]), 5);
        let drawn = (0..22_000).filter(|_| draw.next() == 0).count() as f64;
        // Four standard deviations of a binomial distribution.
        let deviation = (22_000.0 / 11.0 * 10.0 / 11.0_f64).sqrt();
        assert!((drawn - 2000.0).abs() < 4.0 * deviation, "{drawn}");
    }

    #[test]
    fn everyone_has_a_slot() {
        assert_eq!(Tenant::slots(&tenants(&[1.0, 10.0]), 22), [2, 20]);
        assert_eq!(Tenant::slots(&tenants(&[1.0, 100.0]), 8), [1, 8]);
        assert_eq!(Tenant::slots(&tenants(&[1.0; 3]), 10), [3, 3, 3]);
    }

    #[test]
    fn what_is_wrong_with_a_tenant_is_told() {
        let read = |file: &str| {
            json_lines::lines(file.as_bytes(), parse)
                .map_err(|error| error.to_string())
                .and_then(|tenants| check(&tenants))
        };
        assert_eq!(
            read("{\"name\": \"a\", \"weight\": 2}\n{\"name\": \"b\"}"),
            Ok(())
        );
        for (file, expected) in [
            ("{\"name\": \"a\", \"share\": 0}", "line 1: share is 0"),
            ("{\"name\": \"a\", \"weight\": -1}", "line 1: weight is -1"),
            ("{\"nam\": \"a\"}", "line 1: unknown field `nam`"),
            (
                "{\"name\": \"a\"}\n{\"name\": \"a\"}",
                "two tenants are named \"a\"",
            ),
        ] {
            let error = read(file).expect_err("a bad file");
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn keys_are_not_shown() {
        let tenant = Tenant {
            api_key: Some(ApiKey("tn_secret".into())),
            ..Tenant::named("a")
        };
        assert!(!format!("{tenant:?}").contains("secret"));
    }
}
