/// Placeholder until the reader lands.
#[derive(Debug)]
pub struct Adapter {}

/// One adapted projection.
#[derive(Debug)]
pub struct LoraPair {}

#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    #[error("adapters are not read yet")]
    Unsupported,
}
