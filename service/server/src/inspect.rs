//! `ternion-server inspect`: what is in a model.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use ternion_model::{Activation, Model, Norm, Projection, Rope};

use crate::launch;

#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    /// Model file or directory; without one, the embedded demo
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Description {
    name: String,
    digest: String,
    architecture: Shape,
    /// Weights of all matrices and norms; a tied head counts once.
    parameters: u64,
    ternary_parameters: u64,
    ternary_share: f64,
    /// Share of zeros among the ternary weights of the first layer: about
    /// 0.3 to 0.5 in trained models, anything else is worth a look.
    first_layer_zero_share: f64,
    tokenizer: TokenizerFacts,
    has_chat_template: bool,
    end_tokens: Vec<u32>,
    tensors: Vec<Tensor>,
}

#[derive(Debug, Serialize)]
struct Shape {
    family: String,
    hidden: usize,
    ffn: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocab: usize,
    context: usize,
    rope: &'static str,
    rope_theta: f32,
    norm_eps: f32,
    activation: &'static str,
    sub_norms: bool,
    tied_head: bool,
}

#[derive(Debug, Serialize)]
struct TokenizerFacts {
    vocab_size: usize,
    bos: Option<u32>,
    adds_bos: bool,
}

#[derive(Debug, Serialize)]
struct Tensor {
    name: String,
    r#type: String,
    shape: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scale: Option<f32>,
}

impl Tensor {
    fn parameters(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }

    fn is_ternary(&self) -> bool {
        self.scale.is_some()
    }
}

pub(crate) fn run(arguments: &InspectArguments) -> anyhow::Result<()> {
    let model = launch::open_model(arguments.model.as_deref())?;
    let description = describe(&model).context("can't read the weights")?;
    match arguments.json {
        true => println!("{}", serde_json::to_string_pretty(&description)?),
        false => print!("{}", text(&description)),
    }
    Ok(())
}

/// Weights of a model, a tied head counted once.
pub(crate) fn num_parameters(model: &Model) -> anyhow::Result<u64> {
    Ok(tensors(model)?.iter().map(Tensor::parameters).sum())
}

fn describe(model: &Model) -> anyhow::Result<Description> {
    let tensors = tensors(model)?;
    let parameters: u64 = tensors.iter().map(Tensor::parameters).sum();
    let ternary = tensors.iter().filter(|tensor| tensor.is_ternary());
    let ternary_parameters: u64 = ternary.map(Tensor::parameters).sum();
    Ok(Description {
        name: model.name.clone(),
        digest: model.digest.clone(),
        architecture: shape(model),
        parameters,
        ternary_parameters,
        ternary_share: ternary_parameters as f64 / parameters as f64,
        first_layer_zero_share: zero_share(model)?,
        tokenizer: TokenizerFacts {
            vocab_size: model.tokenizer.vocab_size(),
            bos: model.tokenizer.bos(),
            adds_bos: model.tokenizer.adds_bos(),
        },
        has_chat_template: model.chat.is_some(),
        end_tokens: model.generation.end_tokens.clone(),
        tensors,
    })
}

fn shape(model: &Model) -> Shape {
    let a = &model.architecture;
    Shape {
        family: a.family.clone(),
        hidden: a.hidden,
        ffn: a.ffn,
        layers: a.layers,
        heads: a.heads,
        kv_heads: a.kv_heads,
        head_dim: a.head_dim,
        vocab: a.vocab,
        context: a.context,
        rope: match a.rope {
            Rope::Neox => "neox",
            Rope::Interleaved => "interleaved",
        },
        rope_theta: a.rope_theta,
        norm_eps: a.norm_eps,
        activation: match a.activation {
            Activation::Relu2 => "relu2",
            Activation::Silu => "silu",
        },
        sub_norms: a.sub_norms,
        tied_head: a.tied_head,
    }
}

fn tensors(model: &Model) -> anyhow::Result<Vec<Tensor>> {
    let weights = &model.weights;
    let embedding = weights.embedding();
    let mut tensors = vec![dense("embedding", &embedding)];
    for layer in 0..model.architecture.layers {
        for norm in Norm::ALL {
            if let Some(values) = weights.norm(layer, norm) {
                tensors.push(Tensor {
                    name: format!("layer {layer} {norm:?} norm").to_lowercase(),
                    r#type: "f32".to_owned(),
                    shape: vec![values.len()],
                    scale: None,
                });
            }
        }
        for projection in Projection::ALL {
            let matrix = weights.ternary(layer, projection)?;
            tensors.push(Tensor {
                name: matrix.name().to_owned(),
                r#type: "ternary".to_owned(),
                shape: vec![matrix.rows(), matrix.cols()],
                scale: Some(matrix.scale()),
            });
        }
    }
    tensors.push(Tensor {
        name: "output norm".to_owned(),
        r#type: "f32".to_owned(),
        shape: vec![weights.output_norm().len()],
        scale: None,
    });
    if !model.architecture.tied_head {
        tensors.push(dense("output head", &weights.head()));
    }
    Ok(tensors)
}

fn dense(name: &str, matrix: &ternion_model::DenseMatrix<'_>) -> Tensor {
    Tensor {
        name: name.to_owned(),
        r#type: format!("{:?}", matrix.format()).to_lowercase(),
        shape: vec![matrix.rows(), matrix.cols()],
        scale: None,
    }
}

fn zero_share(model: &Model) -> anyhow::Result<f64> {
    let (mut zeros, mut all) = (0_usize, 0_usize);
    for projection in Projection::ALL {
        let matrix = model.weights.ternary(0, projection)?;
        let mut row = vec![0_i8; matrix.cols()];
        for r in 0..matrix.rows() {
            matrix.trits_into(r..r + 1, &mut row)?;
            zeros += row.iter().filter(|trit| **trit == 0).count();
            all += row.len();
        }
    }
    Ok(zeros as f64 / all as f64)
}

fn text(d: &Description) -> String {
    let a = &d.architecture;
    let mut out = format!(
        "name             {}\n\
         digest           {}\n\
         architecture     {}: {} layers, hidden {}, ffn {}, {} heads ({} kv) of {}\n\
         \x20                context {}, rope {} with theta {}, norm eps {:e}, {}{}{}\n\
         parameters       {}, of which {:.1} % ternary\n\
         zeros            {:.1} % of the first layer's ternary weights\n\
         tokenizer        {} tokens, {}\n\
         end tokens       {:?}\n\
         chat template    {}\n\
         tensors\n",
        d.name,
        d.digest,
        a.family,
        a.layers,
        a.hidden,
        a.ffn,
        a.heads,
        a.kv_heads,
        a.head_dim,
        a.context,
        a.rope,
        a.rope_theta,
        a.norm_eps,
        a.activation,
        if a.sub_norms { ", sub-norms" } else { "" },
        if a.tied_head { ", tied head" } else { "" },
        d.parameters,
        100.0 * d.ternary_share,
        100.0 * d.first_layer_zero_share,
        d.tokenizer.vocab_size,
        match d.tokenizer.bos {
            Some(bos) if d.tokenizer.adds_bos => format!("prompts begin with {bos}"),
            _ => "prompts get no beginning-of-text token".to_owned(),
        },
        d.end_tokens,
        if d.has_chat_template { "yes" } else { "no" },
    );
    for tensor in &d.tensors {
        let scale = match tensor.scale {
            Some(scale) => format!("  scale {scale:e}"),
            None => String::new(),
        };
        out += &format!(
            "  {:48} {:8} {:?}{scale}\n",
            tensor.name, tensor.r#type, tensor.shape
        );
    }
    out
}
