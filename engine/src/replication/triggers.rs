//! The policies of replication, and what starts them: the clock, and events of images on this host.
//!
//! [`Policies`] is owned by the event loop, which asks it what is due. Events come from monitord over a subscription
//! with a cursor in a file, on a thread of its own: an event that came while the engine was down is caught up. An event
//! counts as seen once its execution is in a journal. Only facts trigger, never events that other programs emit.

use sampan_ipc::event::{Event, Origin};
use sampan_ipc::replication::{Options, Trigger as Cause};
use sampan_ipc::report;
use sampan_ipc::subscription::{Item, Watch};
use sampan_oci::reference::Reference;
use sampan_replication::policy::file::{EventKind, Trigger};
use sampan_replication::policy::place_name::PlaceName;
use sampan_replication::policy::{self, Policy, PolicyError};
use sampan_replication::record::{Order, Selection};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Stack of the thread that waits for events, in bytes.
const STACK: usize = 256 << 10;

/// The policies, with the times of their next runs.
pub struct Policies {
    dir: PathBuf,
    policies: Vec<Policy>,
    errors: Vec<PolicyError>,
    /// When each policy with a schedule runs next, in nanoseconds since the epoch.
    next: HashMap<String, i64>,
}

impl Policies {
    /// Reads the directory of policies at the time `now`, in nanoseconds since the epoch. Logs each file that cannot be
    /// used.
    pub fn load(dir: &Path, now: i64) -> Self {
        let mut policies =
            Policies { dir: dir.to_owned(), policies: Vec::new(), errors: Vec::new(), next: HashMap::new() };
        policies.reload(now);
        policies
    }

    /// Reads the directory again. Policies whose schedule is as before keep the time of their next run.
    pub fn reload(&mut self, now: i64) {
        let (policies, errors) = policy::load(&self.dir);
        for error in &errors {
            log::error!("this replication policy is not used: {}", report::chain(error));
        }
        let same = |policy: &Policy| {
            self.policies.iter().any(|old| old.name == policy.name && old.trigger == policy.trigger)
        };
        let next = policies.iter().filter_map(|policy| {
            let Trigger::Cron(schedule) = &policy.trigger else { return None };
            let kept = self.next.get(&policy.name).copied().filter(|_| same(policy));
            Some((policy.name.clone(), kept.or_else(|| schedule.next(now))?))
        });
        self.next = next.collect();
        (self.policies, self.errors) = (policies, errors);
    }

    /// All policies.
    pub fn all(&self) -> &[Policy] {
        &self.policies
    }

    /// The files that cannot be used.
    pub fn errors(&self) -> &[PolicyError] {
        &self.errors
    }

    /// The policy of this name.
    pub fn get(&self, name: &str) -> Option<&Policy> {
        self.policies.iter().find(|policy| policy.name == name)
    }

    /// When the policy runs next, in nanoseconds since the epoch; `None` without a schedule, or if it is disabled.
    pub fn next_of(&self, policy: &Policy) -> Option<i64> {
        self.next.get(&policy.name).copied().filter(|_| policy.enabled)
    }

    /// The time from `now` until the next policy is due.
    pub fn wait(&self, now: i64) -> Option<Duration> {
        let next = self.policies.iter().filter_map(|policy| self.next_of(policy)).min()?;
        Some(Duration::from_nanos(u64::try_from(next.saturating_sub(now)).unwrap_or_default()))
    }

    /// The orders of all policies that are due at `now`. A policy whose time came several times runs once.
    pub fn due(&mut self, now: i64) -> Vec<Order> {
        let mut orders = Vec::new();
        for policy in self.policies.iter().filter(|policy| policy.enabled) {
            let Trigger::Cron(schedule) = &policy.trigger else { continue };
            let Some(next) = self.next.get_mut(&policy.name).filter(|next| **next <= now) else { continue };
            *next = schedule.next(now).unwrap_or(i64::MAX);
            orders.push(order(policy, Cause::Cron, Vec::new()));
        }
        orders
    }

