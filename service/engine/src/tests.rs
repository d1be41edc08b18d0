//! The engine as a whole, run on a fake model.

mod endings;
mod fairness;
mod fake;
mod forecasts;
mod guesses;
mod machine;
mod oracle;
mod pages;
mod prefixes;
mod random;
mod random_schedules;
mod samples;
mod sim;
mod step_budget;
mod traces;
