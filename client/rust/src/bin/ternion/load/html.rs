//! A report as one page that needs nothing else: styles and plots are in it.

use std::fmt::{self, Display, Formatter};
use std::path::Path;

use super::chart::{Chart, Line};
use super::report::Report;
use super::sweep::Sweep;
use super::time_series::Second;
use crate::failure::Failure;

/// Text that means nothing to a browser.
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

pub(crate) struct Page<'a>(pub(crate) &'a Sweep);

impl Page<'_> {
    pub(crate) fn write_to(&self, path: &Path) -> Result<(), Failure> {
        std::fs::write(path, self.to_string()).map_err(|source| Failure::Page {
            path: path.to_owned(),
            source,
        })
    }
}

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '&' => f.write_str("&amp;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            other => write!(f, "{other}"),
        })
    }
}

impl Display for Page<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(HEAD)?;
        let Sweep { runs, .. } = self.0;
        if let Some(first) = runs.first() {
            write!(
                f,
                "<h1>ternion load: {}</h1>",
                Escaped(&first.server.to_string())
            )?;
        }
        if runs.len() > 1 {
            write_sweep(f, self.0)?;
        }
        for (i, run) in runs.iter().enumerate() {
            if runs.len() > 1 {
                write!(f, "<h2>Run {}</h2>", i + 1)?;
            }
            write_run(f, run)?;
        }
        f.write_str("</body></html>\n")
    }
}

fn write_sweep(f: &mut Formatter<'_>, sweep: &Sweep) -> fmt::Result {
    write!(
        f,
        "<p>The last run has {:.1} % of the best run's goodput.</p>",
        sweep.last_share_of_peak * 100.0
    )?;
    let open: Vec<(f64, &Report)> = sweep
        .runs
        .iter()
        .filter_map(|run| Some((run.load.rate?, run)))
        .collect();
    let line = |name, of: &dyn Fn(&Report) -> f64| Line {
        name,
        points: open.iter().map(|(rate, run)| (*rate, of(run))).collect(),
    };
    let x = "requests a second that were due";
    write_charts(
        f,
        &[
            Chart {
                title: "Requests a second",
                x,
                lines: vec![
                    line("due", &|run| run.load.rate.unwrap_or_default()),
                    line("complete", &|run| {
                        run.measured.throughput.requests_per_second
                    }),
                    line("good", &|run| run.measured.goodput.requests_per_second),
                ],
            },
            Chart {
                title: "First token, ms",
                x,
                lines: vec![
                    line("p50", &|run| run.measured.ttft_seconds.p50 * 1e3),
                    line("p99", &|run| run.measured.ttft_seconds.p99 * 1e3),
                ],
            },
            Chart {
                title: "Per token, ms",
                x,
                lines: vec![
                    line("p50", &|run| run.measured.tpot_seconds.p50 * 1e3),
                    line("p99", &|run| run.measured.tpot_seconds.p99 * 1e3),
                ],
            },
            Chart {
                title: "Output tokens a second",
                x,
                lines: vec![line("all", &|run| {
                    run.measured.throughput.output_tokens_per_second
                })],
            },
        ],
    )
}

