use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// Requests that a tenant keeps alive; each has the same size. The engine is
/// slower than this process asks again: who is not always waiting has no claim
/// to a share.
struct Flood {
    tokens: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Flood {
    fn start(client: &Client, alive: usize) -> Flood {
        let tokens = Arc::new(AtomicU64::new(0));
        let send = || {
            let (client, tokens) = (client.clone(), tokens.clone());
            tokio::spawn(async move {
                loop {
                    let mut request = greedy(&[1016; 16], 8);
                    // Among the requests of others that counts for nothing.
                    request.request.priority = Some(100);
                    match client.generate(request).await {
                        Ok(mut events) => count(&mut events, &tokens).await,
                        // A tenant leaves a part of the queue to others.
                        Err(Error::ResourceExhausted { .. }) => {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        };
        Flood {
            tasks: (0..alive).map(|_| send()).collect(),
            tokens,
        }
    }

    fn tokens(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn count(events: &mut Events, tokens: &AtomicU64) {
    while let Some(event) = ternion_client::StreamExt::next(events).await {
        if let Event::Delta(delta) = event.expect("it is served") {
            tokens.fetch_add(delta.token_ids.len() as u64, Ordering::Relaxed);
        }
    }
}

/// What the second of two tenants gets of all tokens, while the first one sends
/// ten times its share.
async fn share_beside_a_flood(weight: &str) -> f64 {
    let keys = [keygen(), keygen()];
    let mut tenants = Tenants::new()
        .with("flood", "'inference'", &keys[0], "")
        .with("other", "'inference'", &keys[1], "");
    tenants.text = tenants.text.replace(
        "name = 'other'",
        &format!("name = 'other'\nweight = {weight}"),
    );
    tenants.write();
    let (_kernel, server) = tenants.serve_slowly(&[
        "--max-num-seqs",
        "4",
        "--max-queued",
        "64",
        "--prefix-cache",
        "off",
    ]);
    let flood = Flood::start(&client(&server, &keys[0]).await, 40);
    let other = Flood::start(&client(&server, &keys[1]).await, 10);
    let served = async |more: u64| {
        let until = flood.tokens() + other.tokens() + more;
        while flood.tokens() + other.tokens() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        (flood.tokens(), other.tokens())
    };
    let (flood_before, other_before) = served(200).await;
    let (flood, other) = served(1000).await;
    let (flood, other) = (flood - flood_before, other - other_before);
    other as f64 / (flood + other) as f64
}

#[tokio::test]
async fn a_tenant_at_ten_times_its_share_leaves_the_other_its_half() {
    let share = share_beside_a_flood("1").await;
    assert!((0.45..=0.55).contains(&share), "{share}");
}

#[tokio::test]
async fn a_tenant_of_three_times_the_weight_gets_three_quarters() {
    let share = share_beside_a_flood("3").await;
    assert!((0.68..=0.80).contains(&share), "{share}");
}
