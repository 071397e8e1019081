//! What the monitor has been told of a container: asked when an engine or a shim was killed between saying something
//! and writing down that it was said.
//!
//! Called on threads, at start-up, for the few containers where that is in doubt. A monitor that does not answer is
//! taken for one that was told nothing: better twice than never.

use sampan_ipc::frame::{Decoder, FRAME_MAX};
use sampan_ipc::watch::{Item, Request, Subscribe, opening};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long the monitor may take for each part of its answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// True if the last of the events `actions` of container `id` that the monitor knows is `wanted`.
pub fn is_last(fifo: &Path, id: &str, actions: &[&str], wanted: &str) -> bool {
    match last(&fifo.with_file_name("events.sock"), id, actions) {
        Ok(last) => last.as_deref() == Some(wanted),
        Err(error) => {
            log::warn!("container {id}: the monitor does not say whether it knows of '{wanted}': {error}");
            false
        }
    }
}

fn last(socket: &Path, id: &str, actions: &[&str]) -> io::Result<Option<String>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let subscribe = Subscribe {
        filters: vec!["type=container".to_owned(), format!("id={id}")],
        after: Some(0),
        ..Subscribe::default()
    };
    stream.write_all(&opening(Request::Subscribe(subscribe)).map_err(io::Error::other)?)?;
    let (mut decoder, mut last) = (Decoder::new(FRAME_MAX), None);
    let mut bytes = [0; 4096];
    loop {
        while let Some(item) = decoder.next_message::<Item>().map_err(io::Error::other)? {
            match item {
                Item::Event(event) if actions.contains(&event.action.as_str()) => last = Some(event.action),
                Item::End(_) => return Ok(last),
                Item::Error(refusal) => return Err(io::Error::other(refusal.message)),
                _ => {}
            }
        }
        match stream.read(&mut bytes)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            len => decoder.push(bytes.get(..len).unwrap_or_default()),
        }
    }
}
