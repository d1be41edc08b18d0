//! A run's options in the words of its report.

use super::options::{ArrivalOptions, Load};
use super::report::{LoadReport, Protocol};

impl Load {
    /// The options of a run as its report has them.
    pub(crate) fn described(&self, endpoints: &[String], rate: Option<f64>) -> LoadReport {
        let finite = rate.filter(|rate| rate.is_finite());
        LoadReport {
            endpoints: match &self.target.target {
                Some(url) => vec![url.to_string()],
                None => endpoints.to_vec(),
            },
            protocol: match self.target.target {
                Some(_) => Protocol::Http,
                None => Protocol::Grpc,
            },
            connections: self.target.connections,
            sessions: self.target.sessions,
            attempts: self.target.attempts,
            seed: self.seed,
            rate: finite,
            burstiness: finite
                .map(|_| self.arrivals.burstiness)
                .filter(|shape| shape.is_finite()),
            concurrency: self.arrivals.concurrency.filter(|_| rate.is_none()),
            arrivals: self.arrivals_in_words(rate),
            prompts: self.prompts_in_words(),
            warm_up_seconds: self.arrivals.warm_up.unwrap_or_default().as_secs_f64(),
            shared_prefix: self.prompts.shared_prefix,
            temperature: self.prompts.temperature,
        }
    }

    fn arrivals_in_words(&self, rate: Option<f64>) -> String {
        let ArrivalOptions {
            burstiness,
            ramp_to,
            on_off,
            concurrency,
            speed,
            trace,
            ..
        } = &self.arrivals;
        let Some(rate) = rate else {
            return match (concurrency, trace) {
                (Some(concurrency), _) => format!("{concurrency} requests at a time"),
                (None, Some(path)) => format!("{} at {speed} times its speed", path.display()),
                (None, None) => String::new(),
            };
        };
        let process = match burstiness {
            _ if rate.is_infinite() => return "all requests at once".into(),
            1.0 => "Poisson".into(),
            shape if shape.is_infinite() => "constant".into(),
            shape => format!("gamma, burstiness {shape}"),
        };
        let rate = format!("{} requests/s", (rate * 1000.0).round() / 1000.0);
        match (ramp_to, on_off) {
            (Some(to), _) => format!("from {rate} to {to} ({process})"),
            (_, Some((on, off))) => {
                format!("{rate} in the mean, {on} s on and {off} s off ({process})")
            }
            (None, None) => format!("{rate} ({process})"),
        }
    }

    fn prompts_in_words(&self) -> String {
        let options = &self.prompts;
        let scale = match options.scale {
            Some(scale) => format!("scaled by {scale}"),
            None => "scaled to the context".into(),
        };
        let mut words = match (&options.prompts, &options.lengths, &self.arrivals.trace) {
            (Some(path), _, _) => path.display().to_string(),
            (None, Some(trace), _) => format!("{trace} {scale}"),
            (None, None, Some(_)) => "its lengths".into(),
            (None, None, None) => format!(
                "{} prompt and {} output tokens",
                options.prompt_tokens, options.max_tokens
            ),
        };
        if options.shared_prefix > 0.0 {
            let percent = options.shared_prefix * 100.0;
            words += &format!(
                ", {percent} % of the prompt from {} prefixes",
                options.prefixes
            );
        }
        words
    }
}
