//! A proxy in front of an emulator of AWS: records the calls, and makes chosen ones fail as on AWS. A call can be
//! refused, throttled, cut, executed without an answer, or executed in part. All other answers are the emulator's own.

mod answers;
mod write_limits;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, client, server};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use write_limits::{Admission, WriteLimits};

pub(crate) type Answer = Response<Full<Bytes>>;

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AwsFault {
    /// Not executed; answered with an internal error.
    Refused,
    /// Not executed; answered with a throttling error.
    Throttled,
    /// Not executed; the connection ends without an answer.
    Cut,
    /// Executed; the connection ends without an answer.
    AnswerLost,
    /// Executed; the answer does not arrive before the caller's timeout.
    AnswerLate,
    /// A batch, executed except for its last entry, which the answer names.
    Partial,
}

/// A call that passed the proxy.
#[derive(Clone, Debug)]
pub struct AwsCall {
    /// `DynamoDB`, `SQS`, `SNS`, `SSM`.
    pub service: String,
    /// `PutItem`.
    pub action: String,
    /// The parameters; null for SNS, whose protocol is not JSON.
    pub body: Value,
}

impl AwsCall {
    /// The DynamoDB table of the call, if it has one.
    pub fn table(&self) -> Option<&str> {
        self.body["TableName"].as_str().or_else(|| Some(answers::asked_of_table(self)?.0))
    }

    /// The number of entries of a batch that can fail in part; 0 for every other call.
    pub fn entries(&self) -> usize {
        answers::entries(self)
    }
}

/// The proxy. Stops when it is dropped.
#[derive(Debug)]
pub struct AwsFaults {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<AwsCall>,
    plan: Option<Plan>,
    struck: Vec<usize>,
    /// Every how many calls one fails, and how: in turn.
    rate: Option<(usize, Vec<AwsFault>)>,
    limits: Option<WriteLimits>,
    throttled: usize,
}

/// What happens to one call.
enum Fate {
    Forwarded,
    Fails(AwsFault),
    /// These items of a batch are left undone.
    InPart(Vec<Value>),
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    first: usize,
    times: usize,
    fault: AwsFault,
}

