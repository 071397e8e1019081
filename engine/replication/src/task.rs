//! One task: the artifacts of one repository, driven by the state machine of [`crate::table`].
//!
//! Runs on one thread of its execution. Each handler works in one state and says what follows. Every transition is in
//! the journal before its state's work begins. An artifact that fails does not fail the others. A failure that another
//! attempt may cure leads to `retrying`, where the task waits; after the last attempt the artifact fails.

use crate::attempts;
use crate::blob::Sides;
use crate::copy::{Copier, Place, absent};
use crate::machine::{Handler, Machine, Next};
use crate::record::{ArtifactNews, Record};
use crate::run::{Halt, Run};
use crate::side::{FailureKind, Manifest, SideError};
use crate::table;
use crate::tree::{self, Filtered, Tree};
use sampan_ipc::replication::{Artifact, Bytes, LastError, Operation, Outcome, State, artifact_name};
use sampan_oci::digest::Digest;
use sampan_os::mutex::lock;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};

/// How often an artifact is read again because its tag moved while it was copied.
const MOVED_MAX: u32 = 2;

/// Lists artifacts, as source and target.
type Select<'a> = dyn Fn(&Sides) -> Result<Vec<(String, String)>, Halt> + Sync + 'a;

/// What a task needs besides its execution.
pub(crate) struct TaskOrder<'a> {
    /// The task's number.
    pub(crate) index: u32,
    /// What the task does.
    pub(crate) operation: Operation,
    /// Opens both repositories.
    pub(crate) open: &'a (dyn Fn() -> Result<Sides, SideError> + Sync),
    /// Lists the artifacts, as source and target, if none are planned.
    pub(crate) select: &'a Select<'a>,
    /// Told about each state that the task enters.
    pub(crate) on_state: &'a (dyn Fn(State) -> Result<(), Halt> + Sync),
    /// Set while the engine ends: the task then leaves its state as it is, for the next engine.
    pub(crate) is_suspended: &'a AtomicBool,
}

/// What the handlers of one task work on.
pub(crate) struct Task<'a> {
    run: &'a Run<'a>,
    order: TaskOrder<'a>,
    copier: Option<Copier<'a>>,
    current: Option<Current>,
    /// Numbers of artifacts without a decision, in the order of their turns.
    queue: VecDeque<u32>,
    /// Number of attempts that have failed.
    failed: usize,
    /// The failure that the next transition records.
    error: LastError,
}

/// The artifact that is being copied.
struct Current {
    at: Place,
    source: String,
    target: String,
    tree: Tree,
    /// The digest under which the source has the artifact; its manifest may have been rewritten.
    source_digest: Digest,
    /// Why its blobs could not be copied.
    failure: Option<Halt>,
    notes: Vec<String>,
}

type TaskHandler<'a> = Box<dyn Handler<State, Task<'a>, Halt>>;

/// Runs a task until it has ended, or until the engine ends.
///
/// # Errors
/// [`Halt::Stopped`]: the engine ends, and the journal has the task's state for the next one.
pub(crate) fn run<'a>(
    run: &'a Run<'a>,
    order: TaskOrder<'a>,
    on_machine: &dyn Fn(crate::machine::Desired<State>),
) -> Result<(), Halt> {
    let mut machine = machine(order.operation);
    on_machine(machine.desired());
    let mut task = Task {
        run,
        order,
        copier: None,
        current: None,
        queue: VecDeque::new(),
        failed: 0,
        error: LastError::default(),
    };
    machine.start(&mut task, State::Running)
}