fn write_run(f: &mut Formatter<'_>, run: &Report) -> fmt::Result {
    write!(f, "<p>{}</p>", Escaped(&run.load.to_string()))?;
    for warning in &run.warnings {
        write!(f, r#"<p class="warning">{}</p>"#, Escaped(warning))?;
    }
    write_figures(f, run)?;
    write_times(f, run)?;
    write_tenants(f, run)?;
    // What people wait for, and how fast it then goes: of different sizes.
    let curves = |title, names: [&str; 2]| Chart {
        title,
        x: "percent of requests, or of gaps, that took no longer",
        lines: run
            .curves
            .iter()
            .filter(|(name, _)| names.contains(name))
            .map(|(name, points)| Line {
                name,
                points: points.clone(),
            })
            .collect(),
    };
    let mut charts = vec![
        curves("From when it was due, ms", ["first token", "whole request"]),
        curves("After the first token, ms", ["each gap", "per token"]),
    ];
    charts.extend(over_time(run));
    write_charts(f, &charts)
}

fn write_figures(f: &mut Formatter<'_>, run: &Report) -> fmt::Result {
    let measured = &run.measured;
    let throughput = &measured.throughput;
    f.write_str("<table>")?;
    let mut row =
        |name: &str, value: String| write!(f, "<tr><th>{}<td>{}", Escaped(name), Escaped(&value));
    row("requests", measured.requests.to_string())?;
    for refusal in &measured.refusals {
        row(
            "refused",
            format!(
                "{} {} {}, {} with a time to come back",
                refusal.count, refusal.code, refusal.reason, refusal.with_retry_after
            ),
        )?;
    }
    for error in &measured.errors {
        row(
            "errors",
            format!("{} {}, such as: {}", error.count, error.kind, error.example),
        )?;
    }
    row("goodput", measured.goodput.to_string())?;
    row(
        "rate",
        format!(
            "{:.2} requests/s, {:.1} prompt and {:.1} output tokens/s, over {:.1} s",
            throughput.requests_per_second,
            throughput.prompt_tokens_per_second,
            throughput.output_tokens_per_second,
            run.elapsed_seconds
        ),
    )?;
    if let Some(index) = run.fairness.jain_index {
        row(
            "fairness",
            format!("{index:.3}, Jain's index of service by weight"),
        )?;
    }
    f.write_str("</table>")
}

fn write_times(f: &mut Formatter<'_>, run: &Report) -> fmt::Result {
    f.write_str("<table><tr><th>ms<th>p50<th>p90<th>p95<th>p99<th>max<th>mean<th>count")?;
    let lag = [("sent late", &run.send_lag_seconds)];
    for (name, times) in run.measured.times().into_iter().chain(lag) {
        if times.count == 0 {
            continue;
        }
        write!(f, "<tr><th>{name}")?;
        for seconds in times.columns() {
            write!(f, "<td>{:.2}", seconds * 1e3)?;
        }
        write!(f, "<td>{}", times.count)?;
    }
    f.write_str("</table>")
}

fn write_tenants(f: &mut Formatter<'_>, run: &Report) -> fmt::Result {
    if run.tenants.is_empty() {
        return Ok(());
    }
    f.write_str(
        "<table><tr><th>tenant<th>service %<th>by weight %<th>requests<th>refused<th>output tokens/s\
         <th>first token p50, ms<th>p99, ms<th>good %",
    )?;
    for tenant in &run.tenants {
        let measured = &tenant.measured;
        write!(f, "<tr><th>{}", Escaped(&tenant.name))?;
        write!(
            f,
            "<td>{:.1}<td>{:.1}",
            tenant.service_share * 100.0,
            tenant.entitled_share * 100.0
        )?;
        write!(
            f,
            "<td>{}<td>{}",
            measured.requests.sent, measured.requests.refused
        )?;
        write!(f, "<td>{:.1}", measured.throughput.output_tokens_per_second)?;
        write!(
            f,
            "<td>{:.1}<td>{:.1}",
            measured.ttft_seconds.p50 * 1e3,
            measured.ttft_seconds.p99 * 1e3
        )?;
        write!(f, "<td>{:.1}", measured.goodput.share * 100.0)?;
    }
    f.write_str("</table>")
}

fn over_time(run: &Report) -> Vec<Chart<'_>> {
    let line = |name, of: &dyn Fn(&Second) -> f64| series(name, &run.time_series, of);
    let x = "seconds since the start";
    let mean = |second: &Second| second.ttft_seconds_sum / second.first_tokens.max(1) as f64 * 1e3;
    let mut charts = vec![
        Chart {
            title: "Requests in each second",
            x,
            lines: vec![
                line("due", &|second| second.due as f64),
                line("complete", &|second| second.complete as f64),
                line("refused", &|second| second.refused as f64),
                line("errors", &|second| second.errors as f64),
            ],
        },
        Chart {
            title: "Tokens in each second",
            x,
            lines: vec![
                line("output", &|second| second.output_tokens as f64),
                line("prompt", &|second| second.prompt_tokens as f64),
            ],
        },
        Chart {
            title: "Unanswered requests",
            x,
            lines: vec![line("in flight", &|second| second.in_flight)],
        },
        Chart {
            title: "First tokens that came, ms since their requests were due",
            x,
            lines: vec![
                line("mean", &mean),
                line("max", &|second| second.ttft_seconds_max * 1e3),
            ],
        },
    ];
    if !run.tenants.is_empty() {
        charts.push(Chart {
            title: "Output tokens in each second, by tenant",
            x,
            lines: run
                .tenants
                .iter()
                .map(|tenant| {
                    series(&tenant.name, &tenant.seconds, &|second| {
                        second.output_tokens as f64
                    })
                })
                .collect(),
        });
    }
    charts
}

fn series<'a>(name: &'a str, seconds: &[Second], of: &dyn Fn(&Second) -> f64) -> Line<'a> {
    let points = seconds
        .iter()
        .enumerate()
        .map(|(i, second)| (i as f64, of(second)));
    Line {
        name,
        points: points.collect(),
    }
}

fn write_charts(f: &mut Formatter<'_>, charts: &[Chart<'_>]) -> fmt::Result {
    f.write_str(r#"<div class="charts">"#)?;
    charts.iter().try_for_each(|chart| chart.fmt(f))?;
    f.write_str("</div>")
}

const HEAD: &str = r#"<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>ternion load</title>
<style>
:root { color-scheme: light dark; --text: #1c1c1c; --faint: #8883; --0: #2563eb; --1: #d97706; --2: #059669;
  --3: #dc2626; --4: #7c3aed; --5: #0891b2 }
@media (prefers-color-scheme: dark) { :root { --text: #e6e6e6; --0: #7aa7ff; --1: #fbbf24; --2: #34d399;
  --3: #f87171; --4: #a78bfa; --5: #22d3ee } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--text); max-width: 1180px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.4em } h2 { font-size: 1.15em; border-top: 1px solid var(--faint); padding-top: 1em }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .15em .8em .15em 0; border-bottom: 1px solid var(--faint); font-weight: normal }
th:first-child { text-align: left } table:first-of-type td { text-align: left }
.warning { border-left: 4px solid var(--1); padding-left: .6em }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 1.2em }
svg { width: 100%; height: auto } svg text { font-size: 11px; fill: var(--text) }
svg .title { font-size: 13px; font-weight: 600 } .end { text-anchor: end } .middle { text-anchor: middle }
.grid { stroke: var(--faint) } .line { fill: none; stroke-width: 1.6 }
.s0 { stroke: var(--0) } .s1 { stroke: var(--1) } .s2 { stroke: var(--2) } .s3 { stroke: var(--3) }
.s4 { stroke: var(--4) } .s5 { stroke: var(--5) }
.f0, svg .c0 { fill: var(--0) } .f1, svg .c1 { fill: var(--1) } .f2, svg .c2 { fill: var(--2) }
.f3, svg .c3 { fill: var(--3) } .f4, svg .c4 { fill: var(--4) } .f5, svg .c5 { fill: var(--5) }
</style></head><body>
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_no_markup() {
        let text = Escaped("<a href='x'>&\"").to_string();
        assert_eq!(text, "&lt;a href=&#39;x&#39;&gt;&amp;&quot;");
    }
}
