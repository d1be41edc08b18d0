//! What every command that runs a model does first: open it, choose a kernel,
//! pack the weights.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use ternion_compute::{HeadChoice, LoadedModel, WeightSource};
use ternion_kernel_host::{Kernel, SearchPath, Survey};
use ternion_kernels::team::Team;
use ternion_model::{Adapter, Model};

/// The files of the demo model, part of the binary.
const DEMO: [(&str, &[u8]); 5] = [
    ("config.json", include_bytes!("../demo/config.json")),
    (
        "generation_config.json",
        include_bytes!("../demo/generation_config.json"),
    ),
    (
        "model.safetensors",
        include_bytes!("../demo/model.safetensors"),
    ),
    ("tokenizer.json", include_bytes!("../demo/tokenizer.json")),
    (
        "tokenizer_config.json",
        include_bytes!("../demo/tokenizer_config.json"),
    ),
];

/// Name under which the embedded model is served.
const DEMO_NAME: &str = "ternion-demo";

/// Opens the model at `path`, or the embedded demo without one.
pub(crate) fn open_model(path: Option<&Path>) -> anyhow::Result<Model> {
    match path {
        Some(path) => {
            Model::open(path).with_context(|| format!("can't open model {}", path.display()))
        }
        None => Model::from_files(DEMO_NAME, &DEMO).context("the embedded demo is broken"),
    }
}

/// Where plugins are looked for: every library of the configured directories,
/// or, without any, `plugins` beside this executable and the executable's own
/// directory, there only files named like a plugin.
pub(crate) fn plugin_paths(configured: &[PathBuf]) -> anyhow::Result<Vec<SearchPath>> {
    if !configured.is_empty() {
        return Ok(configured
            .iter()
            .map(|dir| SearchPath {
                dir: dir.clone(),
                every_library: true,
            })
            .collect());
    }
    let executable = std::env::current_exe().context("can't tell where this executable is")?;
    let beside = executable
        .parent()
        .context("the executable has no directory")?;
    Ok([beside.join("plugins"), beside.to_owned()]
        .map(|dir| SearchPath {
            dir,
            every_library: false,
        })
        .into())
}

/// Looks at all plugins, has those that claim this CPU prove themselves on
/// the shapes of the model, and selects one.
pub(crate) fn survey_kernels(
    configured: &[PathBuf],
    wanted: Option<&str>,
    shapes: &[(usize, usize)],
) -> anyhow::Result<Survey> {
    let check = |kernel: &Kernel| {
        ternion_kernel_conformance::quick(kernel, shapes).map_err(|mismatch| mismatch.to_string())
    };
    Ok(ternion_kernel_host::survey(
        &plugin_paths(configured)?,
        wanted,
        &check,
    ))
}

/// Threads to compute with: as configured, or one per CPU that this process
/// may use, which takes affinity and cgroup quota into account.
pub(crate) fn num_threads(configured: Option<usize>) -> usize {
    configured.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Packs the weights for a kernel and makes the head ready, with a progress bar on a terminal.
pub(crate) fn pack(
    source: Arc<dyn WeightSource>,
    adapter: Option<&Adapter>,
    kernel: &Kernel,
    head: HeadChoice,
    team: &Team,
) -> anyhow::Result<LoadedModel> {
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new(0)
    } else {
        ProgressBar::hidden()
    };
    let style = ProgressStyle::with_template("packing weights {bar:40} {pos}/{len} {eta}")
        .context("the template is valid")?;
    bar.set_style(style);
    let mut loaded = LoadedModel::load(source, adapter, kernel, team, &|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    loaded.choose_head(head, team)?;
    Ok(loaded)
}
