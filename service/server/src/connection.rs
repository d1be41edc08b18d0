//! Connections: accepted one by one, and no more at once than allowed; TLS,
//! where it is configured, is agreed on beside, so that a slow client keeps
//! nobody waiting.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::ServerConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::certificate::subject_names;

/// After an error such as "too many open files", which passes when a
/// connection closes.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// How long a client may take to agree on TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Finds dead peers that never got as far as HTTP/2, whose pings find the
/// others.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(4);

/// TLS for new connections: always the newest certificate.
pub(crate) type Tls = watch::Receiver<Arc<ServerConfig>>;

/// A connection that counts until it is dropped.
pub(crate) struct Connection {
    stream: Stream,
    peer: Peer,
    _permit: Option<OwnedSemaphorePermit>,
    /// Dropped with the connection, which is all that it says.
    _open: Option<oneshot::Sender<()>>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: Option<SocketAddr>,
    /// Names in the certificate that it proved to hold. None without one.
    pub(crate) certificate_names: Arc<[String]>,
}

/// Accepts connections, at most `max_connections` at once; others wait in the
/// operating system's backlog.
pub(crate) fn accept(
    listener: TcpListener,
    max_connections: Option<usize>,
    tls: Option<Tls>,
) -> ReceiverStream<io::Result<Connection>> {
    let (accepted, connections) = mpsc::channel(1);
    let permits = max_connections.map(|n| Arc::new(Semaphore::new(n)));
    tokio::spawn(async move {
        loop {
            let permit = match &permits {
                None => None,
                Some(permits) => permits.clone().acquire_owned().await.ok(),
            };
            let connection = tokio::select! {
                () = accepted.closed() => return,
                connection = listener.accept() => connection,
            };
            let stream = match connection {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "can't accept a connection");
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                    continue;
                }
            };
            // Tokens are small, and each is waited for. Where either fails,
            // the connection is gone already.
            let _ = stream.set_nodelay(true);
            let _ = SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE);
            let Some(tls) = &tls else {
                let connection = Connection::plain(stream, permit);
                if accepted.send(Ok(connection)).await.is_err() {
                    return;
                }
                continue;
            };
            let acceptor = TlsAcceptor::from(tls.borrow().clone());
            let accepted = accepted.clone();
            tokio::spawn(async move {
                if let Some(connection) = Connection::tls(stream, &acceptor, permit).await {
                    // An error means that the server ends.
                    let _ = accepted.send(Ok(connection)).await;
                }
            });
        }
    });
    ReceiverStream::new(connections)
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl Connection {
    /// Is ready once the connection is closed.
    pub(crate) fn closed(&mut self) -> oneshot::Receiver<()> {
        let (open, closed) = oneshot::channel();
        self._open = Some(open);
        closed
    }

    fn plain(stream: TcpStream, permit: Option<OwnedSemaphorePermit>) -> Connection {
        let peer = Peer {
            address: stream.peer_addr().ok(),
            certificate_names: Arc::default(),
        };
        Connection {
            stream: Stream::Plain(stream),
            peer,
            _permit: permit,
            _open: None,
        }
    }

    /// `None` if the two ends can't agree, which is the client's to notice.
    async fn tls(
        stream: TcpStream,
        acceptor: &TlsAcceptor,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Option<Connection> {
        let address = stream.peer_addr().ok();
        let shown = address.map(|address| address.to_string());
        let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(peer = shown, %error, "no TLS with this client");
                return None;
            }
            Err(_) => {
                tracing::debug!(peer = shown, "client took too long to agree on TLS");
                return None;
            }
        };
        let (_, session) = stream.get_ref();
        // The first is the client's own; those after it are its issuers'.
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        let names = certificate.map(subject_names).unwrap_or_default();
        Some(Connection {
            stream: Stream::Tls(Box::new(stream)),
            peer: Peer {
                address,
                certificate_names: names.into(),
            },
            _permit: permit,
            _open: None,
        })
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

/// Binds the address of a setting, saying which one if it can't be.
pub(crate) async fn listen(setting: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    use anyhow::Context;
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{setting}: can't listen on {address}"))
}
