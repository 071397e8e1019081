//! The requests that start, follow or cancel a job.
//!
//! Methods of [`Server`], called by the event loop. Each checks the request and turns it into what a thread executes.
//! They never block: registries and layers are read on threads.

use super::client::{Client, State};
use super::event_loop::{STACK, Server};
use crate::error;
use crate::image::import::ImportRequest;
use crate::image::pull::PullRequest;
use crate::image::push::PushRequest;
use crate::image::resolve;
use crate::tasks::{self, PullTask, archive};
use sampan_ipc::engine::{self, Answer, Code, Done, Failure};
use sampan_ipc::replication;
use sampan_job::cancel::Cancel;
use sampan_oci::Run;
use sampan_oci::platform::Platform;
use sampan_oci::reference::Reference;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Most logins that run at a time; more are refused.
const LOGINS_MAX: usize = 16;

impl Server {
    pub(super) fn on_pull(
        &mut self,
        client: &mut Client,
        pull: engine::Pull,
        is_kept: bool,
    ) -> Result<(), Failure> {
        let access =
            resolve::access(&self.shared.config, pull.insecure, pull.credentials).map_err(error::explain)?;
        let candidates = access.registries.candidates(&pull.reference).map_err(error::explain)?;
        if pull.all_tags {
            check_repository(&pull.reference, &candidates)?;
        }
        let platform =
            pull.platform.as_deref().map(Platform::parse).transpose().map_err(|e| error::usage(&e))?;
        let (subject, insecure) = match candidates.as_slice() {
            [one] => {
                let name = if pull.all_tags { one.name() } else { one.to_string() };
                (name, pull.insecure || access.insecure_hosts.iter().any(|h| h == one.host()))
            }
            _ => (pull.reference.clone(), pull.insecure),
        };
        let wanted = platform.clone().unwrap_or_else(Platform::host);
        let (unpack, bytes_per_second) = (!pull.no_unpack, pull.bytes_per_second);
        let all_tags = pull.all_tags;
        let credentials = access.credentials.fingerprint();
        let key =
            format!("{subject} {wanted} {insecure} {unpack} {bytes_per_second} {all_tags} {credentials}");
        let job = match self.jobs.running_with(&key) {
            Some(job) => job,
            None => {
                let reference = candidates.first().cloned().ok_or_else(|| no_name(&subject))?;
                let request = PullRequest {
                    reference,
                    platform,
                    access,
                    unpack,
                    bytes_per_second,
                    policies: Arc::clone(&self.shared.config.policies),
                    room: self.shared.room.clone(),
                };
                let task = PullTask { request, candidates, subject: subject.clone(), all_tags };
                self.start("pull", subject, Some(key), move |thread| thread.pull(task))?
            }
        };
        if is_kept {
            self.follow_kept(client, job);
            return Ok(());
        }
        if pull.detach {
            self.jobs.detach(job);
        }
        self.follow(client, job, pull.detach);
        Ok(())
    }

    pub(super) fn on_import(
        &mut self,
        client: &mut Client,
        import: engine::Import,
        layers: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let reference = Reference::parse(&import.reference).map_err(|e| error::usage(&e))?;
        let platform =
            import.platform.as_deref().map(Platform::parse).transpose().map_err(|e| error::usage(&e))?;
        if layers.is_empty() || layers.len() as u64 != u64::from(import.layers) {
            let message = format!(
                "the request names {} layers but carries {} descriptors",
                import.layers,
                layers.len()
            );
            return Err(error::new(Code::Usage, message, ""));
        }
        if reference.digest().is_some() {
            return Err(error::new(
                Code::Usage,
                "an imported image cannot be named by digest",
                "give NAME:TAG",
            ));
        }
        let labels = import.labels.into_iter().collect();
        let run = Run { env: import.env, cmd: import.cmd, labels, ..Run::default() };
        let platform = platform.unwrap_or_else(Platform::host);
        let subject = reference.to_string();
        let request = ImportRequest { reference, platform, run, layers };
        let job = self.start("import", subject, None, |task| task.import(request))?;
        self.follow(client, job, false);
        Ok(())
    }

    pub(super) fn on_serve(&mut self, client: &mut Client, serve: engine::Serve) -> Result<(), Failure> {
        let engine::Serve { listen, bytes_per_second } = serve;
        let job =
            self.start("serve", listen.clone(), None, move |task| task.serve(listen, bytes_per_second))?;
        self.jobs.watch(job);
        client.state = State::Serving(job);
        Ok(())
    }

    pub(super) fn on_load(
        &mut self,
        client: &mut Client,
        load: engine::Load,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let request = archive::load_request(&self.shared, load, descriptors)?;
        let subject = archive::load_subject(&request);
        let job = self.start("load", subject, None, |task| task.load(request))?;
        self.follow(client, job, false);
        Ok(())
    }

