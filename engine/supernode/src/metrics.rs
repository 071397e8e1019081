//! Counters, gauges and histograms, in the text format of Prometheus.
//!
//! Owned by the event loop, which counts in it and sends [`Metrics::render`] to `GET /metrics`. The names are
//! those of Dragonfly, so that its dashboards work. No label has a value that a client chooses: Dragonfly's labels
//! `peer` and `callsystem` would make one set of series for each host. The number of series is fixed, whatever
//! clients send.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// Upper bounds of the buckets of durations of requests, in seconds.
const REQUEST_SECONDS: &[f64] = &[0.1, 0.2, 0.4, 1.0, 3.0, 8.0, 20.0, 60.0, 120.0];
/// Upper bounds of the buckets of sizes of requests and answers, in bytes.
const SIZES: &[f64] = &[1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// Upper bounds of the buckets of the time that one choice of pieces takes, in milliseconds.
const SCHEDULE_MILLIS: &[f64] = &[0.02, 0.04, 0.08, 0.16, 0.32, 0.64];
/// Upper bounds of the buckets of durations of downloads, in seconds.
const DOWNLOAD_SECONDS: &[f64] = &[10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// Longest download that is counted, in seconds: a longer one counts as this. Clients report the duration, and one
/// absurd report would hide all others in the sum.
const DOWNLOAD_SECONDS_MAX: f64 = 7.0 * 86_400.0;
/// The reasons for which Dragonfly's client goes to the origin. Any other number counts as `other`.
const REASONS: &[i64] = &[0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 100];
/// What the client adds to a reason if it may not go to the origin.
const REASON_FORBIDDEN: i64 = 1000;

/// How often values fell into each of several ranges.
#[derive(Clone, Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One count for each bound, and one for the values above all bounds.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Histogram { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    /// Counts one value. Ignores a value that is no number.
    pub fn record(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum += value;
    }

    /// The number of values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// The requests to one route.
#[derive(Clone, Debug)]
struct Handler {
    name: &'static str,
    codes: BTreeMap<u16, u64>,
    duration: Histogram,
    request_size: Histogram,
    response_size: Histogram,
}

/// Numbers of things in each state. A state that the things do not have stays 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByStatus {
    /// Not begun.
    pub waiting: u64,
    /// Running.
    pub running: u64,
    /// Ended well.
    pub success: u64,
    /// Ended badly.
    pub failed: u64,
    /// Ended badly at the origin. Only tasks have this state.
    pub source_error: u64,
}

impl ByStatus {
    fn labels(self) -> [(&'static str, u64); 4] {
        [
            ("WAITING", self.waiting),
            ("RUNNING", self.running),
            ("SUCCESS", self.success),
            ("FAILED", self.failed),
        ]
    }
}

/// Numbers that other parts of the process keep. The event loop collects them for each answer, so that they cannot
/// drift.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Peers.
    pub peers: u64,
    /// Tasks.
    pub tasks: ByStatus,
    /// Downloads by clients.
    pub dfget_tasks: ByStatus,
    /// Downloads asked for in advance.
    pub preheats: ByStatus,
    /// Pulls that wait for a piece.
    pub waiting_pulls: u64,
    /// Open connections of both ports.
    pub connections: u64,
    /// Bytes that have come from origins since the process began. The threads of fetches count them.
    pub origin_bytes: u64,
}

/// The counters of the event loop. They begin at 0 when the process begins.
#[derive(Clone, Debug)]
pub struct Metrics {
    handlers: Vec<Handler>,
    /// New tasks.
    pub tasks_registered: u64,
    /// New downloads by clients.
    pub dfget_tasks_registered: u64,
    /// Downloads by clients that failed.
    pub dfget_tasks_failed: u64,
    /// Time of each choice of pieces for one client, in milliseconds.
    pub schedule_millis: Histogram,
    /// Pieces that were offered to clients.
    pub pieces_scheduled: u64,
    /// Pieces that clients have on their disks.
    pub pieces_stored: u64,
    /// Pieces that clients could not fetch.
    pub pieces_failed: u64,
    /// Pieces whose client did not report in time.
    pub leases_expired: u64,
    /// Times that a fetch was asked for.
    pub cdn_triggers: u64,
    /// Times that a fetch was asked for and could not begin.
    pub cdn_triggers_failed: u64,
    /// Tasks whose file was complete on the disk.
    pub cdn_cache_hits: u64,
    /// Fetches from origins.
    pub cdn_downloads: u64,
    /// Fetches from origins that failed.
    pub cdn_downloads_failed: u64,
    /// Bytes of pieces that port 8001 sent.
    pub pieces_sent_bytes: u64,
    /// Peers that were forgotten.
    pub gc_peers: u64,
    /// Tasks that were forgotten.
    pub gc_tasks: u64,
    /// Files that were deleted to free space.
    pub gc_disks: u64,
    /// When a file was last deleted to free space, in seconds since the epoch; 0 if never.
    pub last_gc_disks_seconds: u64,
    download_seconds: Histogram,
    download_bytes: u64,
    downloads: u64,
    /// Failed downloads by reason: one for each of [`REASONS`], then the others.
    downloads_failed: Vec<u64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            handlers: Vec::new(),
            tasks_registered: 0,
            dfget_tasks_registered: 0,
            dfget_tasks_failed: 0,
            schedule_millis: Histogram::new(SCHEDULE_MILLIS),
            pieces_scheduled: 0,
            pieces_stored: 0,
            pieces_failed: 0,
            leases_expired: 0,
            cdn_triggers: 0,
            cdn_triggers_failed: 0,
            cdn_cache_hits: 0,
            cdn_downloads: 0,
            cdn_downloads_failed: 0,
            pieces_sent_bytes: 0,
            gc_peers: 0,
            gc_tasks: 0,
            gc_disks: 0,
            last_gc_disks_seconds: 0,
            download_seconds: Histogram::new(DOWNLOAD_SECONDS),
            download_bytes: 0,
            downloads: 0,
            downloads_failed: vec![0; REASONS.len() + 1],
        }
    }
}

