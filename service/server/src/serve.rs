//! `ternion-server serve`: from start to exit.

use std::{
    io::Write,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Context;
use rustls::ServerConfig;
use ternion_compute::{CpuExecutor, Dialect, KvPool};
use ternion_engine::{Limits, Vocabulary};
use ternion_kernel_host::{Kernel, State};
use ternion_model::{Architecture, Outline};
use ternion_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{
        admin_service_server::AdminServiceServer, inference_service_server::InferenceServiceServer,
        model_service_server::ModelServiceServer, request_service_server::RequestServiceServer,
    },
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tonic::{codec::CompressionEncoding, server::NamedService, transport::Server};
use tonic_health::server::HealthReporter;
use tower::layer::util::{Identity, Stack};

use crate::{
    access::Access,
    admin::Admin,
    authentication::Authentication,
    banner::Banner,
    cache,
    connection::{self, Tls},
    connection_life,
    drain::{Drain, Phase},
    energy::{self, Energy},
    engine_loop::{self, EngineThread},
    health::{HealthReports, Probe},
    inference::Inference,
    inspect::num_parameters,
    kernel_choice::{Contest, Measured},
    kernels,
    kv_size::{KvSize, besides, kv_size},
    kv_touching::KvTouching,
    launch::{self, KernelSearch, ModelCache},
    live_requests::LiveRequests,
    loading::{Loading, Stage},
    metrics::{self, KernelInfo, Metrics},
    models::{Models, default_sampling},
    opening::Opening,
    operations,
    processors::Placement,
    prompt::Prompts,
    public_prompts::PublicPrompts,
    queue::{Amount, Queue},
    reload,
    request::Bounds,
    requests::Requests,
    retained::{RetainedRequests, Retention},
    rpc_calls::RpcCalls,
    served::Served,
    settings::{Anonymous, Detached, Mistakes, ResumeSettings, Settings},
    telemetry::{self, Telemetry},
    tls::TlsFiles,
    vitals::Vitals,
    vocabulary::ModelVocabulary,
};

/// Tokio's own threads. They move frames and tokenise; the processors belong
/// to the compute threads.
const IO_THREADS: usize = 2;

/// How long requests may take to say that they were cut off by the drain.
const ENDING_GRACE: Duration = Duration::from_secs(2);

/// How long connections may take to close after their last frames. Health
/// watches never do by themselves.
const CLOSING_GRACE: Duration = Duration::from_secs(1);

/// Pings on quiet connections find dead peers, whose requests then end.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until told to stop.
pub(crate) fn run(settings: Settings) -> anyhow::Result<()> {
    // Before there are threads, which take after the one that starts them.
    let placement = launch::place(settings.wanted());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(IO_THREADS)
        .enable_all()
        .build()
        .context("can't start the I/O threads")?;
    let telemetry = {
        let _entered = runtime.enter();
        telemetry::start(&settings.telemetry)?
    };
    tracing::info!(
        threads = placement.threads,
        limited_by = placement.limit.name(),
        nodes = ?placement.nodes,
        pinned = placement.is_pinned,
        "computing with {placement}"
    );
    // Files that are wrong are told before a large model is loaded.
    let tenants = settings.tenants.clone().into_iter().collect();
    let tenants = reload::Watched::new(tenants);
    let certificates = settings.tls.client_ca.is_some();
    let access = Arc::new(Access::open(settings.tenants.as_deref(), certificates)?);
    let tls = match TlsFiles::of(&settings.tls) {
        None => None,
        Some(files) => {
            let watched = reload::Watched::new(files.paths());
            let config = watch::Sender::new(Arc::new(files.load()?));
            Some((files, config, watched))
        }
    };
    let vitals = Arc::new(Vitals::new(
        settings.operations.stall_timeout,
        settings.drain_delay,
    ));
    // Before the model: loading one takes its time, and that is alive.
    let watched = runtime.block_on(watch(&settings, &telemetry, vitals.clone(), &placement))?;
    let launched = launch(&settings, access.clone(), &telemetry, &vitals, &placement)?;
    let newest = tls.as_ref().map(|(_, config, _)| config.subscribe());
    if let Some(file) = access.file.clone() {
        runtime.spawn(tenants.follow(move || reload_tenants(&access, &file)));
    }
    if let Some((files, config, watched)) = tls {
        runtime.spawn(watched.follow(move || reload_certificates(&files, &config)));
    }
    let served = runtime.block_on(serve(&settings, &launched, &watched, newest, &placement));
    launched.engine_thread.stop();
    // The exporter sends its last spans over the runtime.
    telemetry.stop();
    // Streams that outlived their grace must not hold up the exit.
    runtime.shutdown_timeout(Duration::ZERO);
    served
}

/// What is wrong with a new file is logged, and the old one stays.
fn reload_tenants(access: &Access, file: &Path) {
    match access.reload(file) {
        Ok(num_tenants) => tracing::info!(num_tenants, "tenants were read again"),
        Err(mistakes) => tracing::error!(%mistakes, "the tenants stay as they were"),
    }
}

/// Likewise. Connections that are open keep the certificate they began with.
fn reload_certificates(files: &TlsFiles, config: &watch::Sender<Arc<ServerConfig>>) {
    match files.load() {
        Ok(new) => {
            config.send_replace(Arc::new(new));
            tracing::info!("certificates were read again, for new connections");
        }
        Err(mistakes) => tracing::error!(%mistakes, "the certificates stay as they were"),
    }
}

/// What the platform sees.
struct Watched {
    health: Arc<HealthReports>,
    operations: Option<SocketAddr>,
}

async fn watch(
    settings: &Settings,
    telemetry: &Telemetry,
    vitals: Arc<Vitals>,
    placement: &Placement,
) -> anyhow::Result<Watched> {
    let meter = telemetry.meter();
    metrics::observe_process(&meter, vitals.clone());
    metrics::observe_threads(&meter, placement);
    let powercap = settings.telemetry.powercap_dir.as_deref();
    if let Some(energy) = powercap.and_then(Energy::open) {
        let energy = Arc::new(Mutex::new(energy));
        metrics::observe_energy(&meter, energy.clone());
        tokio::spawn(energy::keep(energy));
    }
    let health = Arc::new(HealthReports::new(vitals.clone()));
    let operations = match settings.operations.listen {
        None => None,
        Some(listen) => {
            let scrape = telemetry.scrape.clone();
            Some(operations::start(listen, scrape, vitals, &health).await?)
        }
    };
    let kept = health.clone();
    tokio::spawn(async move { kept.keep().await });
    Ok(Watched { health, operations })
}

/// Everything that runs once the model is loaded.
struct Launched {
    served: Arc<Served>,
    engine_thread: EngineThread,
    why_kernel: String,
    loading: Loading,
    kv: KvSize,
    touching: KvTouching,
}

fn launch(
    settings: &Settings,
    access: Arc<Access>,
    telemetry: &Telemetry,
    vitals: &Vitals,
    placement: &Placement,
) -> anyhow::Result<Launched> {
    let opening = Opening::begin(settings.model.clone())?;
    let Outline {
        architecture,
        reference,
    } = opening.outline();
    let context_limit = context_limit(settings, architecture)?;
    let kv = kv_size(
        &settings.kv,
        &settings.scheduler,
        architecture,
        Dialect::from(*reference).kv_precision(),
        context_limit,
        besides(architecture, settings.head, &settings.scheduler),
        &settings.memory_room(),
    )?;
    let pool = KvPool::reserve(kv.config, architecture)
        .with_context(|| format!("kv: the system has no {} bytes for it", kv.bytes))?;
    let touching = KvTouching::begin(pool.touch(), kv.bytes)?;
    let team = launch::team(placement);
    let threads = placement.threads;
    let cache = cache::open(&settings.cache_dir).map(Arc::new);
    let begin = Instant::now();
    let mut contest = Contest {
        architecture,
        team: &team,
        budget: settings.kernel_timing_budget,
        thorough: false,
        cache: cache.as_deref(),
        quiet: &|| {
            opening.wait();
            touching.wait_for_first();
        },
        measured: Measured::default(),
        is_settled: false,
    };
    let mut choose = |kernels: &[Kernel]| contest.decide(kernels);
    let survey = KernelSearch::of(settings)?.survey(architecture, &mut choose)?;
    for found in &survey.found {
        match found.state {
            State::Refused { .. } | State::Failed { .. } => {
                tracing::warn!("kernel plugin {found}");
            }
            _ => tracing::info!("kernel plugin {found}"),
        }
    }
    let measured = contest.measured;
    for kernel in &measured.kernels {
        tracing::info!("kernel timing {kernel}");
    }
    let mut stages = vec![(Stage::Kernel, begin.elapsed())];
    let (model, took) = opening.finish()?;
    stages.push((Stage::Model, took));
    let model = Arc::new(model);
    let public_prompts = match &settings.kv.public_prompts {
        Some(path) => PublicPrompts::read(path, &model).context("kv.public_prompts")?,
        None => PublicPrompts::default(),
    };
    let kernel = survey.selected()?;
    let why_kernel = survey.found.iter().find_map(|found| match &found.state {
        State::Selected { why } => Some(why.clone()),
        _ => None,
    });

    let model_cache = cache.map(|dir| ModelCache {
        dir,
        limit: settings.packed_cache_bytes,
        model: model.clone(),
    });
    let begin = Instant::now();
    let (packed, cache_use) = launch::pack_cached(&model, model_cache.as_ref(), &kernel, &team)?;
    stages.push((Stage::Weights, begin.elapsed()));
    let packed = Arc::new(packed);
    let begin = Instant::now();
    launch::choose_head(&packed, settings.head, model_cache.as_ref(), &team)?;
    stages.push((Stage::Head, begin.elapsed()));
    let loading = Loading::new(stages, packed.ternary_bytes(), cache_use);
    loading.log();
    let executor = CpuExecutor::with_pool(packed, team, pool, context_limit);
    let vocabulary: Arc<dyn Vocabulary> = Arc::new(ModelVocabulary::new(model.clone()));
    let scheduler = &settings.scheduler;
    let limits = Limits {
        num_blocks: kv.config.num_blocks,
        block_size: kv.config.block_size,
        max_num_seqs: scheduler.max_num_seqs,
        max_num_batched_tokens: scheduler.max_num_batched_tokens,
        step_budget: scheduler.step_budget,
        max_draft_tokens: scheduler.max_draft_tokens,
        // The queue at the door counts. It gives a place away as soon as a
        // request's reader has gone, which the engine finds out a step later.
        max_queued: usize::MAX,
        max_queued_tokens: usize::MAX,
        max_model_len: context_limit,
    };
    touching.wait_for_first();
    let caller = placement.clone();
    let (engine, engine_thread) =
        engine_loop::start(limits, vocabulary.clone(), executor, move || caller.pin(0))
            .context("can't start the engine's thread")?;
    vitals.loaded(engine.heartbeat());
    let name = settings
        .model_name
        .clone()
        .unwrap_or_else(|| model.name.clone());
    let meter = telemetry.meter();
    metrics::observe_load(&meter, &engine, &name);
    metrics::observe_loading(&meter, &loading, &name);
    metrics::observe_kernel(
        &meter,
        &KernelInfo {
            kernel: &kernel,
            model: &name,
            digest: model.digest.to_string(),
        },
    );
    metrics::observe_plugins(&meter, &survey);
    metrics::observe_timing(&meter, &measured, &name);
    let served = Served {
        parameters: num_parameters(&model)?,
        kernel: format!("{} {}", kernel.name(), kernel.isa()),
        kernels: kernels::messages(&survey),
        default_sampling: default_sampling(&model.generation),
        bounds: Bounds {
            max_samples: settings
                .limits
                .max_samples
                .min(scheduler.max_num_seqs + scheduler.max_queued),
            vocab_size: vocabulary.size(),
            context_limit,
            kv_tokens: kv.config.num_blocks.saturating_mul(kv.config.block_size),
        },
        prompts: Prompts::new(model.clone(), threads),
        model,
        vocabulary,
        engine,
        access,
        live: Arc::new(LiveRequests::default()),
        drain: vitals.drain.clone(),
        metrics: Metrics::new(&meter, &name),
        name,
        outbox_capacity: settings.outbox.capacity,
        queue: Arc::new(Queue::new(
            Amount {
                requests: scheduler.max_num_seqs + scheduler.max_queued,
                tokens: scheduler.max_queued_tokens,
            },
            settings.tenants.is_some(),
        )),
        read_timeout: Some(settings.outbox.read_timeout).filter(|timeout| !timeout.is_zero()),
        retained: Arc::new(RetainedRequests::new(retention(&settings.resume))),
        prefix_cache: settings.kv.prefix_cache,
        public_prompts,
        // More could not be alive in the engine either.
        max_stream_requests: scheduler.max_num_seqs + scheduler.max_queued,
    };
    Ok(Launched {
        served: Arc::new(served),
        engine_thread,
        why_kernel: why_kernel.unwrap_or_default(),
        loading,
        kv,
        touching,
    })
}

fn retention(settings: &ResumeSettings) -> Retention {
    Retention {
        grace: settings.grace,
        goes_on: settings.detached == Detached::Run,
        request_bytes: settings.request_bytes,
        finished_bytes: settings.finished_bytes,
    }
}

fn context_limit(settings: &Settings, architecture: &Architecture) -> Result<usize, Mistakes> {
    let context = architecture.context;
    match settings.context_limit {
        Some(limit) if limit > context => Err(Mistakes(vec![format!(
            "context_limit: {limit} is more than the model's context of {context}"
        )])),
        Some(limit) => Ok(limit),
        None => {
            let bound = settings.preset.and_then(|preset| preset.context);
            Ok(bound.unwrap_or(context).min(context))
        }
    }
}

async fn serve(
    settings: &Settings,
    launched: &Launched,
    watched: &Watched,
    tls: Option<Tls>,
    placement: &Placement,
) -> anyhow::Result<()> {
    let mut signals = Signals::install()?;
    let listener = connection::listen("listen", settings.listen).await?;
    let address = listener.local_addr()?;
    let served = &launched.served;
    let (health, router) = router(settings, served)?;
    watched.health.add(&health, &HEALTH_NAMES).await;
    warn_of_openness(settings, address);
    let connections = tokio::spawn(connection_life::serve(
        connection::accept(listener, settings.limits.max_connections, tls),
        settings.limits.max_connection_age,
        served.drain.clone(),
        move |connection, leave| {
            router
                .clone()
                .serve_with_incoming_shutdown(connection, leave)
        },
    ));
    announce(settings, launched, watched, address, placement);
    launched.touching.go_on();

    let asked_by_signal = tokio::select! {
        () = signals.next() => true,
        () = served.drain.reached(Phase::Leaving) => false,
    };
    let second_signal = async {
        // An orchestrator may ask by a call first, and sends its signal anyway.
        if !asked_by_signal {
            signals.next().await;
            tracing::info!("signal while draining, another ends it at once");
        }
        signals.next().await;
        tracing::warn!("second signal, exiting at once");
        std::process::exit(1);
    };
    let shutdown = async {
        leave(&served.drain, &watched.health).await;
        drain(settings.drain_timeout, &served.drain, &watched.health).await;
        if let Ok(Err(error)) = tokio::time::timeout(CLOSING_GRACE, connections).await {
            tracing::error!(%error, "serving connections failed");
        }
    };
    tokio::select! {
        () = shutdown => {}
        () = second_signal => {}
    }
    tracing::info!("drained");
    Ok(())
}

/// Gives whoever balances over this server and others the time to notice that
/// it goes, before the first request has to be refused.
async fn leave(drain: &Drain, health: &HealthReports) {
    drain.begin();
    let delay = drain.delay();
    if delay.is_zero() {
        return;
    }
    health.update().await;
    tracing::info!(delay_seconds = delay.as_secs_f64(), "leaving");
    tokio::time::sleep(delay).await;
}

/// Lets running requests end, then ends them.
async fn drain(timeout: Duration, drain: &Drain, health: &HealthReports) {
    drain.advance(Phase::Draining);
    health.update().await;
    let in_flight = drain.num_in_flight();
    tracing::info!(
        in_flight,
        timeout_seconds = timeout.as_secs_f64(),
        "draining"
    );
    if tokio::time::timeout(timeout, drain.idle()).await.is_err() {
        let in_flight = drain.num_in_flight();
        tracing::warn!(in_flight, "drain timeout passed, ending what still runs");
    }
    drain.advance(Phase::Ending);
    // Those that don't read can't be told.
    let _ = tokio::time::timeout(ENDING_GRACE, drain.idle()).await;
}

#[cfg(test)]
#[path = "throughput_tests.rs"]
mod throughput_tests;

/// Services behind the one door, and every call measured, refused ones too.
type Router = tonic::transport::server::Router<Stack<Authentication, Stack<RpcCalls, Identity>>>;

fn router(settings: &Settings, served: &Arc<Served>) -> anyhow::Result<(HealthReporter, Router)> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let max_message = settings.limits.max_message_bytes;
    let descriptors = [
        FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let router = Server::builder()
        // The first is the outermost: who is turned away is measured, too.
        .layer(RpcCalls::new(served.metrics.clone(), &descriptors))
        .layer(Authentication(served.access.clone()))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(settings.limits.max_concurrent_streams)
        .add_service(
            InferenceServiceServer::new(Inference(served.clone()))
                .accept_compressed(CompressionEncoding::Gzip)
                .max_decoding_message_size(max_message),
        )
        .add_service(ModelServiceServer::new(Models(served.clone())))
        .add_service(RequestServiceServer::new(Requests(served.clone())))
        .add_service(AdminServiceServer::new(Admin(served.clone())))
        .add_service(health_service);
    let router = match settings.reflection {
        false => router,
        true => router
            .add_service(reflection().build_v1()?)
            // Older tools, grpcurl among them, ask for this one only.
            .add_service(reflection().build_v1alpha()?),
    };
    Ok((health, router))
}

/// All names that health is asked for here: the server's, and each service's.
const HEALTH_NAMES: [(&str, Probe); 5] = [
    ("", Probe::Readiness),
    (InferenceServiceServer::<Inference>::NAME, Probe::Readiness),
    (ModelServiceServer::<Models>::NAME, Probe::Readiness),
    (RequestServiceServer::<Requests>::NAME, Probe::Readiness),
    (AdminServiceServer::<Admin>::NAME, Probe::Readiness),
];

/// What may be meant, and may have been forgotten: something else, a mesh say,
/// may see to it.
fn warn_of_openness(settings: &Settings, address: SocketAddr) {
    if address.ip().is_loopback() {
        return;
    }
    if settings.tenants.is_none() && settings.anonymous == Anonymous::Anywhere {
        tracing::warn!(%address, "whoever reaches this address is served: tenants is unset");
    } else if settings.tls.certificate.is_none() {
        tracing::warn!(%address, "API keys come in unencrypted: tls.certificate is unset");
    }
}

fn announce(
    settings: &Settings,
    launched: &Launched,
    watched: &Watched,
    address: SocketAddr,
    placement: &Placement,
) {
    let banner = Banner {
        served: &launched.served,
        why: &launched.why_kernel,
        loading: &launched.loading,
        placement,
        kv: launched.kv,
        address,
        tls: settings.tls.certificate.is_some(),
        operations: watched.operations,
    };
    // Whoever started us may have closed standard output; that is no reason
    // not to serve.
    let _ = write!(std::io::stdout().lock(), "{banner}");
    let _ = std::io::stdout().flush();
    tracing::info!(%address, model = launched.served.name, "serving");
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn install() -> anyhow::Result<Signals> {
        let install = |kind| signal(kind).context("can't listen for signals");
        Ok(Signals {
            terminate: install(SignalKind::terminate())?,
            interrupt: install(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