    pub(super) fn on_save(
        &mut self,
        client: &mut Client,
        mut save: engine::Save,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        for name in &mut save.names {
            *name = resolve::stored(&self.shared.config, &self.shared.store, name);
        }
        let request = archive::save_request(save, descriptors, client.uid())?;
        let subject = request.names.join(" ").chars().take(300).collect();
        let job = self.start("save", subject, None, |task| task.save(request))?;
        self.follow(client, job, false);
        Ok(())
    }

    /// Runs a login on its own thread, so that a registry that does not answer delays no other request.
    pub(super) fn on_login(
        &mut self,
        token: usize,
        client: &mut Client,
        login: engine::Login,
        with_status: bool,
    ) -> Result<(), Failure> {
        if self.logins.len() >= LOGINS_MAX {
            let message = format!("{LOGINS_MAX} logins are running, the maximum");
            return Err(error::new(Code::Conflict, message, "try again later"));
        }
        let (shared, cancel) = (Arc::clone(&self.shared), Arc::<Cancel>::default());
        let ends = Arc::clone(&cancel);
        sampan_os::thread::spawn("login", STACK, move || {
            tasks::log_in(&shared, token, &login, with_status, &ends);
        })
        .map_err(|error| {
            error::new(Code::Failed, format!("cannot start a thread for the login: {error}"), "")
        })?;
        self.logins.insert(token, cancel);
        client.state = State::Waiting;
        Ok(())
    }

    pub(super) fn on_push(&mut self, client: &mut Client, mut push: engine::Push) -> Result<(), Failure> {
        push.source = resolve::stored(&self.shared.config, &self.shared.store, &push.source);
        let target =
            push.target.as_deref().map(Reference::parse).transpose().map_err(|e| error::usage(&e))?;
        let named = target.clone().or_else(|| Reference::parse(&push.source).ok());
        let subject = named.map_or_else(|| push.source.clone(), |reference| reference.to_string());
        let access =
            resolve::access(&self.shared.config, push.insecure, push.credentials).map_err(error::explain)?;
        let request =
            PushRequest { source: push.source, target, access, bytes_per_second: push.bytes_per_second };
        let name = subject.clone();
        let job = self.start("push", subject, None, move |task| task.push(&name, &request))?;
        if push.detach {
            self.jobs.detach(job);
        }
        self.follow(client, job, push.detach);
        Ok(())
    }

    pub(super) fn on_verify(&mut self, client: &mut Client, verify: engine::Verify) -> Result<(), Failure> {
        let deep = verify.deep;
        let key = format!("verify {deep}");
        let job = match self.jobs.running_with(&key) {
            Some(job) => job,
            None => {
                let subject = self.shared.store.root().display().to_string();
                self.start("verify", subject, Some(key), move |task| task.verify(deep))?
            }
        };
        self.follow(client, job, false);
        Ok(())
    }

    pub(super) fn on_watch(&mut self, client: &mut Client, job: u64) -> Result<(), Failure> {
        self.jobs.get(job).ok_or_else(|| error::no_job(job))?;
        self.follow(client, job, false);
        Ok(())
    }

    pub(super) fn on_cancel(&mut self, client: &mut Client, job: u64) -> Result<(), Failure> {
        let entry = self.jobs.get(job).ok_or_else(|| error::no_job(job))?;
        let unchanged = entry.outcome.is_some();
        let reference = entry.subject.clone();
        if !unchanged {
            log::info!("job {job}: cancelled by client {}", client.description());
            let cancel = Arc::clone(&entry.cancel);
            if !self.stop_replication(job, replication::State::Canceled) {
                cancel.cancel();
            }
        }
        client.send(&Answer::Done(Done { reference, unchanged, ..Done::default() }));
        Ok(())
    }
}

fn no_name(typed: &str) -> Failure {
    error::new(Code::Usage, format!("{typed:?} names no image"), "")
}

/// Checks that `typed` names one repository, without a tag: the request is for all of its tags.
fn check_repository(typed: &str, candidates: &[Reference]) -> Result<(), Failure> {
    let last = typed.rsplit('/').next().unwrap_or(typed);
    if last.contains([':', '@']) {
        let message = format!("{typed:?} has a tag or a digest, but all tags are requested");
        return Err(error::new(Code::Usage, message, "give the name of the repository only"));
    }
    if candidates.len() > 1 {
        let message = format!("{typed:?} may be in several registries, but all tags are requested");
        return Err(error::new(Code::Usage, message, "give the name with its registry"));
    }
    Ok(())
}
