/// Service of tokens, as the paper on virtual token counters charges them: a
/// token of the output costs as much as two of the prompt.
pub(crate) fn service(prompt_tokens: u64, output_tokens: u64) -> u64 {
    prompt_tokens + 2 * output_tokens
}

/// Jain's index of what each gets of each unit of its weight: 1 if all get the
/// same, 1/n if one gets everything. None without any service.
pub(crate) fn jain_index(services_and_weights: &[(u64, f64)]) -> Option<f64> {
    let rates = services_and_weights
        .iter()
        .map(|(service, weight)| *service as f64 / weight);
    let (sum, squares) = rates.fold((0.0, 0.0), |(sum, squares), rate| {
        (sum + rate, squares + rate * rate)
    });
    (squares > 0.0).then(|| sum * sum / (services_and_weights.len() as f64 * squares))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_that_of_hand_worked_cases() {
        assert_eq!(jain_index(&[(5, 1.0), (5, 1.0), (5, 1.0)]), Some(1.0));
        assert_eq!(jain_index(&[(9, 1.0), (0, 1.0)]), Some(0.5));
        // (1 + 3)^2 / (2 * (1 + 9))
        assert_eq!(jain_index(&[(10, 10.0), (30, 10.0)]), Some(0.8));
        // Twice the weight, twice the service.
        assert_eq!(jain_index(&[(10, 1.0), (20, 2.0)]), Some(1.0));
        assert_eq!(jain_index(&[(0, 1.0), (0, 1.0)]), None);
    }

    #[test]
    fn an_output_token_is_worth_two_of_the_prompt() {
        assert_eq!(service(100, 10), 120);
    }
}