impl AwsFaults {
    /// Starts to forward calls to `target`.
    ///
    /// # Panics
    /// When no port is available.
    pub async fn start(target: SocketAddr) -> AwsFaults {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port of 127.0.0.1");
        let address = listener.local_addr().expect("a bound address");
        let shared = Arc::new(Shared { target, state: Mutex::default() });
        let acceptor = tokio::spawn(accept(listener, shared.clone())).abort_handle();
        AwsFaults { address, shared, acceptor }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as a URL without a trailing slash.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes call `first` (from 0) fail, and later calls of the same action, until `times` calls have failed.
    pub fn strike(&self, first: usize, times: usize, fault: AwsFault) {
        let mut state = self.shared.state();
        state.plan = Some(Plan { first, times, fault });
        state.struck.clear();
    }

    /// Makes one of `every` calls fail, with these faults in turn. [`AwsFault::Partial`] is none of them.
    pub fn strike_each(&self, every: usize, faults: &[AwsFault]) {
        self.shared.state().rate = Some((every, faults.to_vec()));
    }

    /// Limits the writes of each partition. `keys`: the partition key by table; other tables are not limited.
    pub fn limit_writes(&self, keys: HashMap<String, String>, units_per_second: u32) {
        self.shared.state().limits = Some(WriteLimits::new(keys, units_per_second));
    }

    /// The calls that exceeded [`AwsFaults::limit_writes`], wholly or in part.
    pub fn throttled(&self) -> usize {
        self.shared.state().throttled
    }

    /// All calls so far, in order of arrival.
    pub fn calls(&self) -> Vec<AwsCall> {
        self.shared.state().calls.clone()
    }

    /// The calls that failed by the last [`AwsFaults::strike`], by number.
    pub fn struck(&self) -> Vec<usize> {
        self.shared.state().struck.clone()
    }
}

impl Drop for AwsFaults {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

/// Accepts connections until it is aborted, which ends them too.
async fn accept(listener: TcpListener, shared: Arc<Shared>) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        // Fails only for a client that has disconnected already.
        let Ok((stream, _)) = listener.accept().await else { continue };
        stream.set_nodelay(true).ok();
        let shared = shared.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let shared = shared.clone();
                async move { shared.answer(request).await }
            });
            // Fails for a connection that this proxy or the client has cut.
            server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        });
        while connections.try_join_next().is_some() {}
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to a call; an error ends the connection.
    async fn answer(&self, request: Request<Incoming>) -> io::Result<Answer> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let call = answers::call_of(&head, &body);
        let fate = self.note(&call);
        let request = Request::from_parts(head, body);
        let cut = || io::Error::new(io::ErrorKind::ConnectionAborted, "cut on purpose");
        let fault = match fate {
            Fate::Forwarded => return self.forward(request).await,
            Fate::InPart(left) => {
                let asked = answers::without(&call, &left);
                return self.forward_in_part(&call, request, asked, left).await;
            }
            Fate::Fails(fault) => fault,
        };
        match fault {
            AwsFault::Refused => Ok(answers::refused(&call)),
            AwsFault::Throttled => Ok(answers::throttled(&call)),
            AwsFault::Cut => Err(cut()),
            AwsFault::AnswerLost => {
                self.forward(request).await?;
                Err(cut())
            }
            AwsFault::AnswerLate => {
                self.forward(request).await?;
                // Until the client closes the connection.
                std::future::pending().await
            }
            AwsFault::Partial => match answers::without_last(&call) {
                Some((asked, left)) => self.forward_in_part(&call, request, asked, vec![left]).await,
                None => Ok(answers::none_done(&call)),
            },
        }
    }

    /// Records the call, and decides what happens to it.
    fn note(&self, call: &AwsCall) -> Fate {
        let mut state = self.state();
        let number = state.calls.len();
        state.calls.push(call.clone());
        if let Some(fault) = state.planned_fault(call, number) {
            return Fate::Fails(fault);
        }
        let admission = state.limits.as_mut().map_or(Admission::All, |limits| limits.admit(call));
        state.throttled += usize::from(!matches!(admission, Admission::All));
        match admission {
            Admission::All => Fate::Forwarded,
            Admission::Throttled => Fate::Fails(AwsFault::Throttled),
            Admission::AllBut(left) => Fate::InPart(left),
        }
    }

    async fn forward(&self, request: Request<Bytes>) -> io::Result<Answer> {
        let stream = TcpStream::connect(self.target).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) =
            client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request.map(Full::new)).await.map_err(io::Error::other)?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        drop(sender);
        connection.abort();
        Ok(Response::from_parts(head, Full::new(body)))
    }

    /// Forwards `asked`, and names `left` in the answer as not processed.
    async fn forward_in_part(
        &self,
        call: &AwsCall,
        request: Request<Bytes>,
        asked: Value,
        left: Vec<Value>,
    ) -> io::Result<Answer> {
        let (mut head, _) = request.into_parts();
        head.headers.remove(hyper::header::CONTENT_LENGTH);
        let answer = self.forward(Request::from_parts(head, Bytes::from(asked.to_string()))).await?;
        let (mut head, body) = answer.into_parts();
        let answered = body.collect().await.map_err(io::Error::other)?.to_bytes();
        for of_the_body in ["content-length", "x-amz-crc32"] {
            head.headers.remove(of_the_body);
        }
        let body = answers::with_left(call, serde_json::from_slice(&answered)?, &left);
        Ok(Response::from_parts(head, Full::new(Bytes::from(body.to_string()))))
    }
}

impl State {
    fn planned_fault(&mut self, call: &AwsCall, number: usize) -> Option<AwsFault> {
        if let Some((every, faults)) = &self.rate
            && number % every == every - 1
        {
            return faults.get(number / every % faults.len()).copied();
        }
        let plan = self.plan?;
        let same = |first: &AwsCall| (&first.service, &first.action) == (&call.service, &call.action);
        let is_meant = number >= plan.first && self.struck.len() < plan.times && same(self.calls.get(plan.first)?);
        let fails = is_meant && (plan.fault != AwsFault::Partial || call.entries() > 0);
        if fails {
            self.struck.push(number);
        }
        fails.then_some(plan.fault)
    }
}
