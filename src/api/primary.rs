//! What a manager that does not lead is asked, and passes on to the one that does.
//!
//! Bytes in, bytes out, as with an engine; upgraded connections become tunnels, which outlive a
//! change of the leader. While nobody leads, requests wait: reads for a moment, until they are
//! answered here, and all others for longer than it takes to elect somebody, until they are refused.
//! `/_ping`, `/info`, and what agents ask about their leases are answered here at once, and reads too
//! where the configuration says so.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    error::ApiError,
    proxy::{self, Relayed, passed_on},
    router::Route,
    tunnel::Tunnels,
};
use crate::{
    cluster::election::{Leadership, Role},
    engine::{
        pool::Pool,
        transport::{Body, BodyError, Fence, Limits, Transport, empty},
    },
    model::cause::innermost,
    tls,
};

/// Marks a request that another manager passed on, which must not be passed on again: two managers
/// may take each other for the leader for a moment.
const PASSED_ON: HeaderName = HeaderName::from_static("skep-passed-on");

/// How long connecting to the leader may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections to the primary that are kept for the next request.
const MAX_IDLE: usize = 32;

/// How long a leader that lost its office may take for its last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// How long a request that was passed on to us waits for us to learn that we lead.
const NEWS: Duration = Duration::from_secs(5);

/// How long a read waits for somebody to lead.
const READ_PATIENCE: Duration = Duration::from_secs(2);

/// How long all else waits beyond the time after which a silent leader is replaced.
const PATIENCE: Duration = Duration::from_secs(5);

/// How other managers are spoken to.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// TLS, if managers speak it.
    pub tls: Option<tls::Client>,
    /// Whether reads are answered here.
    pub local_reads: bool,
}

/// Passes requests on to the manager that leads.
pub struct Primary {
    leadership: Leadership,
    options: Options,
    max_connections: usize,
    tunnels: Tunnels,
    shutdown: CancellationToken,
    /// The way to the last leader.
    current: Mutex<Option<(String, Arc<Transport>)>>,
}

/// Who can answer what is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Any manager, for itself.
    Own,
    /// Any manager, from what it sees of the cluster; the leader sees it first.
    Read,
    /// The leader alone.
    Other,
}

/// Who answers a request.
pub enum Passed {
    /// This manager.
    Here(Request<Incoming>),
    /// The leader has.
    Answered(Response<Body>),
}

