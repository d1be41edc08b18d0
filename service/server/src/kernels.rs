//! `ternion-server kernels`, and the kernels of AdminService: each plugin
//! file that was found and what became of it.

use serde::Serialize;
use ternion_compute::shapes;
use ternion_kernel_host::{Found, State, Survey};
use ternion_proto::v1;

use crate::{cli::KernelsArguments, launch};

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
}

pub(crate) fn run(arguments: KernelsArguments) -> anyhow::Result<()> {
    let settings = arguments.settings.resolve()?.settings;
    // Plugins are checked on the shapes that they would have to multiply.
    let model = launch::open_model(settings.model.as_deref())?;
    let survey = launch::survey_kernels(
        &settings.plugin_dirs,
        settings.kernel.as_deref(),
        &shapes(&model.architecture),
    )?;
    let rows: Vec<Row> = survey.found.iter().map(row).collect();
    match arguments.json {
        true => println!("{}", serde_json::to_string_pretty(&rows)?),
        false => print!("{}", table(&rows)),
    }
    survey.selected()?;
    Ok(())
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
            let row = row(found);
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

fn row(found: &Found) -> Row {
    let (state, reason) = match &found.state {
        State::Refused { reason } => ("refused", reason.clone()),
        State::Unusable { reason } => ("unusable", reason.clone()),
        State::Failed { reason } => ("failed", reason.clone()),
        State::Usable => ("usable", String::new()),
        State::Selected { why } => ("selected", why.clone()),
    };
    let identity = found.identity.as_ref();
    let text = |of: fn(&ternion_kernel_host::Identity) -> &String| {
        identity.map_or_else(String::new, |identity| of(identity).clone())
    };
    Row {
        path: found.path.display().to_string(),
        name: text(|identity| &identity.name),
        version: text(|identity| &identity.version),
        isa: text(|identity| &identity.isa),
        score: identity.map_or(0, |identity| identity.score),
        state,
        selected: matches!(found.state, State::Selected { .. }),
        reason,
    }
}

fn table(rows: &[Row]) -> String {
    let header = ["STATE", "NAME", "VERSION", "ISA", "SCORE", "FILE", "REASON"].map(str::to_owned);
    let cells = rows.iter().map(|row| {
        [
            row.state.to_owned(),
            row.name.clone(),
            row.version.clone(),
            row.isa.clone(),
            row.score.to_string(),
            row.path.clone(),
            row.reason.clone(),
        ]
    });
    let lines: Vec<[String; 7]> = std::iter::once(header).chain(cells).collect();
    let width = |column: usize| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: [usize; 7] = std::array::from_fn(width);
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