/// Builds the machine from the table.
fn machine<'a>(operation: Operation) -> Machine<State, Task<'a>, Halt> {
    let mut machine = Machine::new(State::Pending, |halt: &Halt| match halt {
        halt if halt.is_temporary() => State::Retrying,
        _ => State::Error,
    });
    for (from, to) in table::edges(operation) {
        machine.add_transition(from, to, handler(to));
    }
    for state in table::FORCED {
        machine.add_forced(state, handler(state));
    }
    machine.observe(|task: &mut Task<'a>, _, to| task.on_transition(to));
    machine
}

fn handler<'a>(state: State) -> TaskHandler<'a> {
    match state {
        State::Initialize => Box::new(Initialize),
        State::Check => Box::new(Check),
        State::PullManifest => Box::new(PullManifest),
        State::TransferBlob => Box::new(TransferBlob),
        State::PushManifest => Box::new(PushManifest),
        State::Delete => Box::new(Delete),
        State::Retrying => Box::new(Retrying),
        State::Pending | State::Running => Box::new(Pass),
        State::Finished | State::Stopped | State::Canceled | State::Error | State::Skipped => Box::new(Final),
    }
}

/// Only passes on: the transition itself is the work.
struct Pass;
/// Ends the machine.
struct Final;
/// Waits for the next attempt.
struct Retrying;
/// Opens both sides, and lists the artifacts.
struct Initialize;
/// Checks the destination.
struct Check;
/// Finds the next artifact that must be copied.
struct PullManifest;
/// Copies its blobs.
struct TransferBlob;
/// Sends its manifests.
struct PushManifest;
/// Deletes all artifacts at the destination.
struct Delete;

impl<'a> Handler<State, Task<'a>, Halt> for Pass {
    fn enter(&mut self, _: &mut Task<'a>) -> Result<Next<State>, Halt> {
        Ok(Next::Continue)
    }
}

impl<'a> Handler<State, Task<'a>, Halt> for Final {
    fn enter(&mut self, _: &mut Task<'a>) -> Result<Next<State>, Halt> {
        Ok(Next::End)
    }
}

impl<'a> Handler<State, Task<'a>, Halt> for Retrying {
    fn enter(&mut self, task: &mut Task<'a>) -> Result<Next<State>, Halt> {
        task.failed += 1;
        let Some(wait) = attempts::task_wait(task.failed) else { return Ok(Next::To(State::Error)) };
        let (index, seconds) = (task.order.index.to_string(), wait.as_secs().to_string());
        task.run
            .events
            .job("retry", &[("task", &index), ("wait", &seconds), ("reason", &task.error.message)]);
        task.run.soft.wait(wait)?;
        Ok(Next::Continue)
    }
}

impl<'a> Handler<State, Task<'a>, Halt> for Initialize {
    fn enter(&mut self, task: &mut Task<'a>) -> Result<Next<State>, Halt> {
        let opened = task.open();
        task.noted(opened)?;
        let Some(copier) = &task.copier else { return Ok(Next::Continue) };
        let index = task.order.index;
        if task.artifacts(|artifacts| artifacts.is_empty()) {
            let found = (task.order.select)(&copier.sides);
            let found = task.noted(found)?;
            Record::artifacts(index, &found).try_for_each(|record| task.run.record(record))?;
            task.run.rows.artifacts(found.len() as u64, 0);
        }
        Ok(Next::Continue)
    }
}

impl<'a> Handler<State, Task<'a>, Halt> for Check {
    fn enter(&mut self, task: &mut Task<'a>) -> Result<Next<State>, Halt> {
        if let Some(copier) = task.copier.as_ref().filter(|_| !task.run.order.options.dry_run) {
            let about = format!("right to write to {}", copier.sides.destination.name());
            let checked = task.run.persist(&about, || copier.sides.destination.check_writable());
            task.noted(checked)?;
        }
        Ok(Next::Continue)
    }
}

impl<'a> Handler<State, Task<'a>, Halt> for PullManifest {
    fn enter(&mut self, task: &mut Task<'a>) -> Result<Next<State>, Halt> {
        while let Some((number, artifact)) = task.next_artifact() {
            task.run.check()?;
            let at = task.place(number);
            match task.plan(at, &artifact) {
                Ok(Some(current)) => {
                    task.current = Some(current);
                    return Ok(Next::To(State::TransferBlob));
                }
                Ok(None) => {}
                Err(halt) => task.fail_artifact(at, halt)?,
            }
        }
        Ok(Next::To(task.outcome()))
    }
}

impl<'a> Handler<State, Task<'a>, Halt> for TransferBlob {
    fn enter(&mut self, task: &mut Task<'a>) -> Result<Next<State>, Halt> {
        let Some(mut current) = task.current.take() else { return Ok(Next::Continue) };
        let Some(copier) = &task.copier else { return Ok(Next::Continue) };
        match copier.copy_blobs(current.at, &current.tree) {
            Ok(0) => {}
            Ok(left_out) => current.notes.push(format!("{left_out} foreign layers are not at the source")),
            Err(Halt::Stopped) => return Err(Halt::Stopped),
            // `push_manifest` leaves the artifact, so that the next one follows.
            Err(halt) => current.failure = Some(halt),
        }
        task.current = Some(current);
        Ok(Next::Continue)
    }
}

impl<'a> Handler<State, Task<'a>, Halt> for PushManifest {
    fn enter(&mut self, task: &mut Task<'a>) -> Result<Next<State>, Halt> {
        let Some(mut current) = task.current.take() else { return Ok(Next::Continue) };
        let at = current.at;
        let pushed = match current.failure.take() {
            Some(halt) => Err(halt),
            None => task.push(&mut current),
        };
        match pushed {
            Ok(()) => {}
            Err(Halt::Stopped) => return Err(Halt::Stopped),
            Err(halt) => task.fail_artifact(at, halt)?,
        }
        Ok(Next::Continue)
    }
}

impl<'a> Handler<State, Task<'a>, Halt> for Delete {
    fn enter(&mut self, task: &mut Task<'a>) -> Result<Next<State>, Halt> {
        let opened = task.open();
        task.noted(opened)?;
        let digests = task.tag_digests();
        while let Some((number, artifact)) = task.next_artifact() {
            task.run.check()?;
            let at = task.place(number);
            match task.delete(&artifact, &digests) {
                Ok(outcome) => task.end_artifact(at, outcome, &[])?,
                Err(halt) => task.fail_artifact(at, halt)?,
            }
        }
        Ok(Next::To(task.outcome()))
    }
}

impl<'a> Task<'a> {
    /// Records a transition. Fails while the engine ends, so that the journal keeps the state before.
    fn on_transition(&mut self, to: State) -> Result<(), Halt> {
        if self.order.is_suspended.load(Ordering::SeqCst) {
            return Err(Halt::Stopped);
        }
        let error = std::mem::take(&mut self.error);
        self.run.record(Record::Task { task: self.order.index, state: to, error: error.clone() })?;
        if to == State::Retrying {
            self.error = error;
        }
        (self.order.on_state)(to)
    }

    /// Keeps a failure for the transition that follows it.
    fn noted<T>(&mut self, result: Result<T, Halt>) -> Result<T, Halt> {
        if let Err(halt) = &result {
            self.error = halt.last_error();
        }
        result
    }

    fn open(&mut self) -> Result<(), Halt> {
        // Opened anew for each attempt: the place may be another stick by now.
        let sides = (self.order.open)()?;
        self.copier = Some(Copier { run: self.run, sides, present: Default::default() });
        self.queue.clear();
        Ok(())
    }

    fn artifacts<T>(&self, read: impl FnOnce(&[Artifact]) -> T) -> T {
        self.run.journal.read(|model| {
            let task = model.tasks.get(self.order.index as usize);
            read(task.map_or(&[], |task| &task.artifacts))
        })
    }

    /// The next artifact without a decision: those that have not failed before come first.
    fn next_artifact(&mut self) -> Option<(u32, Artifact)> {
        // A tag that moved is undecided again, so that the queue is filled until nothing is left.
        if self.queue.is_empty() {
            let mut pending = self.artifacts(|artifacts| {
                let pending = artifacts.iter().zip(0..).filter(|(a, _)| a.state == State::Pending);
                pending.map(|(artifact, number)| (artifact.attempts, number)).collect::<Vec<_>>()
            });
            pending.sort_unstable();
            self.queue = pending.into_iter().map(|(_, number)| number).collect();
        }
        let number = self.queue.pop_front()?;
        let artifact = self.artifacts(|artifacts| artifacts.get(number as usize).cloned())?;
        Some((number, artifact))
    }

    fn place(&self, artifact: u32) -> Place {
        let task = self.order.index;
        let attempt = self.run.journal.read(|model| model.tasks.get(task as usize).map(|t| t.task.attempts));
        Place { task, attempt: attempt.unwrap_or_default(), artifact }
    }

    /// Decides what must be done for an artifact; `None` if it is decided.
    fn plan(&self, at: Place, artifact: &Artifact) -> Result<Option<Current>, Halt> {
        let Some(copier) = &self.copier else { return Ok(None) };
        let (run, options) = (self.run, &self.run.order.options);
        let (from, to) = (&copier.sides.source, &copier.sides.destination);
        let (source, target) = (&artifact.source, &artifact.target);
        self.news(at, ArtifactNews { state: State::PullManifest, ..ArtifactNews::default() })?;
        let about = |name: &str, target: &str| format!("manifest {target} of {name}");
        let there = run.persist(&about(&to.name(), target), || to.head(target))?;
        let there = there.map(|head| head.digest);
        let head = run.persist(&about(&from.name(), source), || from.head(source))?;
        let Some(head) = head else { return Err(absent(from.as_ref(), source)) };
        let is_equal = |digest: &Digest| there.as_ref().is_some_and(|there| there.as_ref() == Some(digest));
        if let Some(digest) = head.digest.as_ref().filter(|digest| is_equal(digest) && !options.verify) {
            self.news(at, ArtifactNews { digest: Some(digest.to_string()), ..self.pulling() })?;
            if options.referrers && !options.dry_run {
                self.referrers_of(copier, at, digest)?;
            }
            self.end_artifact(at, Outcome::Unchanged, &[])?;
            return Ok(None);
        }
        // By digest, if it is known: the tag may move between two requests.
        let exact = head.digest.as_ref().filter(|_| !from.is_local());
        let exact = exact.map_or_else(|| source.clone(), Digest::to_string);
        let manifest = run.persist(&about(&from.name(), source), || from.manifest(&exact))?;
        let source_digest = manifest.digest.clone();
        let (root, only) = match tree::filter(run, &copier.sides, manifest)? {
            Filtered::Copy(root, only) => (root, only),
            Filtered::Other(why) => {
                self.end_artifact(at, Outcome::Skipped, &[why])?;
                return Ok(None);
            }
        };
        let digest = Some(root.digest.to_string());
        self.news(at, ArtifactNews { digest, ..self.pulling() })?;
        if is_equal(&root.digest) && !options.verify {
            self.end_artifact(at, Outcome::Unchanged, &[])?;
            return Ok(None);
        }
        if options.keep_existing && there.is_some() && !is_equal(&root.digest) {
            let note = "the destination has another artifact of this name, which may not be replaced";
            self.end_artifact(at, Outcome::Skipped, &[note.to_owned()])?;
            return Ok(None);
        }
        let current = self.read_tree(copier, at, artifact, (root, source_digest), only.as_ref())?;
        let bytes = Bytes { total: current.tree.size(), ..Bytes::default() };
        self.news(at, ArtifactNews { bytes: Some(bytes), ..self.pulling() })?;
        if options.dry_run {
            self.estimate(copier, at, &current.tree)?;
            self.end_artifact(at, Outcome::Copied, &current.notes)?;
            return Ok(None);
        }
        run.rows.to_send(current.tree.size());
        self.news(at, ArtifactNews { state: State::TransferBlob, ..ArtifactNews::default() })?;
        Ok(Some(current))
    }

    fn pulling(&self) -> ArtifactNews {
        ArtifactNews { state: State::PullManifest, ..ArtifactNews::default() }
    }

    fn read_tree(
        &self,
        copier: &Copier<'_>,
        at: Place,
        artifact: &Artifact,
        (root, source_digest): (Manifest, Digest),
        only: Option<&HashSet<Digest>>,
    ) -> Result<Current, Halt> {
        let is_present = |digest: &Digest| copier.has_manifest(digest);
        let tree = tree::read(self.run, &copier.sides, root, only, &is_present)?;
        let mut notes = Vec::new();
        if tree.missing > 0 {
            notes.push(format!("the index names {} manifests that are not at the source", tree.missing));
        }
        Ok(Current {
            at,
            source: artifact.source.clone(),
            target: artifact.target.clone(),
            tree,
            source_digest,
            failure: None,
            notes,
        })
    }

    /// Counts, for a plan, which blobs would be sent, and which are there or can be mounted.
    fn estimate(&self, copier: &Copier<'_>, at: Place, tree: &Tree) -> Result<(), Halt> {
        let to = &copier.sides.destination;
        let mut bytes = Bytes { total: tree.size(), ..Bytes::default() };
        for blob in &tree.blobs {
            self.run.check()?;
            // A blob that an earlier artifact of this plan brings is counted once.
            let is_new = lock(&copier.present).insert(blob.digest.clone());
            let about = format!("blob {} of {}", blob.digest, to.name());
            if !is_new || self.run.persist(&about, || to.has_blob(blob))? {
                bytes.skipped += blob.size;
            } else if self.run.is_same_place
                || !self.run.known.repositories_with(&blob.digest.to_string(), 1).is_empty()
            {
                bytes.mounted += blob.size;
            }
        }
        self.news(at, ArtifactNews { bytes: Some(bytes), ..self.pulling() })
    }

    /// Sends the manifests of the current artifact, unless its tag has moved at the source.
    fn push(&self, current: &mut Current) -> Result<(), Halt> {
        let Some(copier) = &self.copier else { return Ok(()) };
        let (run, at) = (self.run, current.at);
        self.news(at, ArtifactNews { state: State::PushManifest, ..ArtifactNews::default() })?;
        let from = &copier.sides.source;
        if Digest::parse(&current.source).is_err() {
            let about = format!("manifest {} of {}", current.source, from.name());
            let head = run.persist(&about, || from.head(&current.source))?;
            let now = head.and_then(|head| head.digest).unwrap_or_else(|| current.source_digest.clone());
            if now != current.source_digest {
                if self.attempts_of(at) <= MOVED_MAX {
                    log::info!(
                        "replication {}: {about} has moved to {now}: copies it again",
                        run.journal.id()
                    );
                    return self.news(at, ArtifactNews { state: State::Pending, ..ArtifactNews::default() });
                }
                current.notes.push(format!("the source's tag has moved to {now} meanwhile"));
            }
        }
        copier.push_manifests(at, &current.tree, &current.target)?;
        if run.order.options.referrers {
            copier.copy_referrers(at, &current.tree)?;
        }
        self.end_artifact(at, Outcome::Copied, &current.notes)?;
        let to = &copier.sides.destination;
        let digest = current.tree.nodes.last().map(|node| node.manifest.digest.to_string());
        let (name, source) =
            (artifact_name(&to.name(), &current.target), artifact_name(&from.name(), &current.source));
        run.events.pushed(&name, &digest.unwrap_or_default(), &source);
        Ok(())
    }

    /// Copies what refers to an artifact that is unchanged itself.
    fn referrers_of(&self, copier: &Copier<'_>, at: Place, digest: &Digest) -> Result<(), Halt> {
        let from = &copier.sides.source;
        let about = format!("manifest {digest} of {}", from.name());
        let root = self.run.persist(&about, || from.manifest(&digest.to_string()))?;
        let tree = tree::read(self.run, &copier.sides, root, None, &|_| Ok(false))?;
        copier.copy_referrers(at, &tree)
    }

    fn attempts_of(&self, at: Place) -> u32 {
        self.artifacts(|artifacts| {
            artifacts.get(at.artifact as usize).map_or(0, |artifact| artifact.attempts)
        })
    }

    fn news(&self, at: Place, news: ArtifactNews) -> Result<(), Halt> {
        self.run.record(Record::Artifact { task: at.task, attempt: at.attempt, artifact: at.artifact, news })
    }

    fn end_artifact(&self, at: Place, outcome: Outcome, notes: &[String]) -> Result<(), Halt> {
        let note = (!notes.is_empty()).then(|| notes.join("; "));
        let news = ArtifactNews {
            state: State::Finished,
            outcome: Some(outcome),
            error: Some(LastError::default()),
            note,
            ..ArtifactNews::default()
        };
        self.run.rows.artifacts(0, 1);
        self.news(at, news)
    }

    /// Records the failure of an artifact. If another attempt may cure it, and one is left, the task ends its attempt.
    ///
    /// # Errors
    /// `halt` itself, if the task must try again later or is being stopped.
    fn fail_artifact(&mut self, at: Place, halt: Halt) -> Result<(), Halt> {
        if matches!(halt, Halt::Stopped) {
            return Err(halt);
        }
        let error = halt.last_error();
        self.error = error.clone();
        let is_last = attempts::task_wait(self.failed + 1).is_none();
        let state = if halt.is_temporary() && !is_last { State::Retrying } else { State::Error };
        if state == State::Error {
            self.run.rows.artifacts(0, 1);
            log::warn!("replication {}: artifact failed: {}", self.run.journal.id(), error.message);
        }
        self.news(at, ArtifactNews { state, error: Some(error), ..ArtifactNews::default() })?;
        if state == State::Retrying { Err(halt) } else { Ok(()) }
    }

    /// The state of the task after its last artifact.
    fn outcome(&mut self) -> State {
        let failed = self.artifacts(|artifacts| artifacts.iter().find(|a| a.state == State::Error).cloned());
        match failed {
            None => State::Finished,
            Some(artifact) => {
                self.error = artifact.error;
                State::Error
            }
        }
    }

    /// For a deletion: the digests of the destination's tags. A plan needs none.
    fn tag_digests(&self) -> Result<TagDigests, SideError> {
        let mut digests = TagDigests::default();
        let Some(copier) = self.copier.as_ref().filter(|_| !self.run.order.options.dry_run) else {
            return Ok(digests);
        };
        let to = &copier.sides.destination;
        let deleted: HashSet<String> = self.artifacts(|all| all.iter().map(|a| a.target.clone()).collect());
        for tag in to.tags()? {
            let Some(digest) = to.head(&tag)?.and_then(|head| head.digest) else { continue };
            match deleted.contains(&tag) {
                true => drop(digests.deleted.insert(tag, digest)),
                false => drop(digests.kept.insert(digest)),
            }
        }
        Ok(digests)
    }

    /// Deletes one artifact: its tag, or its manifest where the destination deletes no tags, unless another tag that
    /// stays names the same manifest.
    fn delete(&self, artifact: &Artifact, digests: &Result<TagDigests, SideError>) -> Result<Outcome, Halt> {
        let Some(copier) = &self.copier else { return Ok(Outcome::None) };
        let (run, to, target) = (self.run, &copier.sides.destination, &artifact.target);
        let about = format!("deletion of {}", artifact_name(&to.name(), target));
        let deleted = |there: bool| if there { Outcome::Deleted } else { Outcome::Unchanged };
        if run.order.options.dry_run {
            return Ok(Outcome::Deleted);
        }
        match run.persist(&about, || to.delete(target)) {
            Err(Halt::Side(error)) if error.kind == FailureKind::Refused => {}
            other => return other.map(deleted),
        }
        let Some(digest) = run.persist(&about, || to.head(target))?.and_then(|head| head.digest) else {
            return Ok(deleted(self.was_deleted_with_another(target, digests)));
        };
        match digests {
            Err(error) => Err(SideError::new(
                error.kind,
                format!("{about}: cannot tell which tags share its manifest: {error}"),
            )
            .into()),
            Ok(digests) if digests.kept.contains(&digest) => {
                let why = format!(
                    "{about}: the destination deletes only whole manifests, and another tag names {digest}"
                );
                Err(SideError::new(FailureKind::Refused, why).into())
            }
            Ok(_) => run.persist(&about, || to.delete(&digest.to_string())).map(deleted),
        }
    }

    /// Whether this task has deleted the manifest of an absent tag, which another tag named too.
    fn was_deleted_with_another(&self, target: &str, digests: &Result<TagDigests, SideError>) -> bool {
        let Ok(TagDigests { deleted, .. }) = digests else { return false };
        let Some(digest) = deleted.get(target) else { return false };
        let is_it = |a: &Artifact| a.outcome == Outcome::Deleted && deleted.get(&a.target) == Some(digest);
        self.artifacts(|artifacts| artifacts.iter().any(is_it))
    }
}

/// The digests of a destination's tags, as a deletion finds them.
#[derive(Default)]
struct TagDigests {
    /// Those of the tags that stay.
    kept: HashSet<Digest>,
    /// Those of the tags that are to be deleted.
    deleted: HashMap<String, Digest>,
}
