//! `ternion load`: many requests at once, and what their clients see.

mod arrivals;
mod chart;
mod description;
mod event_source;
mod fairness;
mod html;
mod json_lines;
mod lengths;
mod observation;
mod options;
mod peer;
mod progress;
mod prompts;
mod rate;
mod report;
mod run;
mod schedule;
mod seed;
mod sessions;
mod sweep;
mod tally;
mod target;
mod tenants;
mod time_series;
mod trace;

use std::time::Duration;

use ternion_client::Client;
use ternion_client::proto::ModelInfo;

use crate::failure::Failure;
use crate::{json, stdout};
use arrivals::{Arrivals, Process, Rate};
use html::Page;
use lengths::{Length, Lengths, Preset};
use options::ArrivalOptions;
pub(crate) use options::Load;
use peer::{About, Peer, Url};
use progress::Progress;
use prompts::{Common, Prefixes, Prompts, Source};
use rate::RateOption;
use report::{Report, ServerReport, Slo};
use run::{Plan, Signals};
use schedule::{Pace, Schedule};
use sessions::Sessions;
use sweep::Sweep;
use target::{Target, Way};
use tenants::{Draw, Tenant};
use trace::Entry;

/// What is loaded, and what it says about itself.
struct Loaded {
    target: Target,
    server: ServerReport,
    vocab_size: u32,
}

/// What files hold.
struct Input {
    tenants: Vec<Tenant>,
    trace: Vec<Entry>,
}

/// `connect` makes a client with a tenant's key; without one, with that of the
/// command line, which is `api_key`.
pub(crate) async fn run(
    connect: impl AsyncFn(Option<&str>) -> Result<Client, Failure>,
    api_key: Option<&str>,
    endpoints: &[String],
    load: &Load,
    json: bool,
) -> Result<(), Failure> {
    load.check()?;
    let input = load.input()?;
    let loaded = match &load.target.target {
        Some(url) => peers(url, api_key, load, &input.tenants).await?,
        None => servers(connect, load, &input.tenants).await?,
    };
    let (reports, failure) = runs(load, endpoints, &input, &loaded, !json).await?;
    let sweep = Sweep::new(reports);
    if let Some(path) = &load.html {
        Page(&sweep).write_to(path)?;
    }
    print(&sweep, json)?;
    failure.map_or(Ok(()), Err)
}

/// All runs, and the first thing that was wrong in one.
async fn runs(
    load: &Load,
    endpoints: &[String],
    input: &Input,
    loaded: &Loaded,
    progress: bool,
) -> Result<(Vec<Report>, Option<Failure>), Failure> {
    let mut signals = Signals::install();
    let mut reports: Vec<Report> = Vec::new();
    let mut failure = None;
    let rates = load.rates();
    for (i, rate) in rates.iter().enumerate() {
        let capacity = reports.first().map_or(0.0, |closed: &Report| {
            closed.measured.throughput.requests_per_second
        });
        let rate = rate.map(|rate| rate.requests_per_second(capacity));
        if rate == Some(0.0) {
            failure = failure.or(Some(Failure::Usage(
                "--concurrency got nothing through".into(),
            )));
            break;
        }
        let schedule = Schedule {
            pace: load.pace(rate, input),
            prompts: load.prompts(loaded, &input.tenants)?,
            left: load.arrivals.requests,
            end: load.arrivals.duration,
        };
        let plan = Plan {
            tenants: input.tenants.len(),
            warm_up: load.arrivals.warm_up.unwrap_or_default(),
            max_in_flight: load.arrivals.max_in_flight as usize,
            slo: load.slo(),
        };
        let progress = load.progress(i, rates.len(), progress);
        let tally = run::run(&plan, schedule, &loaded.target, progress, &mut signals).await?;
        let described = load.described(endpoints, rate);
        let server = loaded.server.clone();
        let report = Report::new(described, server, plan.slo, &input.tenants, &tally);
        // The run that finds the capacity has no rate to keep.
        let judged = rate.is_some() || rates.len() == 1;
        let slo = if judged {
            load.slo_verdict(&report)
        } else {
            Ok(())
        };
        failure = failure.or(tally.verdict().and(slo).err());
        reports.push(report);
        if tally.interrupted {
            break;
        }
    }
    Ok((reports, failure))
}

/// One run is printed as it is, several with what they are together.
fn print(sweep: &Sweep, json: bool) -> Result<(), Failure> {
    match &sweep.runs[..] {
        [run] if json => json::print(run),
        [run] => stdout::write(&run.to_string()),
        _ if json => json::print(sweep),
        _ => stdout::write(&sweep.to_string()),
    }
}

