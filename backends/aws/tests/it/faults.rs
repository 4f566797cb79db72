//! Every call to AWS fails once: refused, throttled, or worked with its answer lost. Whatever it was, the run starts
//! once, ends once, and is told once.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws::Aws;
use domain::event::{Body, Ended, Event, Report};
use domain::job::Job;
use domain::order::{FORMAT_VERSION, Order};
use domain::ports::{Claim, PortError, PortResult, RunQuery};
use domain::run::Outcome;
use jiff::{SignedDuration, Timestamp};
use rules::Packs;

use crate::emulator::Installation;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A status and an error code; nothing happened.
    Refused(u16, &'static str),
    /// It happened, and the connection ends before the answer.
    AnswerLost,
}

/// HTTP between the SDK and the emulator, one request a connection. Request number `number` meets the fault.
struct FaultyAws {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    target: SocketAddr,
    plan: Mutex<Option<(usize, Fault)>>,
    seen: AtomicUsize,
}

impl FaultyAws {
    fn start(target: SocketAddr) -> FaultyAws {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { target, plan: Mutex::new(None), seen: AtomicUsize::new(0) });
        let served = shared.clone();
        // Ends with the process of the test.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = served.clone();
                // A client that goes away in the middle is its own fault.
                std::thread::spawn(move || serve(&shared, client).ok());
            }
        });
        FaultyAws { address, shared }
    }

    fn plan(&self, plan: Option<(usize, Fault)>) {
        *self.shared.plan.lock().unwrap() = plan;
        self.shared.seen.store(0, Ordering::SeqCst);
    }

    fn seen(&self) -> usize {
        self.shared.seen.load(Ordering::SeqCst)
    }
}

fn serve(shared: &Shared, mut client: TcpStream) -> std::io::Result<()> {
    let request = request_of(&client)?;
    let number = shared.seen.fetch_add(1, Ordering::SeqCst);
    let fault = shared.plan.lock().unwrap().filter(|(at, _)| *at == number).map(|(_, fault)| fault);
    if let Some(Fault::Refused(status, code)) = fault {
        let body = format!("{{\"__type\":\"{code}\",\"message\":\"broken on purpose\"}}");
        return write!(
            client,
            "HTTP/1.1 {status} Broken\r\nContent-Type: application/x-amz-json-1.0\r\nx-amzn-query-error: {code};Receiver\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
    }
    let mut server = TcpStream::connect(shared.target)?;
    server.write_all(&request)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    if fault.is_none() {
        client.write_all(&answer)?;
    }
    Ok(())
}

/// A whole request, asking for the connection to be closed after it.
fn request_of(client: &TcpStream) -> std::io::Result<Vec<u8>> {
    let mut reader = BufReader::new(client);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if line == "\r\n" || line.is_empty() {
            head.push_str("Connection: close\r\n\r\n");
            break;
        }
        if !lower.starts_with("connection:") {
            head.push_str(&line);
        }
    }
    let mut request = head.into_bytes();
    let start = request.len();
    request.resize(start + length, 0);
    reader.read_exact(&mut request[start..])?;
    Ok(request)
}

/// Does it again as long as it may work later, as every duty does.
async fn again<T, F: Future<Output = PortResult<T>>>(what: impl Fn() -> F) -> T {
    for _ in 0..5 {
        match what().await {
            Ok(done) => return done,
            Err(PortError::Retry(_)) => {}
            Err(PortError::Permanent(says)) => panic!("{says}"),
        }
    }
    panic!("it never works");
}

fn port(error: services::Error) -> PortError {
    match error {
        services::Error::Port(error) => error,
        other => PortError::Retry(other.to_string()),
    }
}

fn report(order: &Order, at: Timestamp, body: Body) -> Event {
    Event {
        version: FORMAT_VERSION,
        run_id: order.run_id.clone(),
        group: order.job.group.clone(),
        job: order.job.name.clone(),
        attempt: order.attempt,
        nominal: order.nominal,
        trigger: order.trigger,
        runner: "r1".to_owned(),
        host: "h1".to_owned(),
        at,
        body,
    }
}

