use std::sync::Arc;

use ternion_client::Client;

use super::event_source::EventSource;
use super::observation::Problem;
use super::peer::Peer;
use super::prompts::Request;
use super::sessions::Sessions;

/// Where requests go: a way for each tenant, with its own key.
#[derive(Clone, Debug)]
pub(crate) struct Target(Arc<[Way]>);

#[derive(Debug)]
pub(crate) enum Way {
    /// Each request by a call of its own.
    Calls(Client),
    /// In turn on streams for many.
    Sessions(Sessions),
    /// To another server's HTTP endpoint.
    Peer(Box<Peer>),
}

impl Target {
    pub(crate) fn new(ways: Vec<Way>) -> Target {
        Target(ways.into())
    }

    pub(crate) async fn open(
        &self,
        tenant: usize,
        request: Request,
    ) -> Result<EventSource, Problem> {
        match &self.0[tenant] {
            Way::Calls(client) => {
                let events = client.generate(request).await;
                let events = events.map_err(|error| Problem::from(&error))?;
                Ok(EventSource::Call(Box::new(events)))
            }
            Way::Sessions(sessions) => {
                let events = sessions.open(request.into()).await;
                Ok(EventSource::Session(events))
            }
            Way::Peer(peer) => {
                let events = peer.open(request).await?;
                Ok(EventSource::Peer(Box::new(events)))
            }
        }
    }
}
