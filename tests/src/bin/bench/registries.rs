//! The registries that a benchmark's images are pulled from. All images are made with docker-registry.

use crate::nginx::Nginx;
use crate::serving::Serving;
use std::io;
use std::path::Path;

/// Who may be pulled from.
#[derive(Clone, Copy, Debug)]
pub enum Registry {
    /// nginx, with the files of the images.
    Nginx,
    /// `sampan serve`.
    Sampan,
    /// docker-registry itself.
    Docker,
}

impl Registry {
    /// That of `--registry`.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "nginx" => Some(Registry::Nginx),
            "sampan" => Some(Registry::Sampan),
            "docker-registry" => Some(Registry::Docker),
            _ => None,
        }
    }

    /// What the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Registry::Nginx => "nginx",
            Registry::Sampan => "sampan serve",
            Registry::Docker => "docker-registry",
        }
    }
}

/// One of them, running.
pub enum Serves {
    /// With what it has taken.
    Nginx(Nginx),
    /// With what its engine has pulled.
    Sampan(Serving),
    /// That which the images were made with.
    Docker,
}

impl Serves {
    /// Starts it, with all that it has below `dir`.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(registry: Registry, dir: &Path) -> io::Result<Self> {
        Ok(match registry {
            Registry::Nginx => Serves::Nginx(Nginx::new(dir)?),
            Registry::Sampan => Serves::Sampan(Serving::start(dir)?),
            Registry::Docker => Serves::Docker,
        })
    }

    /// Has it take an image of docker-registry, `HOST:PORT/NAME:TAG`.
    ///
    /// # Errors
    /// It does not.
    pub fn take(&mut self, reference: &str) -> io::Result<()> {
        match self {
            Serves::Nginx(nginx) => nginx.take(reference),
            Serves::Sampan(serving) => serving.take(reference),
            Serves::Docker => Ok(()),
        }
    }

    /// Where it listens; `docker` is where docker-registry does.
    pub fn address<'a>(&'a self, docker: &'a str) -> &'a str {
        match self {
            Serves::Nginx(nginx) => &nginx.address,
            Serves::Sampan(serving) => &serving.address,
            Serves::Docker => docker,
        }
    }
}
