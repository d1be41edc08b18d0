//! `adapter_config.json`, then a zero byte and `adapter_model.safetensors` up to its tensor data.

use std::sync::OnceLock;

use ternion_model::{Adapter, Architecture, Model};

use crate::{desk::Desk, tiny_model};

static BASE: OnceLock<Architecture> = OnceLock::new();

pub fn run(data: &[u8]) -> bool {
    let base = BASE.get_or_init(|| {
        let desk = tiny_model::directory("adapter_base");
        let model = Model::open(desk.path()).expect("the tiny model is a model");
        model.architecture
    });
    let mut parts = data.splitn(2, |&byte| byte == 0);
    let desk = Desk::new("adapter");
    desk.put("adapter_config.json", parts.next().unwrap_or_default());
    let tensors = tiny_model::with_data(parts.next().unwrap_or_default());
    desk.put("adapter_model.safetensors", &tensors);
    let Ok(adapter) = Adapter::open(desk.path(), base) else {
        return false;
    };
    for (layer, projection, pair) in adapter.pairs() {
        let (rows, cols) = projection.shape(base);
        assert_eq!(pair.a.len(), pair.rank * cols, "{layer} {projection:?}");
        assert_eq!(pair.b.len(), pair.rank * rows, "{layer} {projection:?}");
        assert!(pair.a.iter().chain(&pair.b).all(|x| x.is_finite()));
    }
    true
}