async fn servers(
    connect: impl AsyncFn(Option<&str>) -> Result<Client, Failure>,
    load: &Load,
    tenants: &[Tenant],
) -> Result<Loaded, Failure> {
    let mut ways = Vec::new();
    let mut model = ModelInfo::default();
    for tenant in tenants {
        let client = connect(tenant.key()).await?;
        model = served(&client, &load.prompts.model).await?;
        ways.push(match load.target.sessions {
            Some(sessions) => Way::Sessions(Sessions::new(&client, sessions)),
            None => Way::Calls(client),
        });
    }
    Ok(Loaded {
        target: Target::new(ways),
        vocab_size: model.vocab_size,
        server: ServerReport {
            model: model.name,
            digest: model.digest,
            kernel: model.kernel,
            context_limit: Some(model.context_limit),
        },
    })
}

/// The model that is asked, for its context and its vocabulary.
async fn served(client: &Client, name: &str) -> Result<ModelInfo, Failure> {
    if !name.is_empty() {
        return Ok(client.model(name).await?);
    }
    let models = client.models().await?;
    let first = models.into_iter().next();
    first.ok_or_else(|| Failure::Usage("the server serves no model".into()))
}

async fn peers(
    url: &Url,
    api_key: Option<&str>,
    load: &Load,
    tenants: &[Tenant],
) -> Result<Loaded, Failure> {
    let peer = |tenant: &Tenant| {
        let key = tenant.key().or(api_key);
        Peer::new(url.clone(), key).map_err(|error| Failure::Usage(format!("--target: {error}")))
    };
    let peers: Vec<Peer> = tenants.iter().map(peer).collect::<Result<_, Failure>>()?;
    let about = match peers.first() {
        Some(peer) => peer.about().await,
        None => About::default(),
    };
    let vocab_size = load.target.vocab_size.or(about.vocab_size);
    if vocab_size.is_none() && load.prompts.prompts.is_none() {
        let message = "--vocab-size is needed: the server doesn't say how many tokens it knows";
        return Err(Failure::Usage(message.into()));
    }
    Ok(Loaded {
        target: Target::new(
            peers
                .into_iter()
                .map(|peer| Way::Peer(Box::new(peer)))
                .collect(),
        ),
        vocab_size: vocab_size.unwrap_or(1),
        server: ServerReport {
            model: about.model.unwrap_or_else(|| url.to_string()),
            digest: String::new(),
            kernel: String::new(),
            context_limit: load.target.context_limit.or(about.context_limit),
        },
    })
}

impl Load {
    fn input(&self) -> Result<Input, Failure> {
        let mut tenants = match &self.prompts.tenants {
            Some(path) => Tenant::from_file(path)?,
            None => vec![Tenant::named("all")],
        };
        let given = self.prompts.tenants.is_some();
        let trace = match &self.arrivals.trace {
            Some(path) => trace::from_file(path, self.arrivals.speed, &mut tenants, given)?,
            None => Vec::new(),
        };
        Ok(Input { tenants, trace })
    }

    /// The rates of all runs; none for a closed loop and a trace.
    fn rates(&self) -> Vec<Option<RateOption>> {
        let rates = self.arrivals.rate.iter().copied().map(Some);
        let closed = self.arrivals.concurrency.map(|_| None);
        let traced = self.arrivals.trace.as_ref().map(|_| None);
        closed.into_iter().chain(traced).chain(rates).collect()
    }

    fn rate(&self, mean: f64) -> Rate {
        let ArrivalOptions {
            ramp_to,
            on_off,
            duration,
            ..
        } = self.arrivals;
        match (ramp_to, on_off) {
            _ if mean.is_infinite() => Rate::Infinite,
            (Some(to), _) => Rate::Ramp {
                from: mean,
                to,
                seconds: duration.unwrap_or(Duration::from_secs(1)).as_secs_f64(),
            },
            (_, Some((on, off))) => Rate::OnOff { mean, on, off },
            (None, None) => Rate::Constant(mean),
        }
    }

    fn pace(&self, rate: Option<f64>, input: &Input) -> Pace {
        let process = match self.arrivals.burstiness {
            shape if shape.is_infinite() => Process::Constant,
            shape => Process::Gamma(shape),
        };
        match (rate, self.arrivals.concurrency) {
            (Some(rate), _) => Pace::Open(
                Arrivals::new(process, self.rate(rate), self.seed),
                Draw::new(&input.tenants, self.seed),
            ),
            (None, Some(concurrency)) => Pace::Closed {
                slots: Tenant::slots(&input.tenants, concurrency),
            },
            (None, None) => Pace::Traced(input.trace.clone().into_iter()),
        }
    }