impl Metrics {
    /// Counts one answered request. `handler` names the route, never the path that a client sent.
    pub fn record_request(
        &mut self,
        handler: &'static str,
        code: u16,
        duration: Duration,
        request_bytes: u64,
        response_bytes: u64,
    ) {
        let at = match self.handlers.iter().position(|known| known.name == handler) {
            Some(at) => at,
            None => {
                self.handlers.push(Handler {
                    name: handler,
                    codes: BTreeMap::new(),
                    duration: Histogram::new(REQUEST_SECONDS),
                    request_size: Histogram::new(SIZES),
                    response_size: Histogram::new(SIZES),
                });
                self.handlers.len() - 1
            }
        };
        let Some(known) = self.handlers.get_mut(at) else { return };
        *known.codes.entry(code).or_default() += 1;
        known.duration.record(duration.as_secs_f64());
        known.request_size.record(request_bytes as f64);
        known.response_size.record(response_bytes as f64);
    }

    /// Counts one download that a client reports at its end. `reason` is why the client went to the origin, as
    /// Dragonfly numbers reasons. All values come from the client, so absurd ones are cut to bounds.
    pub fn record_download(&mut self, is_success: bool, seconds: f64, file_length: i64, reason: i64) {
        self.downloads += 1;
        if !is_success {
            let reason = if reason >= REASON_FORBIDDEN { reason - REASON_FORBIDDEN } else { reason };
            let at = REASONS.iter().position(|known| *known == reason).unwrap_or(REASONS.len());
            if let Some(count) = self.downloads_failed.get_mut(at) {
                *count += 1;
            }
            return;
        }
        if seconds.is_finite() {
            self.download_seconds.record(seconds.clamp(0.0, DOWNLOAD_SECONDS_MAX));
        }
        let bytes = u64::try_from(file_length).unwrap_or(0).min(crate::piece::LENGTH_MAX);
        self.download_bytes = self.download_bytes.wrapping_add(bytes);
    }