fn failed(at: Timestamp) -> Body {
    Body::Finished(Box::new(Report {
        ended: Ended::Exited,
        note: None,
        exit_code: Some(3),
        signal: None,
        started_at: Some(at),
        finished_at: at,
        duration_ms: 1,
        stdout_lines: 0,
        stderr_lines: 0,
        stdout_bytes: 0,
        stderr_bytes: 0,
        last_seq: 0,
        dropped_lines: 0,
        dropped_bytes: 0,
        cpu_ms: None,
        max_rss_bytes: None,
        leaked: Vec::new(),
        rules: Vec::new(),
        rules_digest: String::new(),
        excerpt: Vec::new(),
        outcome: Outcome::Failed,
        reason: "exit code 3".to_owned(),
    }))
}

/// One job from its tick to its alert. How often it was started.
async fn one_run(aws: &Aws, name: &str) -> usize {
    let ports = &aws.ports;
    let tomorrow = (Timestamp::now().as_second() / 86_400 + 1) * 86_400;
    let now = Timestamp::from_second(tomorrow).unwrap();
    let job = Job { schedule: "0 0 * * *".to_owned(), ..contract::samples::job(&contract::samples::key(name)) };
    let before = now - SignedDuration::from_secs(30);
    again(async || services::commands::put(ports, &job, before).await.map(|_| ()).map_err(port)).await;
    again(async || services::scheduler::tick(ports, now).await.map_err(port)).await;

    let (groups, mut started) = (["db".to_owned()], BTreeSet::new());
    let mut starts = 0;
    let lease = Duration::from_secs(1);
    while starts == 0 {
        // An order whose answer was lost comes again after its lease.
        for delivery in again(|| ports.orders.receive(&groups, 10, lease, Duration::from_secs(20))).await {
            let order = delivery.message;
            let claim = again(|| ports.claims.claim(&order.run_key(), order.attempt, "r1", "h1", now)).await;
            again(|| ports.orders.delete(&delivery.receipt)).await;
            if claim == Claim::Granted && started.insert((order.run_id.clone(), order.attempt)) {
                starts += 1;
                let begun = Body::Started { pid: Some(7), command: "dump".to_owned() };
                again(|| ports.reports.send(&[report(&order, now, begun.clone())])).await;
                again(|| ports.reports.send(&[report(&order, now, failed(now))])).await;
            }
        }
    }
    let packs = Packs::builtin();
    let query = RunQuery::of_job(&job.key());
    loop {
        let wait = Duration::from_secs(20);
        let reports = again(|| ports.reports.receive(10, lease, wait)).await;
        again(async || services::collector::collect(ports, &packs, reports.clone(), now).await.map_err(port)).await;
        let runs = again(|| ports.runs.list(&query, None, 10)).await.records;
        assert_eq!(runs.len(), 1, "{runs:?}");
        if !runs[0].record.is_open() {
            assert_eq!(runs[0].record.outcome, Some(Outcome::Failed));
            return starts;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_call_fails_a_run_starts_once_ends_once_and_is_told_once() {
    let Some(installation) = Installation::start(&["db"]).await else { return };
    let target = installation.endpoint();
    let proxy = FaultyAws::start(target);
    let options = aws::Options { endpoint: Some(format!("http://{}", proxy.address)), ..installation.options.clone() };
    let faults =
        [Fault::Refused(500, "InternalServerError"), Fault::Refused(400, "ThrottlingException"), Fault::AnswerLost];
    let aws = aws::connect(&options).await.unwrap();
    proxy.plan(None);
    assert_eq!(one_run(&aws, "no-fault").await, 1);
    let calls = proxy.seen();
    assert!(calls > 15, "{calls}");
    for (number, fault) in (0..calls).flat_map(|call| faults.map(|fault| (call, fault))).enumerate() {
        // A fresh process knows no URL of a queue.
        let aws = aws::connect(&options).await.unwrap();
        proxy.plan(Some(fault));
        assert_eq!(one_run(&aws, &format!("job-{number}")).await, 1, "{fault:?}");
        proxy.plan(None);
        let told = aws.ports.alerts.list(None, 1000).await.unwrap().records;
        let told = told.iter().filter(|transition| transition.job == format!("job-{number}")).count();
        assert_eq!(told, 1, "{fault:?}");
    }
    println!("{calls} calls, each with {} faults", faults.len());
}
