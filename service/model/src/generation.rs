/// How the model's makers would have it sampled, and where it stops.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Ids that end a generation, ascending. Not empty unless the model has none at all.
    pub end_tokens: Vec<u32>,
    /// `Some(false)` asks for greedy decoding whatever the temperature says.
    pub do_sample: Option<bool>,
    pub temperature: Option<f32>,
    pub top_k: Option<u32>,
    pub top_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
}

/// Special tokens that end an answer in the chat formats of this family, whatever a file lists:
/// published configs name `<|end_of_text|>` alone where the template ends turns with `<|eot_id|>`.
pub(crate) const END_OF_TURN: [&str; 6] = [
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|end|>",
    "<end_of_turn>",
];
