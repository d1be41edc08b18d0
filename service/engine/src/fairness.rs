//! Who of several tenants is served next: virtual token counters (Sheng et
//! al., Fairness in Serving Large Language Models, OSDI 2024), with measured
//! time for tokens.
//!
//! Every tenant has a counter of the service it had: seconds of steps, as far
//! as they were for it, over its weight. Where not everyone can be served, it
//! is the turn of the tenant whose counter is least. So tenants that always
//! have something waiting are served in proportion to their weights, give or
//! take what fits into one step and one batch, however many requests each
//! sends and however long they are.
//!
//! Nobody is held back while there is room, so a counter may run ahead while
//! nobody else wants anything. And idle time is not saved up: a tenant that
//! comes to have something waiting is lifted to the least counter of those that
//! have, or, where there are none, to that of the last one that had.

/// A tenant as the engine knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Tells tenants apart. Small: there are counters for all below it.
    pub tenant: u32,
    /// How much service it gets, in relation to the others; at least 1.
    pub weight: u32,
}

impl Share {
    /// Tenants are told apart up to this.
    pub const MAX_TENANT: u32 = (1 << 16) - 1;
}

/// That of the only tenant.
impl Default for Share {
    fn default() -> Share {
        Share {
            tenant: 0,
            weight: 1,
        }
    }
}

/// The counters of all tenants.
#[derive(Debug, Default)]
pub(crate) struct Fairness {
    accounts: Vec<Account>,
    /// Who has something waiting, as of this step and the one before.
    backlogged: Vec<u32>,
    were_backlogged: Vec<u32>,
    /// Who was the last to have something waiting.
    last: Option<u32>,
    num_charges: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Account {
    weight: f64,
    /// Service so far, over the weight.
    counter: f64,
    /// What the step that is being planned will add.
    planned: f64,
    /// When it was last served, in charges.
    charged: u64,
    is_backlogged: bool,
    was_backlogged: bool,
}

impl Fairness {
    /// Takes up a tenant, or its new weight.
    pub(crate) fn enter(&mut self, share: Share) {
        let index = share.tenant as usize;
        if self.accounts.len() <= index {
            self.accounts.resize(index + 1, Account::default());
        }
        self.accounts[index].weight = f64::from(share.weight);
    }

    /// Begins a step in which these tenants have something waiting; each may be
    /// named more than once.
    pub(crate) fn begin(&mut self, backlogged: impl Iterator<Item = u32>) {
        std::mem::swap(&mut self.backlogged, &mut self.were_backlogged);
        self.backlogged.clear();
        for tenant in backlogged {
            let account = &mut self.accounts[tenant as usize];
            if !std::mem::replace(&mut account.is_backlogged, true) {
                self.backlogged.push(tenant);
            }
        }
        self.lift();
        for tenant in &self.were_backlogged {
            let account = &mut self.accounts[*tenant as usize];
            if !account.is_backlogged {
                self.last = Some(*tenant);
            }
            account.was_backlogged = false;
        }
        for tenant in &self.backlogged {
            let account = &mut self.accounts[*tenant as usize];
            account.is_backlogged = false;
            account.was_backlogged = true;
        }
    }

    /// Whoever has something waiting that had nothing.
    fn lift(&mut self) {
        let counter = |tenant: &u32| self.accounts[*tenant as usize].counter;
        let stay = |tenant: &&u32| self.accounts[**tenant as usize].was_backlogged;
        let least = self.backlogged.iter().filter(stay).map(counter);
        let level = least.min_by(f64::total_cmp);
        // Of those that have just left, too, where all have.
        let left = self.were_backlogged.last().or(self.last.as_ref());
        let Some(level) = level.or(left.map(counter)) else {
            return;
        };
        // Who had something is not below that.
        for tenant in &self.backlogged {
            let account = &mut self.accounts[*tenant as usize];
            account.counter = account.counter.max(level);
        }
    }

    pub(crate) fn weight(&self, tenant: u32) -> f64 {
        self.accounts[tenant as usize].weight
    }

    /// Whose turn is before whose: less is earlier.
    pub(crate) fn turn(&self, tenant: u32) -> Turn {
        let account = &self.accounts[tenant as usize];
        Turn {
            counter: account.counter + account.planned,
            charged: account.charged,
            tenant,
        }
    }

    /// So many seconds of the step that is being planned are for a tenant.
    pub(crate) fn plan(&mut self, tenant: u32, seconds: f64) {
        let account = &mut self.accounts[tenant as usize];
        account.planned += seconds / account.weight;
    }

    /// So many seconds of the step that was run were for a tenant. That is
    /// instead of what was planned.
    pub(crate) fn charge(&mut self, tenant: u32, seconds: f64) {
        let account = &mut self.accounts[tenant as usize];
        account.planned = 0.0;
        account.counter += seconds / account.weight;
        self.num_charges += 1;
        account.charged = self.num_charges;
    }
}

/// A tenant's place among all. Of those that had the same service, as a tenant
/// has that was just lifted, the one comes first that was served longest ago.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Turn {
    counter: f64,
    charged: u64,
    tenant: u32,
}