    fn prompts(&self, loaded: &Loaded, tenants: &[Tenant]) -> Result<Prompts, Failure> {
        let options = &self.prompts;
        let context = loaded.server.context_limit;
        let lengths = match options.lengths.as_deref().and_then(Preset::named) {
            Some(preset) => preset.lengths(options.scale, context),
            None => Lengths {
                prompt: options.prompt_tokens,
                output: options.max_tokens,
                scale: options.scale.unwrap_or(1.0),
                context,
            },
        };
        let source = match (&options.prompts, options.max_tokens) {
            (Some(path), Length::Fixed(max_tokens)) => Source::from_file(path, max_tokens)?,
            _ => {
                let prefixes = Prefixes::new(options.shared_prefix, options.prefixes, self.seed);
                Source::random(lengths, loaded.vocab_size, prefixes)
            }
        };
        let common = Common {
            model: options.model.clone(),
            temperature: options.temperature,
            timeout: options.timeout,
        };
        Ok(Prompts::new(source, common, tenants, self.seed))
    }

    fn slo(&self) -> Slo {
        Slo {
            ttft: self.slo.slo_ttft,
            tpot: self.slo.slo_tpot,
            e2e: self.slo.slo_e2e,
        }
    }

    fn progress(&self, run: usize, runs: usize, shown: bool) -> Progress {
        let ArrivalOptions {
            requests, duration, ..
        } = self.arrivals;
        let length = match (requests, duration) {
            (Some(requests), _) => progress::Length::Requests(requests),
            (None, Some(duration)) => progress::Length::Time(duration),
            (None, None) => progress::Length::Unknown,
        };
        let name = match runs {
            1 => String::new(),
            runs => format!("{} of {runs} ", run + 1),
        };
        Progress::new(length, &name, shown)
    }

    fn slo_verdict(&self, report: &Report) -> Result<(), Failure> {
        let share = report.measured.goodput.share;
        match self.slo.fail_on_slo {
            Some(wanted) if share < wanted => Err(Failure::SloMissed { share, wanted }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::tenants::ApiKey;
    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        load: Load,
    }

    fn load(arguments: &[&str]) -> Load {
        let line = ["load", "--rate", "1"].iter().chain(arguments);
        Line::try_parse_from(line).expect("good arguments").load
    }

    /// Tells any caller of a model of 7 tokens, and gives what it was asked.
    async fn told(listener: &TcpListener) -> Vec<String> {
        let mut all = Vec::new();
        for page in [
            "{\"data\": [{\"id\": \"m\", \"meta\": {\"n_vocab\": 7}}]}",
            "{\"default_generation_settings\": {\"n_ctx\": 8}}",
        ] {
            let (mut stream, _) = listener.accept().await.expect("a client comes");
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(stream.read_u8().await.expect("it can be read"));
            }
            all.push(String::from_utf8(asked).expect("a head is ASCII"));
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length:";
            let answer = format!("{head} {}\r\n\r\n{page}", page.len());
            let written = stream.write_all(answer.as_bytes()).await;
            written.expect("it can be written");
        }
        all
    }

    #[tokio::test]
    async fn what_was_said_of_another_server_counts_before_what_it_says() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let url = Url::parse(&format!("http://{address}")).expect("it is one");
        let given = ["--vocab-size", "5", "--context-limit", "6"];
        for (more, vocab_size, context_limit) in [(&given[..], 5, 6), (&[], 7, 8)] {
            let load = load(&[&["--target", &url.to_string()], more].concat());
            let mut tenant = Tenant::named("t");
            let asked = tokio::join!(
                peers(&url, Some("outer"), &load, std::slice::from_ref(&tenant)),
                told(&listener)
            );
            let (Ok(loaded), heads) = asked else {
                panic!("all is known");
            };
            assert_eq!(loaded.vocab_size, vocab_size);
            assert_eq!(loaded.server.context_limit, Some(context_limit));
            assert_eq!(loaded.server.model, "m");
            assert!(heads.iter().all(|head| head.contains("Bearer outer")));

            // A tenant's own key counts alone.
            tenant.api_key = Some(ApiKey("inner".into()));
            let tenants = [tenant];
            let asked = tokio::join!(peers(&url, Some("outer"), &load, &tenants), told(&listener));
            assert!(asked.1.iter().all(|head| head.contains("Bearer inner")));
        }
    }
}
