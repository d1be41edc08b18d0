//! The engine as a whole, run on a fake model.

mod endings;
mod fake;
mod guesses;
mod oracle;
mod pages;
mod prefixes;
mod random_schedules;
mod sim;
mod traces;
