//! `ternion-server kernels`, and the kernels of AdminService: each plugin
//! file that was found and what became of it; for the command, how fast it is
//! as well.

use std::{io::Write, time::Duration};

use anyhow::Context;
use serde::Serialize;
use ternion_compute::architecture_of;
use ternion_kernel_host::{Found, Kernel, State, Survey};
use ternion_kernels::{limits::ReadBandwidth, team::Team};
use ternion_proto::v1;

use crate::{
    cache,
    cli::KernelsArguments,
    kernel_choice::{Contest, Measured, MeasuredPart},
    launch::{self, KernelSearch},
};

/// One file, flat: as a row, as JSON, as a message.
#[derive(Debug, Clone, Serialize)]
struct Row {
    path: String,
    name: String,
    version: String,
    isa: String,
    score: i32,
    state: &'static str,
    selected: bool,
    reason: String,
    /// Empty if the file couldn't be read or isn't allowed.
    sha256: String,
    /// How many times longer than the best it takes, all in all.
    cost: Option<f64>,
    timings: Vec<MeasuredPart>,
    /// What the same threads read from memory, of anything.
    read_gb_per_second: Option<f64>,
}

pub(crate) fn run(arguments: KernelsArguments) -> anyhow::Result<()> {
    let settings = arguments.settings.resolve()?.settings;
    // Plugins are checked on the shapes that they would have to multiply.
    let architecture = match &arguments.synthetic {
        Some(shape) => architecture_of(shape).context("clap checks the name")?,
        None => launch::open_model(settings.model.as_deref())?.architecture,
    };
    let team = launch::team(&launch::place(settings.wanted()));
    let cache = cache::open(&settings.cache_dir);
    let mut contest = Contest {
        architecture: &architecture,
        team: &team,
        budget: arguments.budget,
        thorough: true,
        cache: cache.as_ref(),
        quiet: &|| {},
        measured: Measured::default(),
        is_settled: false,
    };
    let mut choose = |kernels: &[Kernel]| contest.decide(kernels);
    let survey = KernelSearch::of(&settings)?.survey(&architecture, &mut choose)?;
    // Where there was no choice, the figures are still wanted.
    if contest.measured.kernels.is_empty() && !survey.usable().is_empty() {
        contest.measure(survey.usable());
    }
    let measured = contest.measured;
    let mut rows: Vec<Row> = survey
        .found
        .iter()
        .map(|found| row(found, &measured))
        .collect();
    let limit = read_limit(&team, arguments.budget);
    for row in rows.iter_mut().filter(|row| !row.timings.is_empty()) {
        row.read_gb_per_second = limit;
    }
    // Whoever reads it may have seen enough.
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?;
    } else {
        let timed = rows.iter().flat_map(timing_cells);
        let timed = table(&TIMING_HEADER, timed);
        write!(out, "{}\n{timed}", table(&HEADER, rows.iter().map(cells)))?;
        if let Some(limit) = limit {
            let threads = team.size();
            writeln!(
                out,
                "\nread from memory by {threads} threads: {limit:.2} GB/s"
            )?;
        }
    }
    survey.selected()?;
    Ok(())
}

/// Gigabytes a second, in the same minute as the kernels. None where there is
/// not the memory to measure it with.
fn read_limit(team: &Team, budget: Duration) -> Option<f64> {
    let bandwidth = ReadBandwidth::new().ok()?;
    Some(bandwidth.measure(team, budget / 4) / 1e9)
}

/// What AdminService says.
pub(crate) fn messages(survey: &Survey) -> Vec<v1::Kernel> {
    let state = |found: &Found| match &found.state {
        State::Refused { .. } => v1::KernelState::Refused,
        State::Unusable { .. } => v1::KernelState::Unusable,
        State::Failed { .. } => v1::KernelState::Failed,
        State::Usable => v1::KernelState::Usable,
        State::Selected { .. } => v1::KernelState::Selected,
    };
    survey
        .found
        .iter()
        .map(|found| {
            let row = row(found, &Measured::default());
            v1::Kernel {
                path: row.path,
                name: row.name,
                version: row.version,
                isa: row.isa,
                state: state(found).into(),
                reason: row.reason,
            }
        })
        .collect()
}

fn row(found: &Found, measured: &Measured) -> Row {
    let identity = found.identity.as_ref();
    let text = |of: fn(&ternion_kernel_host::Identity) -> &String| {
        identity.map_or_else(String::new, |identity| of(identity).clone())
    };
    let sha256 = found
        .sha256
        .map(|digest| digest.to_string())
        .unwrap_or_default();
    let is_usable = matches!(found.state, State::Usable | State::Selected { .. });
    let measured = measured
        .kernels
        .iter()
        .find(|kernel| is_usable && kernel.sha256 == sha256);
    Row {
        path: found.path.display().to_string(),
        name: text(|identity| &identity.name),
        version: text(|identity| &identity.version),
        isa: text(|identity| &identity.isa),
        score: identity.map_or(0, |identity| identity.score),
        state: found.state.name(),
        selected: matches!(found.state, State::Selected { .. }),
        reason: found.state.reason().to_owned(),
        sha256,
        cost: measured.and_then(|kernel| kernel.cost),
        read_gb_per_second: None,
        timings: measured
            .map(|kernel| kernel.timings.clone())
            .unwrap_or_default(),
    }
}

const HEADER: [&str; 8] = [
    "STATE", "NAME", "VERSION", "ISA", "SCORE", "COST", "FILE", "REASON",
];

fn cells(row: &Row) -> [String; 8] {
    [
        row.state.to_owned(),
        row.name.clone(),
        row.version.clone(),
        row.isa.clone(),
        row.score.to_string(),
        row.cost
            .map_or_else(String::new, |cost| format!("{cost:.2}")),
        row.path.clone(),
        row.reason.clone(),
    ]
}

const TIMING_HEADER: [&str; 8] = [
    "NAME", "BATCH", "PART", "SHAPE", "MS", "TOKENS/S", "GB/S", "OF READ",
];

fn timing_cells(row: &Row) -> impl Iterator<Item = [String; 8]> {
    row.timings.iter().map(|timing| {
        [
            row.name.clone(),
            timing.batch.to_string(),
            timing.part.clone(),
            format!("{}x{}", timing.rows, timing.cols),
            format!("{:.3}", timing.seconds * 1e3),
            format!("{:.0}", timing.tokens_per_second),
            format!("{:.2}", timing.gb_per_second),
            row.read_gb_per_second.map_or_else(String::new, |limit| {
                format!("{:.0} %", timing.gb_per_second / limit * 100.0)
            }),
        ]
    })
}

fn table<const N: usize>(header: &[&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let header = header.map(str::to_owned);
    let lines: Vec<[String; N]> = std::iter::once(header).chain(rows).collect();
    let width = |column: usize| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    lines
        .iter()
        .map(|line| {
            let padded: Vec<String> = line
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            format!("{}\n", padded.join("  ").trim_end())
        })
        .collect()
}
