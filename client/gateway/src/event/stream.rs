//! `GET /events`.
//!
//! monitord keeps the place of each client as a cursor in its journal, so a client that does not read costs one buffer
//! here, and nothing is dropped for it. The answer begins when monitord has accepted the subscription: an event that
//! happens after the client has the headers is not missed.

use crate::call::{self, Call, Started};
use crate::event::filter::Filter;
use crate::event::format::{self, Format};
use crate::event::request::EventsRequest;
use crate::exchange::{Exchange, Operation, Progress, Shared};
use crate::refusal::Refusal;
use mio::Interest;
use sampan_client::WatchError;
use sampan_client::docker::event::{Event, Frame, Journal};
use sampan_http::answer::Answer;
use sampan_ipc::event_stream::{EventStream, Next};
use sampan_ipc::watch::{Lineage, Reason};
use sampan_ipc::{report, time};
use std::time::{Duration, Instant};

/// Most events that one client gets before the other clients have their turn.
const TURN_EVENTS: usize = 128;
/// After this time without an event, a client of server-sent events gets a comment, so that proxies keep the connection.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Starts the operation.
///
/// # Errors
/// The request is not valid.
pub fn start(call: &Call<'_>, shared: &mut Shared) -> call::Result {
    let minor = call.version.minor;
    let request = EventsRequest::read(&call.query, call.request.headers(), minor, time::now())?;
    let resumes = request.subscribe.lineage.map(Journal);
    Ok(Started::Operation(Box::new(EventsOperation {
        events: EventStream::new(shared.paths.events_socket(), request.subscribe),
        filter: request.filter,
        format: request.format,
        frame: Frame { seq: 0, journal: resumes.unwrap_or_default(), minor },
        message: Vec::new(),
        heartbeat_at: None,
        has_room: true,
    })))
}

fn head(format: Format) -> Answer {
    let mut head = Answer::new(200, format.media_type(), "");
    if format == Format::ServerSent {
        head.headers.push(("cache-control", "no-cache".to_owned()));
    }
    head
}

struct EventsOperation {
    events: EventStream,
    filter: Filter,
    format: Format,
    /// The journal to which the client's numbers belong, and the API version. `seq` is set for each event.
    frame: Frame,
    message: Vec<u8>,
    /// When the client must get a comment, if it is a client of server-sent events.
    heartbeat_at: Option<Instant>,
    /// Whether the client has taken enough to get more.
    has_room: bool,
}

impl Operation for EventsOperation {
    fn step(&mut self, exchange: &mut Exchange<'_>) -> Result<Progress, Refusal> {
        for _ in 0..TURN_EVENTS {
            self.has_room = exchange.room() > 0;
            if !self.has_room {
                return Ok(Progress::Waits);
            }
            match self.events.next_item().map_err(refuse)? {
                Next::Connected(fd) => exchange.watch(&fd, Interest::READABLE)?,
                Next::Subscribed(lineage) => self.begin(lineage, exchange),
                Next::Event(view, seq) => {
                    let event = Event::of_view(&view, Frame { seq, ..self.frame });
                    if self.filter.matches(&event) {
                        self.format.write(&event, &mut self.message);
                        exchange.send(&self.message);
                        self.heartbeat_at = heartbeat(self.format);
                    }
                }
                // A client that filters must know of a loss, too.
                Next::Lost { first, last } => {
                    let frame = Frame { seq: last, ..self.frame };
                    self.send(&Event::lost(first, time::now(), frame), exchange);
                }
                Next::Nothing => {
                    self.keep_alive(exchange);
                    // An idle client holds no buffer.
                    self.message = Vec::new();
                    return Ok(Progress::Waits);
                }
                Next::End => return Ok(exchange.finish()),
            }
        }
        Ok(Progress::Again)
    }

    fn deadline(&self) -> Option<Instant> {
        let deadlines = [self.events.retry_at(), self.heartbeat_at];
        // Without room nothing can be done at any time.
        deadlines.into_iter().flatten().min().filter(|_| self.has_room)
    }
}

impl EventsOperation {
    /// Begins the answer, or tells the client of another journal than its last one.
    fn begin(&mut self, lineage: Lineage, exchange: &mut Exchange<'_>) {
        let (previous, journal) = (self.frame.journal, Journal(lineage.id));
        self.frame.journal = journal;
        if !exchange.has_begun() {
            exchange.begin(&head(self.format));
            self.heartbeat_at = heartbeat(self.format);
            if self.format == Format::ServerSent
                && let Some(place) = self.events.place()
            {
                exchange.send(format::place_message(place).as_bytes());
            }
        }
        if lineage.replaced {
            let frame = Frame { seq: lineage.after, ..self.frame };
            self.send(&Event::replaced(previous, time::now(), frame), exchange);
        }
    }

    fn send(&mut self, event: &Event<'_>, exchange: &mut Exchange<'_>) {
        self.format.write(event, &mut self.message);
        exchange.send(&self.message);
        self.heartbeat_at = heartbeat(self.format);
    }

    fn keep_alive(&mut self, exchange: &mut Exchange<'_>) {
        if self.heartbeat_at.is_some_and(|at| at <= Instant::now()) {
            exchange.send(b": heartbeat\n\n");
            self.heartbeat_at = heartbeat(self.format);
        }
    }
}

fn heartbeat(format: Format) -> Option<Instant> {
    (format == Format::ServerSent).then(|| Instant::now() + HEARTBEAT)
}

fn refuse(error: WatchError) -> Refusal {
    let status = match &error {
        WatchError::Connect { .. } => 503,
        WatchError::Refused(refusal) => match refusal.reason {
            Reason::Limit => 503,
            Reason::Argument => 400,
            Reason::Version | Reason::Request | Reason::Ahead => 500,
        },
        _ => 500,
    };
    Refusal::new(status, report::chain(&error))
}