impl Eq for Turn {}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Turn) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Turn {
    fn cmp(&self, other: &Turn) -> std::cmp::Ordering {
        let by_counter = self.counter.total_cmp(&other.counter);
        by_counter.then((self.charged, self.tenant).cmp(&(other.charged, other.tenant)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fairness(weights: &[u32]) -> Fairness {
        let mut fairness = Fairness::default();
        for (tenant, &weight) in (0..).zip(weights) {
            fairness.enter(Share { tenant, weight });
        }
        fairness
    }

    /// Serves whoever's turn it is, a second a step.
    fn serve(fairness: &mut Fairness, backlogged: &[u32], steps: usize) -> Vec<u32> {
        let turns = (0..steps).map(|_| {
            fairness.begin(backlogged.iter().copied());
            let turn = backlogged.iter().map(|tenant| fairness.turn(*tenant)).min();
            let tenant = turn.unwrap().tenant;
            fairness.charge(tenant, 1.0);
            tenant
        });
        turns.collect()
    }

    #[test]
    fn turns_follow_weights() {
        let mut fairness = fairness(&[1, 3]);
        let turns = serve(&mut fairness, &[0, 1], 400);
        assert_eq!(turns.iter().filter(|tenant| **tenant == 0).count(), 100);
    }

    #[test]
    fn idle_time_is_not_saved_up() {
        let mut fairness = fairness(&[1, 1, 1]);
        serve(&mut fairness, &[0, 2], 2000);
        let turns = serve(&mut fairness, &[0, 1, 2], 30);
        for tenant in 0..3 {
            let count = turns.iter().filter(|turn| **turn == tenant).count();
            assert_eq!(count, 10, "{turns:?}");
        }
    }

    #[test]
    fn who_was_served_alone_does_not_pay_for_it() {
        let mut fairness = fairness(&[1, 1]);
        serve(&mut fairness, &[0], 1000);
        // Nobody wants anything for a while.
        serve(&mut fairness, &[], 0);
        fairness.begin(std::iter::empty());
        fairness.begin(std::iter::empty());
        let turns = serve(&mut fairness, &[0, 1], 20);
        let count = turns.iter().filter(|turn| **turn == 0).count();
        assert_eq!(count, 10, "{turns:?}");
    }

    #[test]
    fn who_comes_as_the_only_other_one_leaves_gains_no_claim() {
        let mut fairness = fairness(&[1, 1]);
        serve(&mut fairness, &[0], 1000);
        serve(&mut fairness, &[1], 1);
        let turns = serve(&mut fairness, &[0, 1], 20);
        let count = turns.iter().filter(|turn| **turn == 0).count();
        assert!((10..=11).contains(&count), "{turns:?}");
    }

    #[test]
    fn a_tenant_that_takes_little_is_served_at_once_and_gains_no_claim() {
        let mut fairness = fairness(&[1, 1]);
        for _ in 0..100 {
            serve(&mut fairness, &[0], 9);
            assert_eq!(serve(&mut fairness, &[0, 1], 1), [1]);
        }
        let turns = serve(&mut fairness, &[0, 1], 20);
        let count = turns.iter().filter(|turn| **turn == 0).count();
        assert!((9..=11).contains(&count), "{turns:?}");
    }

    #[test]
    fn what_is_planned_counts_by_weight() {
        let mut fairness = fairness(&[1, 4]);
        fairness.begin([0, 1].into_iter());
        fairness.plan(0, 2.0);
        fairness.plan(1, 4.0);
        assert!(fairness.turn(1) < fairness.turn(0));
        fairness.plan(1, 8.0);
        assert!(fairness.turn(0) < fairness.turn(1));
    }

    #[test]
    fn who_comes_back_is_as_far_ahead_as_before() {
        let mut fairness = fairness(&[1, 1]);
        fairness.begin([0, 1].into_iter());
        fairness.charge(0, 10.0);
        fairness.begin([1].into_iter());
        assert_eq!(serve(&mut fairness, &[0, 1], 10), [1; 10]);
    }

    #[test]
    fn who_comes_is_not_behind_any_of_those_that_wait() {
        let mut fairness = fairness(&[1, 1, 1]);
        fairness.begin([0, 1].into_iter());
        fairness.charge(0, 10.0);
        fairness.charge(1, 2.0);
        // At 2, as the second, and not served since.
        fairness.begin([0, 1, 2].into_iter());
        assert!(fairness.turn(2) < fairness.turn(1));
        assert!(fairness.turn(1) < fairness.turn(0));
        fairness.charge(2, 1.0);
        assert!(
            fairness.turn(1) < fairness.turn(2),
            "nor before all of them"
        );
    }

    #[test]
    fn what_a_step_is_planned_to_do_counts_already() {
        let mut fairness = fairness(&[1, 1]);
        fairness.begin([0, 1].into_iter());
        fairness.plan(0, 2.0);
        assert!(fairness.turn(1) < fairness.turn(0));
        // It turns out to have been next to nothing.
        fairness.charge(0, 0.0);
        fairness.charge(1, 1.0);
        assert!(fairness.turn(0) < fairness.turn(1));
    }
}
