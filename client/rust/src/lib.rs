//! Client for a ternion server: text generation by BitNet models over gRPC.
//!
//! ```no_run
//! use ternion_client::proto::{Sampling, Stopping};
//! use ternion_client::{Client, Event, Generate, StreamExt};
//!
//! # async fn example() -> Result<(), ternion_client::Error> {
//! let client = Client::connect("http://127.0.0.1:50051").await?;
//! let request = Generate::text("Once upon a time")
//!     .sampling(Sampling {
//!         temperature: Some(0.0),
//!         ..Sampling::default()
//!     })
//!     .stopping(Stopping {
//!         max_tokens: Some(64),
//!         ..Stopping::default()
//!     });
//! let mut events = client.generate(request).await?;
//! while let Some(event) = events.next().await {
//!     match event? {
//!         Event::Delta(delta) => print!("{}", delta.text),
//!         Event::Finished(finished) => println!("\n{:?}", finished.reason()),
//!         Event::Queued(_) | Event::Started(_) => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Five things to know:
//!
//! - Dropping [`Events`] cancels the request on the server; so does dropping a
//!   [`Session`], for all requests on it.
//! - [`Error`] is sorted by what a caller does next, not by status code:
//!   change the request, come back later, or give up. What the server said in
//!   `google.rpc` details (fields, delays) is in its variants.
//! - A request that the server is too busy draining or starting to accept, or
//!   that doesn't reach it, is tried again before you hear of it, on another
//!   replica where there is one: see [`Retry`].
//! - A request made [`resumable`](Generate::resumable) survives a connection
//!   that breaks: it is read on, without a gap, when there is one again.
//! - Messages are those of the protocol, in [`proto`]. A type stands beside
//!   them here only where it adds something: a deadline, a stream, an error.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod client;
mod credentials;
mod error;
mod generate;
mod replicas;
mod resume;
mod retry;
mod session;

pub use client::{Builder, Client};
pub use error::{Error, Resource, Violation};
pub use generate::{Event, Events, Generate, assistant, system, user};
pub use retry::Retry;
pub use session::{Session, SessionEvent};
pub use ternion_proto::v1 as proto;
pub use tokio_stream::StreamExt;