impl Primary {
    /// Passes on what is asked while another manager leads.
    pub fn new(
        leadership: Leadership,
        options: Options,
        max_connections: usize,
        tunnels: Tunnels,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            leadership,
            options,
            max_connections,
            tunnels,
            shutdown,
            current: Mutex::new(None),
        }
    }

    /// Has the leader answer, unless this manager has to.
    ///
    /// # Errors
    ///
    /// The leader cannot be reached, or is one no more.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection to the leader.
    pub async fn pass_on(
        &self,
        route: &Route,
        mut request: Request<Incoming>,
    ) -> Result<Passed, ApiError> {
        let kind = Kind::of(route, request.method());
        let is_local = kind == Kind::Own || kind == Kind::Read && self.options.local_reads;
        if self.leadership.is_primary() || is_local {
            return Ok(Passed::Here(request));
        }
        let mut roles = self.leadership.watch();
        if request.headers().contains_key(PASSED_ON) {
            let leads = until(&mut roles, |role| *role == Role::Primary);
            let patience = if kind == Kind::Read {
                READ_PATIENCE
            } else {
                NEWS
            };
            return match timeout(patience, leads).await {
                Ok(Some(_)) => Ok(Passed::Here(request)),
                // Whoever passed it on cannot know yet that nobody leads.
                _ if kind == Kind::Read => Ok(Passed::Here(request)),
                _ => Err(ApiError::unavailable(
                    "this manager is not the primary, although another one takes it for that",
                )),
            };
        }
        // What can be asked again if the leader changes: it changes nothing, and has no body.
        let again = (matches!(*request.method(), Method::GET | Method::HEAD)
            && !proxy::wants_upgrade(request.headers()))
        .then(|| {
            let mut again = Request::new(());
            *again.method_mut() = request.method().clone();
            *again.headers_mut() = request.headers().clone();
            again
        });
        let path = request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned();
        request
            .headers_mut()
            .insert(PASSED_ON, HeaderValue::from_static("1"));
        let mut first = Some(request);
        loop {
            let Some(primary) = self.await_primary(&mut roles, kind).await? else {
                // This manager has come to lead in the meantime, or nobody does.
                return match first {
                    Some(mut request) => {
                        request.headers_mut().remove(PASSED_ON);
                        Ok(Passed::Here(request))
                    }
                    None => Err(changed()),
                };
            };
            let transport = self.transport(&primary)?;
            let asked = async {
                match first.take() {
                    Some(request) => proxy::relay(&transport, &self.tunnels, request, &path).await,
                    None => {
                        let mut sent = Request::new(empty());
                        if let Some(again) = &again {
                            *sent.method_mut() = again.method().clone();
                            *sent.headers_mut() = passed_on(again.headers());
                            sent.headers_mut()
                                .insert(PASSED_ON, HeaderValue::from_static("1"));
                        }
                        transport.send(sent, &path).await.map(Relayed::Answer)
                    }
                }
            };
            match self.while_it_leads(asked, &primary, &mut roles).await {
                Some(Ok(Relayed::Switched(response))) => return Ok(Passed::Answered(response)),
                Some(Ok(Relayed::Answer(response))) => {
                    let (head, body) = response.into_parts();
                    let mut answer = Response::new(body.map_err(BodyError::from).boxed_unsync());
                    *answer.status_mut() = head.status;
                    *answer.headers_mut() = passed_on(&head.headers);
                    return Ok(Passed::Answered(answer));
                }
                Some(Err(error)) => return Err(unreachable(&primary, &error)),
                None if again.is_some() => {}
                None => return Err(changed()),
            }
        }
    }

    /// Waits until somebody leads; `None` if that is this manager, or if nobody does and what is
    /// asked for is a read.
    async fn await_primary(
        &self,
        roles: &mut watch::Receiver<Role>,
        kind: Kind,
    ) -> Result<Option<String>, ApiError> {
        let patience = match kind {
            Kind::Own | Kind::Read => READ_PATIENCE,
            Kind::Other => self.leadership.ttl() + PATIENCE,
        };
        let role = tokio::select! {
            role = until(roles, |role| *role != Role::Replica(None)) => role,
            () = sleep(patience) => {
                if kind != Kind::Other {
                    return Ok(None);
                }
                return Err(ApiError::unavailable(format!(
                    "No elected primary cluster manager for {} s; is the managers' store there?",
                    patience.as_secs(),
                )));
            }
            () = self.shutdown.cancelled() => return Err(ApiError::unavailable(
                "No elected primary cluster manager, and this one is shutting down",
            )),
        };
        Ok(match role {
            Some(Role::Replica(primary)) => primary,
            Some(Role::Primary) | None => None,
        })
    }

    /// Waits for an answer as long as the one that was asked leads, and a moment longer.
    async fn while_it_leads<T>(
        &self,
        asked: impl Future<Output = T>,
        primary: &str,
        roles: &mut watch::Receiver<Role>,
    ) -> Option<T> {
        let mut asked = std::pin::pin!(asked);
        let other = |role: &Role| !matches!(role, Role::Replica(Some(addr)) if addr == primary);
        tokio::select! {
            answer = asked.as_mut() => Some(answer),
            _ = until(roles, other) => timeout(LAST_ANSWERS, asked).await.ok(),
        }
    }

    fn transport(&self, primary: &str) -> Result<Arc<Transport>, ApiError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, transport)) = current.as_ref().filter(|(addr, _)| addr == primary) {
            return Ok(Arc::clone(transport));
        }
        let addr = primary
            .parse()
            .map_err(|error| unreachable(primary, &error))?;
        let limits = Limits::new(CONNECT_TIMEOUT, self.max_connections, MAX_IDLE);
        let (tls, pool) = (self.options.tls.clone(), Pool::default());
        let transport = Transport::with_tls(addr, &limits, tls, Fence::default(), &pool);
        let transport = Arc::new(transport);
        *current = Some((primary.to_owned(), Arc::clone(&transport)));
        Ok(transport)
    }
}

impl Kind {
    fn of(route: &Route, method: &Method) -> Self {
        match route {
            Route::Ping | Route::Info | Route::Options | Route::Redirect(_) => Self::Own,
            // An agent asks whichever manager it reaches.
            Route::AgentLease(_) => Self::Own,
            Route::Version
            | Route::Events
            | Route::Containers
            | Route::Images
            | Route::Networks
            | Route::Network(_)
            | Route::Volumes
            | Route::Volume(_)
            | Route::Inspect(_)
            | Route::Plugins
            | Route::DiskUsage
                if matches!(*method, Method::GET | Method::HEAD) =>
            {
                Self::Read
            }
            _ => Self::Other,
        }
    }
}

/// Waits for a role; `None` if there will be no other any more.
async fn until(
    roles: &mut watch::Receiver<Role>,
    is_wanted: impl Fn(&Role) -> bool,
) -> Option<Role> {
    let role = roles.wait_for(is_wanted).await.ok()?;
    Some(role.clone())
}

/// Classic Swarm's text, with its arguments in the order it meant.
fn unreachable(primary: &str, error: &dyn std::error::Error) -> ApiError {
    let cause = innermost(error);
    ApiError::internal(format!(
        "Unable to reach primary cluster manager ({cause}): {primary}"
    ))
}

fn changed() -> ApiError {
    ApiError::unavailable(
        "the primary cluster manager changed while it was asked; whether it did it is not known",
    )
}
