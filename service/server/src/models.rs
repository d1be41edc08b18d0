//! `ternion.v1.ModelService`.

use std::sync::Arc;

use ternion_engine::Sampling;
use ternion_model::GenerationDefaults;
use ternion_proto::v1::{self, model_service_server::ModelService};
use tonic::{Request, Response, Status};

use crate::served::Served;

pub(crate) struct Models(pub(crate) Arc<Served>);

#[tonic::async_trait]
impl ModelService for Models {
    async fn list(
        &self,
        _: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListResponse>, Status> {
        Ok(Response::new(v1::ListResponse {
            models: vec![self.info()],
        }))
    }

    async fn get(
        &self,
        call: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        self.0.check_model(&call.into_inner().name)?;
        Ok(Response::new(v1::GetResponse {
            model: Some(self.info()),
        }))
    }
}

impl Models {
    fn info(&self) -> v1::ModelInfo {
        let served = &self.0;
        let model = &served.model;
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        v1::ModelInfo {
            name: served.name.clone(),
            digest: model.digest.clone(),
            architecture: model.architecture.family.clone(),
            parameters: served.parameters,
            vocab_size: narrow(served.bounds.vocab_size),
            context_limit: narrow(served.bounds.context_limit),
            end_token_ids: model.generation.end_tokens.clone(),
            chat_template: model
                .chat
                .as_ref()
                .map_or_else(String::new, |chat| chat.source().to_owned()),
            default_sampling: Some(as_message(&served.default_sampling)),
            kernel: served.kernel.clone(),
        }
    }
}

fn as_message(sampling: &Sampling) -> v1::Sampling {
    v1::Sampling {
        temperature: Some(sampling.temperature),
        top_k: Some(sampling.top_k),
        top_p: Some(sampling.top_p),
        min_p: Some(sampling.min_p),
        seed: None,
        repetition_penalty: Some(sampling.repetition_penalty),
        presence_penalty: Some(sampling.presence_penalty),
        frequency_penalty: Some(sampling.frequency_penalty),
    }
}

/// How the model is sampled when a request doesn't say.
///
/// As in transformers, a model is greedy unless its generation config sets
/// `do_sample`; its temperature means nothing without.
pub(crate) fn default_sampling(generation: &GenerationDefaults) -> Sampling {
    let greedy = Sampling::default();
    let temperature = match generation.do_sample {
        Some(true) => generation.temperature.unwrap_or(1.0),
        _ => greedy.temperature,
    };
    Sampling {
        temperature,
        top_k: generation.top_k.unwrap_or(greedy.top_k),
        top_p: generation.top_p.unwrap_or(greedy.top_p),
        repetition_penalty: generation
            .repetition_penalty
            .unwrap_or(greedy.repetition_penalty),
        ..greedy
    }
}
