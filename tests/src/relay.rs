use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Forwards connections and counts them: the only way to see from outside
/// that a client was told to connect again. It can cut them, too.
#[derive(Debug)]
pub struct Relay {
    endpoint: String,
    num_connections: Arc<AtomicUsize>,
    cuts: Arc<Mutex<VecDeque<usize>>>,
}

impl Relay {
    /// To an address such as `127.0.0.1:40123`.
    pub async fn to(address: &str) -> Relay {
        Relay::cutting(address, &[]).await
    }

    /// Breaks as many connections, one after the other, once so many bytes of
    /// the server have gone over each. What comes after them stays.
    pub async fn cutting(address: &str, cuts: &[usize]) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
        let relay = Relay {
            endpoint,
            num_connections: Arc::new(AtomicUsize::new(0)),
            cuts: Arc::new(Mutex::new(cuts.iter().copied().collect())),
        };
        let (address, count) = (address.to_owned(), relay.num_connections.clone());
        let cuts = relay.cuts.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let cut = cuts.lock().expect("nobody panics with it").pop_front();
                let address = address.clone();
                tokio::spawn(async move {
                    // A server that is gone is told by closing, too.
                    if let Ok(server) = TcpStream::connect(address).await {
                        forward(client, server, cut).await;
                    }
                });
            }
        });
        relay
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub fn num_connections(&self) -> usize {
        self.num_connections.load(Ordering::Relaxed)
    }
}

async fn forward(mut client: TcpStream, mut server: TcpStream, cut: Option<usize>) {
    let Some(cut) = cut else {
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        return;
    };
    let (mut from_client, mut to_client) = client.split();
    let (from_server, mut to_server) = server.split();
    let mut answers = from_server.take(cut as u64);
    tokio::select! {
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
        _ = tokio::io::copy(&mut answers, &mut to_client) => {
            // What it was given is not lost with it.
            let _ = to_client.flush().await;
        }
    }
}
