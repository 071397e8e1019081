//! The two output streams of a process, and a pair of values for them.

/// An output stream: stdout or stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Stdout. If the process has a terminal, all output.
    Out,
    Err,
}

impl Stream {
    pub(crate) const BOTH: [Stream; 2] = [Stream::Out, Stream::Err];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Stream::Out => "stdout",
            Stream::Err => "stderr",
        }
    }
}

/// A value for stdout and one for stderr.
#[derive(Debug, Default)]
pub(crate) struct PerStream<T> {
    pub(crate) out: T,
    pub(crate) err: T,
}

impl<T> PerStream<T> {
    pub(crate) fn of(&self, stream: Stream) -> &T {
        match stream {
            Stream::Out => &self.out,
            Stream::Err => &self.err,
        }
    }

    pub(crate) fn of_mut(&mut self, stream: Stream) -> &mut T {
        match stream {
            Stream::Out => &mut self.out,
            Stream::Err => &mut self.err,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        [&self.out, &self.err].into_iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        [&mut self.out, &mut self.err].into_iter()
    }
}
