//! The team between steps.

use std::sync::Arc;

use ternion_engine::Crew;
use ternion_kernels::team::Team;

/// A team, as the engine knows it.
pub(crate) struct TeamCrew(pub(crate) Arc<Team>);

impl Crew for TeamCrew {
    fn size(&self) -> usize {
        self.0.size()
    }

    fn each(&self, count: usize, work: &(dyn Fn(usize, usize) + Sync)) {
        self.0.run(count, work);
    }
}
