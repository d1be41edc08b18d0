use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;

/// What random numbers are for. Each has a stream of its own, so that one more
/// number for one changes nothing of another.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Arrivals,
    /// Which tenant an arrival is of.
    Tenants,
    /// A prefix that prompts share.
    Prefix(u32),
    /// Lengths and tokens of a tenant's requests.
    Requests(usize),
}

pub(crate) fn random(seed: u64, purpose: Purpose) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(match purpose {
        Purpose::Arrivals => 0,
        Purpose::Tenants => 1,
        Purpose::Prefix(index) => (1 << 32) | u64::from(index),
        Purpose::Requests(tenant) => (2 << 32) | tenant as u64,
    });
    random
}
