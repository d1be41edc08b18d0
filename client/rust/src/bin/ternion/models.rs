use serde::Serialize;
use ternion_client::Client;
use ternion_client::proto::{ModelInfo, Sampling};

use crate::failure::Failure;
use crate::json;
use crate::stdout;

#[derive(Debug, Serialize)]
struct Model {
    name: String,
    digest: String,
    architecture: String,
    parameters: u64,
    vocab_size: u32,
    context_limit: u32,
    end_token_ids: Vec<u32>,
    chat: bool,
    kernel: String,
    default_sampling: DefaultSampling,
}

#[derive(Debug, Serialize)]
struct DefaultSampling {
    temperature: Option<f32>,
    top_k: Option<u32>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
}

impl From<ModelInfo> for Model {
    fn from(info: ModelInfo) -> Model {
        Model {
            name: info.name,
            digest: info.digest,
            architecture: info.architecture,
            parameters: info.parameters,
            vocab_size: info.vocab_size,
            context_limit: info.context_limit,
            end_token_ids: info.end_token_ids,
            chat: !info.chat_template.is_empty(),
            kernel: info.kernel,
            default_sampling: info.default_sampling.unwrap_or_default().into(),
        }
    }
}

impl From<Sampling> for DefaultSampling {
    fn from(sampling: Sampling) -> DefaultSampling {
        DefaultSampling {
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
        }
    }
}

pub(crate) async fn run(client: &Client, json: bool) -> Result<(), Failure> {
    let models: Vec<Model> = client
        .models()
        .await?
        .into_iter()
        .map(Model::from)
        .collect();
    if json {
        return json::print(&models);
    }
    let mut rows = vec![
        [
            "NAME",
            "ARCHITECTURE",
            "PARAMETERS",
            "CONTEXT",
            "KERNEL",
            "DIGEST",
        ]
        .map(String::from),
    ];
    rows.extend(models.into_iter().map(|model| {
        [
            model.name,
            model.architecture,
            rounded(model.parameters),
            model.context_limit.to_string(),
            model.kernel,
            model.digest,
        ]
    }));
    stdout::write_lines(&aligned(&rows))
}

/// Three digits are what people say: 4.79 M, 2.41 B.
fn rounded(parameters: u64) -> String {
    let (unit, name) = match parameters {
        1_000_000_000.. => (1e9, "B"),
        1_000_000.. => (1e6, "M"),
        _ => return parameters.to_string(),
    };
    format!("{:.2} {name}", parameters as f64 / unit)
}

fn aligned<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    });
    let pad = |row: &[String; N]| {
        let cells = row.iter().zip(widths);
        let line: String = cells
            .map(|(cell, width)| format!("{cell:width$}  "))
            .collect();
        line.trim_end().to_owned()
    };
    rows.iter().map(pad).collect()
}
