//! What `serve` prints when it is ready.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use crate::{kv_size::KvSize, loading::Loading, processors::Placement, served::Served};

pub(crate) struct Banner<'a> {
    pub(crate) served: &'a Served,
    /// Why the kernel was selected.
    pub(crate) why: &'a str,
    pub(crate) loading: &'a Loading,
    pub(crate) placement: &'a Placement,
    pub(crate) kv: KvSize,
    pub(crate) address: SocketAddr,
    pub(crate) tls: bool,
    /// `None`: off.
    pub(crate) operations: Option<SocketAddr>,
}

impl fmt::Display for Banner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Banner {
            served,
            why,
            loading,
            placement,
            kv,
            address,
            tls,
            operations,
        } = self;
        let model = &served.model;
        writeln!(
            f,
            "model    {}: {}, {} parameters, context {}, digest {}",
            served.name,
            model.architecture.family,
            count(served.parameters),
            served.bounds.context_limit,
            model.digest,
        )?;
        writeln!(f, "kernel   {}, {why}", served.kernel)?;
        writeln!(f, "weights  {loading}")?;
        writeln!(f, "compute  {placement}")?;
        writeln!(
            f,
            "kv       {} pages of {} tokens in {}, {:.1} MiB",
            kv.config.num_blocks,
            kv.config.block_size,
            kv.config.precision,
            kv.bytes as f64 / f64::from(1 << 20),
        )?;
        let with = if *tls { " with TLS" } else { "" };
        writeln!(f, "serving  {address}{with}")?;
        writeln!(f, "callers  {}", self.callers())?;
        if let Some(operations) = operations {
            writeln!(f, "metrics  http://{}/metrics", reachable(*operations))?;
        }
        let client = client().display().to_string();
        let scheme = if *tls { "https" } else { "http" };
        let ca = if *tls { " --ca FILE" } else { "" };
        let key = match served.access.policy.is_open() {
            true => "",
            false => " --api-key KEY",
        };
        writeln!(
            f,
            "try      {client} chat --endpoint {scheme}://{}{ca}{key}",
            reachable(*address)
        )
    }
}

impl Banner<'_> {
    /// Who is served.
    fn callers(&self) -> &'static str {
        let open = self.served.access.policy.is_open();
        match (open, self.address.ip().is_loopback()) {
            (false, _) => "those with a credential of the tenants file",
            (true, true) => "anyone on this machine, without a credential; nobody from elsewhere",
            (true, false) => "anyone who reaches this address, without a credential",
        }
    }
}

/// 2412345678 as 2.41 B.
fn count(n: u64) -> String {
    match n {
        1_000_000_000.. => format!("{:.2} B", n as f64 / 1e9),
        1_000_000.. => format!("{:.2} M", n as f64 / 1e6),
        _ => n.to_string(),
    }
}

/// The `ternion` beside this executable, if it is there, as it can be pasted.
fn client() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|server| {
        let client = server.with_file_name(format!("ternion{}", std::env::consts::EXE_SUFFIX));
        client.is_file().then_some(client)
    });
    let Some(path) = beside else {
        return PathBuf::from("ternion");
    };
    let here = std::env::current_dir().ok();
    match here.and_then(|here| path.strip_prefix(here).map(PathBuf::from).ok()) {
        // A bare name would be looked for in PATH.
        Some(relative) if relative.components().count() > 1 => relative,
        _ => path,
    }
}

/// Nobody connects to "any address"; on this machine, loopback is reached.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
