use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// Forwards connections and counts them: the only way to see from outside
/// that a client was told to connect again. It can cut them, too.
#[derive(Debug)]
pub struct Relay {
    endpoint: String,
    num_connections: Arc<AtomicUsize>,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Relay {
    /// To an address such as `127.0.0.1:40123`.
    pub async fn to(address: &str) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
        let num_connections = Arc::new(AtomicUsize::new(0));
        let connections = Arc::new(Mutex::new(Vec::new()));
        let (address, count) = (address.to_owned(), num_connections.clone());
        let forwarding = connections.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let address = address.clone();
                let connection = tokio::spawn(async move {
                    // A server that is gone is told by closing, too.
                    if let Ok(mut server) = TcpStream::connect(address).await {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
                let mut forwarding = forwarding.lock().expect("nobody panics with it");
                forwarding.push(connection.abort_handle());
            }
        });
        Relay {
            endpoint,
            num_connections,
            connections,
        }
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Breaks all connections that there are.
    pub fn cut(&self) {
        let mut connections = self.connections.lock().expect("nobody panics with it");
        connections
            .drain(..)
            .for_each(|connection| connection.abort());
    }

    pub fn num_connections(&self) -> usize {
        self.num_connections.load(Ordering::Relaxed)
    }
}
