//! The registries that the benchmark pulls its images from. All images are made in docker-registry.

use crate::nginx::Nginx;
use crate::serving::Serving;
use std::io;
use std::path::Path;

/// Kind of a registry.
#[derive(Clone, Copy, Debug)]
pub enum Registry {
    /// nginx, with the files of the images.
    Nginx,
    /// `sampan serve`.
    Sampan,
    /// docker-registry.
    Docker,
}

impl Registry {
    /// The kind that `--registry` names.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "nginx" => Some(Registry::Nginx),
            "sampan" => Some(Registry::Sampan),
            "docker-registry" => Some(Registry::Docker),
            _ => None,
        }
    }

    /// Name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Registry::Nginx => "nginx",
            Registry::Sampan => "sampan serve",
            Registry::Docker => "docker-registry",
        }
    }
}

/// A running registry.
pub enum Serves {
    /// nginx, with the images that it has copied.
    Nginx(Nginx),
    /// `sampan serve`, with the images that its engine has pulled.
    Sampan(Serving),
    /// The docker-registry in which the images were made.
    Docker,
}

impl Serves {
    /// Starts a registry that keeps its files below `dir`.
    ///
    /// # Errors It does not start.
    pub fn start(registry: Registry, dir: &Path) -> io::Result<Self> {
        Ok(match registry {
            Registry::Nginx => Serves::Nginx(Nginx::new(dir)?),
            Registry::Sampan => Serves::Sampan(Serving::start(dir)?),
            Registry::Docker => Serves::Docker,
        })
    }

    /// Copies an image of docker-registry, `HOST:PORT/NAME:TAG`, to this registry.
    ///
    /// # Errors The image cannot be copied.
    pub fn take(&mut self, reference: &str) -> io::Result<()> {
        match self {
            Serves::Nginx(nginx) => nginx.take(reference),
            Serves::Sampan(serving) => serving.take(reference),
            Serves::Docker => Ok(()),
        }
    }

    /// The registry's address; `docker` is the address of docker-registry.
    pub fn address<'a>(&'a self, docker: &'a str) -> &'a str {
        match self {
            Serves::Nginx(nginx) => &nginx.address,
            Serves::Sampan(serving) => &serving.address,
            Serves::Docker => docker,
        }
    }
}