    /// The body of the answer to `GET /metrics`: the text format of Prometheus, version 0.0.4.
    pub fn render(&self, gauges: &Gauges) -> String {
        let mut text = Text::default();
        text.family("supernode_build_info", "gauge", "Version of this supernode.");
        text.value("supernode_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        self.render_requests(&mut text);
        self.render_state(&mut text, gauges);
        self.render_counters(&mut text, gauges);
        self.render_downloads(&mut text);
        text.0
    }

    fn render_requests(&self, text: &mut Text) {
        let name = "supernode_http_requests_total";
        text.family(name, "counter", "Answered requests.");
        for handler in &self.handlers {
            for (code, count) in &handler.codes {
                text.value(name, &[("code", &code.to_string()), ("handler", handler.name)], *count);
            }
        }
        type Part = fn(&Handler) -> &Histogram;
        let parts: [(&str, &str, Part); 3] = [
            ("supernode_http_request_duration_seconds", "Time until the answer.", |h| &h.duration),
            ("supernode_http_request_size_bytes", "Sizes of the requests' bodies.", |h| &h.request_size),
            ("supernode_http_response_size_bytes", "Sizes of the answers' bodies.", |h| &h.response_size),
        ];
        for (name, help, part) in parts {
            text.family(name, "histogram", help);
            for handler in &self.handlers {
                text.histogram(name, &[("handler", handler.name)], part(handler));
            }
        }
    }

    fn render_state(&self, text: &mut Text, gauges: &Gauges) {
        let plain = [
            ("supernode_peers", "Peers.", gauges.peers),
            ("supernode_waiting_pulls", "Pulls that wait for a piece.", gauges.waiting_pulls),
            ("supernode_connections", "Open connections.", gauges.connections),
        ];
        for (name, help, value) in plain {
            text.family(name, "gauge", help);
            text.value(name, &[], value);
        }
        let states = [
            ("supernode_tasks", "cdnstatus", "Tasks.", gauges.tasks),
            ("supernode_dfgettasks", "status", "Downloads by clients.", gauges.dfget_tasks),
            ("supernode_preheats", "status", "Downloads asked for in advance.", gauges.preheats),
        ];
        for (name, label, help, by_status) in states {
            text.family(name, "gauge", help);
            for (status, value) in by_status.labels() {
                text.value(name, &[(label, status)], value);
            }
            if label == "cdnstatus" {
                text.value(name, &[(label, "SOURCE_ERROR")], by_status.source_error);
            }
        }
        let name = "supernode_last_gc_disks_timestamp_seconds";
        text.family(name, "gauge", "When a file was last deleted to free space.");
        text.value(name, &[], self.last_gc_disks_seconds);
    }

    fn render_counters(&self, text: &mut Text, gauges: &Gauges) {
        let counters = [
            ("supernode_tasks_registered_total", "New tasks.", self.tasks_registered),
            (
                "supernode_dfgettasks_registered_total",
                "New downloads by clients.",
                self.dfget_tasks_registered,
            ),
            (
                "supernode_dfgettasks_failed_total",
                "Downloads by clients that failed.",
                self.dfget_tasks_failed,
            ),
            ("supernode_pieces_scheduled_total", "Pieces offered to clients.", self.pieces_scheduled),
            ("supernode_pieces_stored_total", "Pieces that clients have on their disks.", self.pieces_stored),
            ("supernode_pieces_failed_total", "Pieces that clients could not fetch.", self.pieces_failed),
            (
                "supernode_leases_expired_total",
                "Pieces whose client did not report in time.",
                self.leases_expired,
            ),
            ("supernode_cdn_trigger_total", "Fetches asked for.", self.cdn_triggers),
            ("supernode_cdn_trigger_failed_total", "Fetches that could not begin.", self.cdn_triggers_failed),
            (
                "supernode_cdn_cache_hit_total",
                "Tasks whose file was complete on the disk.",
                self.cdn_cache_hits,
            ),
            ("supernode_cdn_download_total", "Fetches from origins.", self.cdn_downloads),
            (
                "supernode_cdn_download_failed_total",
                "Fetches from origins that failed.",
                self.cdn_downloads_failed,
            ),
            ("supernode_cdn_download_size_bytes_total", "Bytes from origins.", gauges.origin_bytes),
            (
                "supernode_pieces_downloaded_size_bytes_total",
                "Bytes of pieces sent by this supernode.",
                self.pieces_sent_bytes,
            ),
            ("supernode_gc_peers_total", "Peers forgotten.", self.gc_peers),
            ("supernode_gc_tasks_total", "Tasks forgotten.", self.gc_tasks),
            ("supernode_gc_disks_total", "Files deleted to free space.", self.gc_disks),
        ];
        for (name, help, value) in counters {
            text.family(name, "counter", help);
            text.value(name, &[], value);
        }
        let name = "supernode_schedule_duration_milliseconds";
        text.family(name, "histogram", "Time of one choice of pieces.");
        text.histogram(name, &[], &self.schedule_millis);
    }

    fn render_downloads(&self, text: &mut Text) {
        let name = "dfget_download_duration_seconds";
        text.family(name, "histogram", "Durations of downloads, as clients report them.");
        text.histogram(name, &[], &self.download_seconds);
        let name = "dfget_download_size_bytes_total";
        text.family(name, "counter", "Sizes of downloaded files, as clients report them.");
        text.value(name, &[], self.download_bytes);
        let name = "dfget_download_total";
        text.family(name, "counter", "Downloads that clients report.");
        text.value(name, &[], self.downloads);
        let name = "dfget_download_failed_total";
        text.family(name, "counter", "Failed downloads that clients report.");
        let reasons = REASONS.iter().map(i64::to_string).chain(["other".to_owned()]);
        for (reason, count) in reasons.zip(&self.downloads_failed).filter(|(_, count)| **count > 0) {
            text.value(name, &[("reason", &reason)], *count);
        }
    }
}

/// The text of an answer, while it is written. Writes to a `String` cannot fail, so their results are dropped.
#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP dragonfly_{name} {help}\n# TYPE dragonfly_{name} {kind}");
    }

    /// Writes one sample. The values of the labels contain nothing that needs an escape.
    fn sample(&mut self, name: &str, suffix: &str, labels: &[(&str, &str)], value: f64) {
        let _ = write!(self.0, "dragonfly_{name}{suffix}");
        for (at, (label, of)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"{of}\"", if at == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.sample(name, "", labels, value as f64);
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let mut below = 0;
        let bounds = histogram.bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(&histogram.counts) {
            below += count;
            let labels = [labels, &[("le", bound.as_str())]].concat();
            self.sample(name, "_bucket", &labels, below as f64);
        }
        self.sample(name, "_sum", labels, histogram.sum);
        self.sample(name, "_count", labels, below as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_all_values_up_to_each_bound() {
        let mut metrics = Metrics::default();
        for millis in [0.01, 0.02, 0.021, 5.0, f64::NAN, f64::INFINITY] {
            metrics.schedule_millis.record(millis);
        }
        assert_eq!(metrics.schedule_millis.count(), 4);
        let text = metrics.render(&Gauges { origin_bytes: 5, ..Gauges::default() });
        for line in [
            "dragonfly_supernode_cdn_download_size_bytes_total 5",
            "# TYPE dragonfly_supernode_schedule_duration_milliseconds histogram",
            "dragonfly_supernode_schedule_duration_milliseconds_bucket{le=\"0.02\"} 2",
            "dragonfly_supernode_schedule_duration_milliseconds_bucket{le=\"0.04\"} 3",
            "dragonfly_supernode_schedule_duration_milliseconds_bucket{le=\"0.64\"} 3",
            "dragonfly_supernode_schedule_duration_milliseconds_bucket{le=\"+Inf\"} 4",
            "dragonfly_supernode_schedule_duration_milliseconds_count 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn requests_are_counted_by_route_and_status() {
        let mut metrics = Metrics::default();
        for (handler, code) in
            [("/peer/task", 200), ("/peer/task", 200), ("/peer/task", 500), ("/_ping", 200)]
        {
            metrics.record_request(handler, code, Duration::from_millis(150), 0, 2_000);
        }
        let text = metrics.render(&Gauges::default());
        for line in [
            "dragonfly_supernode_http_requests_total{code=\"200\",handler=\"/peer/task\"} 2",
            "dragonfly_supernode_http_requests_total{code=\"500\",handler=\"/peer/task\"} 1",
            "dragonfly_supernode_http_request_duration_seconds_bucket{handler=\"/_ping\",le=\"0.2\"} 1",
            "dragonfly_supernode_http_request_size_bytes_bucket{handler=\"/_ping\",le=\"100\"} 1",
            "dragonfly_supernode_http_response_size_bytes_bucket{handler=\"/peer/task\",le=\"1000\"} 0",
            "dragonfly_supernode_http_response_size_bytes_sum{handler=\"/peer/task\"} 6000",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn no_report_of_a_client_adds_a_series_or_breaks_a_sum() {
        let mut metrics = Metrics::default();
        metrics.record_download(true, 12.5, 1000, 0);
        let lines = metrics.render(&Gauges::default()).lines().count();
        for (seconds, length) in [(f64::NAN, -1), (1e300, i64::MIN), (-5.0, 0), (f64::INFINITY, 5)] {
            metrics.record_download(true, seconds, length, 77);
        }
        let text = metrics.render(&Gauges::default());
        assert_eq!(text.lines().count(), lines);
        assert!(text.contains("\ndragonfly_dfget_download_size_bytes_total 1005\n"), "{text}");
        assert!(text.contains("\ndragonfly_dfget_download_duration_seconds_sum 604812.5\n"), "{text}");
        for reason in [3, 1003, -9, i64::MAX, i64::MIN] {
            metrics.record_download(false, 1.0, 1, reason);
        }
        let text = metrics.render(&Gauges::default());
        assert!(text.contains("\ndragonfly_dfget_download_failed_total{reason=\"3\"} 2\n"), "{text}");
        assert!(text.contains("\ndragonfly_dfget_download_failed_total{reason=\"other\"} 3\n"), "{text}");
        assert!(text.contains("\ndragonfly_dfget_download_total 10\n"), "{text}");
    }

    #[test]
    fn only_tasks_have_source_errors() {
        let all = ByStatus { waiting: 1, running: 2, success: 3, failed: 4, source_error: 5 };
        let gauges = Gauges { tasks: all, dfget_tasks: all, peers: 7, ..Gauges::default() };
        let text = Metrics::default().render(&gauges);
        assert_eq!(text.matches("SOURCE_ERROR").count(), 1);
        assert!(text.contains("\ndragonfly_supernode_tasks{cdnstatus=\"SOURCE_ERROR\"} 5\n"), "{text}");
        assert!(text.contains("\ndragonfly_supernode_dfgettasks{status=\"RUNNING\"} 2\n"), "{text}");
        assert!(text.contains("\ndragonfly_supernode_peers 7\n"), "{text}");
    }

    #[test]
    fn each_line_is_one_of_the_text_format() {
        let mut metrics = Metrics::default();
        metrics.record_request("/peer/registry", 200, Duration::from_millis(1), 300, 200);
        metrics.record_download(false, 1.0, 1, 3);
        let text = metrics.render(&Gauges::default());
        let mut family = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                family = rest.split(' ').next().expect("a name");
            } else if !line.starts_with("# HELP ") {
                let (series, value) = line.rsplit_once(' ').expect("a value");
                assert!(series.starts_with(family) && value.parse::<f64>().is_ok(), "{line}");
            }
        }
        assert!(text.ends_with('\n'));
    }
}