    /// Whether an enabled policy waits for events.
    pub fn wants_events(&self) -> bool {
        self.policies.iter().any(|policy| policy.enabled && matches!(policy.trigger, Trigger::Event(_)))
    }

    /// The orders of all policies that this event starts, each for the event's image alone.
    pub fn started_by(&self, image: &ImageEvent) -> Vec<Order> {
        let ImageEvent { seq, action, name, is_copy } = image;
        let Ok(reference) = Reference::parse(name) else { return Vec::new() };
        let tag = reference.target();
        let mut orders = Vec::new();
        for policy in self.policies.iter().filter(|policy| policy.enabled) {
            let Trigger::Event(kinds) = &policy.trigger else { continue };
            if !kinds.iter().any(|kind| kind.word() == *action) || !policy.filter.has_tag(&tag) {
                continue;
            }
            let repository = match &policy.source {
                PlaceName::Registry { host, .. } if host == reference.host() => reference.path().to_owned(),
                // What a replication has copied between registries is not in the store.
                PlaceName::Store if !is_copy => reference.name(),
                _ => continue,
            };
            if policy.has_repository(&repository) {
                let only = vec![Selection { repository, artifacts: vec![tag.clone()] }];
                orders.push(order(policy, Cause::Event(*seq), only));
            }
        }
        orders
    }
}

/// The order of one run of a policy.
pub fn order(policy: &Policy, trigger: Cause, only: Vec<Selection>) -> Order {
    let options: Options = policy.options();
    Order {
        policy: policy.name.clone(),
        source: policy.source.to_string(),
        destination: policy.destination.to_string(),
        options,
        trigger,
        credentials: Vec::new(),
        policy_text: policy.text.clone(),
        only,
    }
}

/// An image was pushed, pulled or loaded on this host.
pub struct ImageEvent {
    /// The event's sequence number.
    pub seq: u64,
    /// `push`, `pull` or `load`.
    pub action: String,
    /// The image's name.
    pub name: String,
    /// Whether a replication has pushed it, from wherever it came.
    pub is_copy: bool,
}

/// Starts the thread that waits for events of images. Returns whether the thread runs.
///
/// The thread calls `on_image` for each event; `on_image` returns once the event's executions are in their journals.
pub fn watch_images(socket: &Path, cursor: &Path, on_image: impl Fn(ImageEvent) + Send + 'static) -> bool {
    let mut watch =
        Watch::new().socket(socket).filter("type=image").cursor_file(cursor).cursor_interval(Duration::ZERO);
    for kind in EventKind::ALL {
        watch = watch.filter(format!("event={}", kind.word()));
    }
    let run = move || {
        let subscription = match watch.start() {
            Ok(subscription) => subscription,
            Err(error) => return log::error!("no event starts a replication: {}", report::chain(&error)),
        };
        let mut subscription = subscription;
        while let Some(item) = subscription.next() {
            match item {
                Ok(Item::Event(event)) => {
                    on_event(&event, &on_image);
                    if let Err(error) = subscription.commit(event.seq) {
                        log::warn!("an event may start a replication again: {}", report::chain(&error));
                    }
                }
                Ok(Item::Lost { first, last }) => {
                    log::warn!("events {first} to {last} are lost, and started no replication");
                }
                Ok(Item::Replaced { .. }) => {
                    log::warn!("the journal of events is new: replication reads it from its beginning")
                }
                Err(error) => {
                    return log::error!("no further event starts a replication: {}", report::chain(&error));
                }
            }
        }
    };
    match sampan_os::thread::spawn("triggers", STACK, run) {
        Ok(_) => true,
        Err(error) => {
            log::error!("no event starts a replication, because no thread can be started: {error}");
            false
        }
    }
}

fn on_event(event: &Event, on_image: &impl Fn(ImageEvent)) {
    // An event that any program can emit must not move images.
    if event.origin == Origin::Facts {
        on_image(ImageEvent {
            seq: event.seq,
            action: event.action.clone(),
            name: event.attributes.get("name").unwrap_or(&event.id).to_owned(),
            is_copy: event.attributes.get("execution").is_some(),
        });
    }
}
