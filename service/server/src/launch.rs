//! What every command that runs a model does first: open it, choose a kernel,
//! pack the weights.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use ternion_compute::{
    CacheUse, HeadChoice, LoadError, LoadedModel, PackedCache, WeightSource, shapes,
};
use ternion_kernel_host::{CacheDir, Choice, Kernel, Search, SearchPath, Sha256, Survey};
use ternion_kernels::team::Team;
use ternion_model::{Adapter, Architecture, Model, Outline};

use crate::{
    processors::{Placement, Processors, Wanted},
    settings::Settings,
    trial::Trial,
};

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
    open_model_telling(path, &mut |_| {})
}

/// The same, telling what is known first.
pub(crate) fn open_model_telling(
    path: Option<&Path>,
    tell: &mut dyn FnMut(Outline),
) -> anyhow::Result<Model> {
    match path {
        Some(path) => Model::open_telling(path, tell)
            .with_context(|| format!("can't open model {}", path.display())),
        None => {
            Model::from_files_telling(DEMO_NAME, &DEMO, tell).context("the embedded demo is broken")
        }
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

/// Which plugins are looked for, and how they are judged.
pub(crate) struct KernelSearch {
    pub(crate) dirs: Vec<PathBuf>,
    pub(crate) wanted: Option<String>,
    /// Digests of the files that may be loaded, if not all may.
    pub(crate) allowed: Option<Vec<Sha256>>,
    pub(crate) trial_timeout: Duration,
}

impl KernelSearch {
    pub(crate) fn of(settings: &Settings) -> anyhow::Result<KernelSearch> {
        let allowed = settings.plugin_sha256.as_ref().map(|digests| {
            let digests = digests.iter().map(|digest| digest.parse());
            digests.collect::<Result<Vec<Sha256>, _>>()
        });
        Ok(KernelSearch {
            dirs: settings.plugin_dirs.clone(),
            wanted: settings.kernel.clone(),
            allowed: allowed.transpose().context("plugin_sha256")?,
            trial_timeout: settings.plugin_timeout,
        })
    }

    /// For tools, which are told where and which, and no more.
    pub(crate) fn simple(dirs: &[PathBuf], wanted: Option<&str>) -> anyhow::Result<KernelSearch> {
        for dir in dirs {
            let shown = dir.display();
            anyhow::ensure!(
                dir.is_absolute(),
                "--plugin-dir: {shown} is not an absolute path"
            );
        }
        Ok(KernelSearch {
            dirs: dirs.to_vec(),
            wanted: wanted.map(str::to_owned),
            allowed: None,
            trial_timeout: TRIAL_TIMEOUT,
        })
    }

    /// Looks at all plugins, has those that claim this CPU prove themselves on
    /// the shapes of the model, and selects one; where there is a choice, the
    /// one that `choose` says, or that with the highest score.
    pub(crate) fn survey(
        &self,
        architecture: &Architecture,
        choose: &mut dyn FnMut(&[Kernel]) -> Option<Choice>,
    ) -> anyhow::Result<Survey> {
        let trial = Trial {
            shapes: &shapes(architecture),
            listed: self.allowed.is_some(),
            timeout: self.trial_timeout,
        };
        Ok(ternion_kernel_host::survey(Search {
            paths: &plugin_paths(&self.dirs)?,
            wanted: self.wanted.as_deref(),
            allowed: self.allowed.as_deref(),
            trial: &|file| trial.run(file),
            choose,
        }))
    }

    /// Likewise, choosing by score: for tools whose result doesn't depend on
    /// the kernel.
    pub(crate) fn select(&self, architecture: &Architecture) -> anyhow::Result<Kernel> {
        Ok(self.survey(architecture, &mut |_| None)?.selected()?)
    }
}

/// The default of `plugin_timeout`.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(20);

/// How this process computes, and is from now on.
pub(crate) fn place(wanted: Wanted) -> Placement {
    let placement = Processors::of_this_process().place(wanted);
    placement.enter();
    placement
}

/// The threads to compute with. The caller of their work is one of them, and
/// for itself to pin.
pub(crate) fn team(placement: &Placement) -> Arc<Team> {
    let start = placement.clone();
    Arc::new(Team::starting_with(placement.threads, move |worker| {
        start.pin(worker);
    }))
}

/// Threads for tools that measure nothing.
pub(crate) fn num_threads(configured: Option<usize>) -> usize {
    let wanted = Wanted {
        threads: configured,
        ..Wanted::default()
    };
    Processors::of_this_process().place(wanted).threads
}

/// Packs the weights for a kernel and makes the head ready, with a progress bar on a terminal.
pub(crate) fn pack(
    source: Arc<dyn WeightSource>,
    adapter: Option<&Adapter>,
    kernel: &Kernel,
    head: HeadChoice,
    team: &Team,
) -> anyhow::Result<LoadedModel> {
    let loaded = with_bar(|progress| LoadedModel::load(source, adapter, kernel, team, progress))?;
    loaded.choose_head(head, team)?;
    Ok(loaded)
}

/// The cache as a model uses it.
#[derive(Clone)]
pub(crate) struct ModelCache {
    pub(crate) dir: Arc<CacheDir>,
    /// Most bytes of packed weights.
    pub(crate) limit: u64,
    pub(crate) model: Arc<Model>,
}

impl ModelCache {
    fn packed(&self) -> PackedCache<'_> {
        PackedCache {
            dir: &self.dir,
            limit: self.limit,
            model: &self.model,
        }
    }
}

/// Packs the weights, or finds them in the cache; without one, `None` came of
/// it. The head is as it is stored.
pub(crate) fn pack_cached(
    model: &Arc<Model>,
    cache: Option<&ModelCache>,
    kernel: &Kernel,
    team: &Team,
) -> anyhow::Result<(LoadedModel, Option<CacheUse>)> {
    let Some(cache) = cache else {
        let pack = |progress: &(dyn Fn(usize, usize) + Sync)| {
            LoadedModel::load(model.clone(), None, kernel, team, progress)
        };
        return Ok((with_bar(pack)?, None));
    };
    let (loaded, cache_use) = with_bar(|progress| {
        LoadedModel::load_cached(model.clone(), cache.packed(), kernel, team, progress)
    })?;
    Ok((loaded, Some(cache_use)))
}

/// Makes the head ready: now, if the cache has it. Otherwise, with
/// [`HeadChoice::Auto`], answers are those of the stored one either way, so
/// requests are served meanwhile, and threads of its own do it.
pub(crate) fn choose_head(
    loaded: &Arc<LoadedModel>,
    head: HeadChoice,
    cache: Option<&ModelCache>,
    team: &Arc<Team>,
) -> anyhow::Result<()> {
    if let Some(cache) = cache {
        match loaded.find_head(head, cache.packed(), team) {
            Ok(true) => {
                log_head(loaded);
                return Ok(());
            }
            Ok(false) => {}
            Err(reason) => tracing::warn!(reason, "the output head in the cache was not used"),
        }
    }
    if head != HeadChoice::Auto {
        return make_head(loaded, head, cache, team).map_err(Into::into);
    }
    let (loaded, cache, threads) = (Arc::clone(loaded), cache.cloned(), team.size());
    std::thread::Builder::new()
        .name("ternion-head".to_owned())
        .spawn(move || {
            if let Err(error) = make_head(&loaded, head, cache.as_ref(), &Team::new(threads)) {
                tracing::warn!("{error}: the output head is computed as it is");
            }
        })
        .context("can't start a thread for the output head")?;
    Ok(())
}

fn make_head(
    loaded: &LoadedModel,
    head: HeadChoice,
    cache: Option<&ModelCache>,
    team: &Team,
) -> Result<(), LoadError> {
    match cache {
        None => loaded.choose_head(head, team)?,
        Some(cache) => {
            if let Err(reason) = loaded.choose_head_cached(head, cache.packed(), team)? {
                tracing::warn!(reason, "the output head was not put into the cache");
            }
        }
    }
    log_head(loaded);
    Ok(())
}

fn log_head(loaded: &LoadedModel) {
    tracing::info!(
        head = %loaded.head(),
        isa = loaded.head_variant().unwrap_or("float"),
        bytes = loaded.head_state_bytes(),
        "output head is ready"
    );
}

fn with_bar<T>(
    load: impl FnOnce(&(dyn Fn(usize, usize) + Sync)) -> Result<T, LoadError>,
) -> anyhow::Result<T> {
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new(0)
    } else {
        ProgressBar::hidden()
    };
    let style = ProgressStyle::with_template("packing weights {bar:40} {pos}/{len} {eta}")
        .context("the template is valid")?;
    bar.set_style(style);
    let loaded = load(&|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    Ok(loaded)
}
