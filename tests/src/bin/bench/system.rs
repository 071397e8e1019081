//! The event systems that are compared, and the shortest bytes of their protocols.
//!
//! Pure: only encodes messages and knows their lengths. A message has 200 bytes, with a stamp of 16 hex digits near its
//! end; the bytes after the stamp depend on the system.

use sampan_ipc::watch::{Request, Subscribe, opening};
use sampan_ipc::{Event, record};
use std::path::Path;

/// Bytes of a message: of the whole frame if it has no other content, of the payload otherwise.
pub const MESSAGE: usize = 200;
/// Hex digits of a stamp.
pub const STAMP: usize = 16;

/// A system that sends messages to subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// The bare program, `bare.rs`.
    Bare,
    /// sampan-monitord.
    Sampan,
    /// Redis pub/sub.
    Redis,
    /// NATS core.
    Nats,
    /// Mosquitto, MQTT 3.1.1, QoS 0.
    Mosquitto,
}

/// Which messages a subscriber of monitord requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Every message.
    All,
    /// Every second message; all subscribers have the same filter.
    Half,
    /// Every second message; each subscriber has a different filter.
    HalfEach,
}

/// The layout of a message for a subscriber.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Bytes of the message, including those of its protocol.
    pub len: usize,
    /// Bytes after the stamp.
    pub behind_stamp: usize,
}

impl System {
    /// All systems; the bare program is first, since others are compared with it.
    pub const ALL: [System; 5] =
        [System::Bare, System::Sampan, System::Redis, System::Nats, System::Mosquitto];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            System::Bare => "bare",
            System::Sampan => "sampan",
            System::Redis => "redis",
            System::Nats => "nats",
            System::Mosquitto => "mosquitto",
        }
    }

    /// The system of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|system| system.name() == name)
    }

    /// The program's name, for systems that are not part of this project.
    pub fn program(self) -> Option<&'static str> {
        match self {
            System::Bare | System::Sampan => None,
            System::Redis => Some("redis-server"),
            System::Nats => Some("nats-server"),
            System::Mosquitto => Some("mosquitto"),
        }
    }

    /// True if the system can be started; prints a message if it cannot.
    pub fn is_installed(&self) -> bool {
        let Some(program) = self.program() else { return true };
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
        let found = path.split(':').any(|dir| Path::new(dir).join(program).is_file());
        if !found {
            println!("{program} is not installed: left out");
        }
        found
    }

    /// True if messages go into a FIFO, which blocks a fast writer.
    pub fn has_fifo(self) -> bool {
        matches!(self, System::Bare | System::Sampan)
    }

    /// The layout of a message for a subscriber.
    pub fn layout(self) -> Layout {
        match self {
            System::Bare => Layout { len: MESSAGE, behind_stamp: 0 },
            // After the stamp: an empty list of labels, and the eight bytes of the sequence number.
            System::Sampan => Layout { len: MESSAGE, behind_stamp: 9 },
            System::Redis => framed(b"*3\r\n$7\r\nmessage\r\n$5\r\nbench\r\n$200\r\n", b"\r\n"),
            System::Nats => framed(b"MSG bench 1 200\r\n", b"\r\n"),
            // Before the message: its kind, its length in two bytes, and the topic's length in two bytes.
            System::Mosquitto => framed(b"0LLTTbench", b""),
        }
    }

    /// The bytes that a publisher writes for message number `nth` with this stamp.
    pub fn message(self, nth: u64, stamp: u64) -> Vec<u8> {
        let payload = || {
            let mut payload = vec![b'x'; MESSAGE - STAMP];
            payload.extend_from_slice(hex(stamp).as_bytes());
            payload
        };
        match self {
            System::Bare => payload(),
            System::Sampan => sampan_record(nth, stamp),
            System::Redis => {
                let head = format!("*3\r\n$7\r\nPUBLISH\r\n$5\r\nbench\r\n${MESSAGE}\r\n");
                [head.as_bytes(), &payload(), b"\r\n"].concat()
            }
            System::Nats => [format!("PUB bench {MESSAGE}\r\n").as_bytes(), &payload(), b"\r\n"].concat(),
            System::Mosquitto => mqtt(0x30, &[mqtt_str("bench"), payload()].concat()),
        }
    }

    /// The bytes that a publisher sends first, and the end of the server's reply.
    pub fn publisher_greeting(self) -> (Vec<u8>, &'static [u8]) {
        match self {
            System::Bare | System::Sampan => (Vec::new(), b""),
            System::Redis => (b"CLIENT REPLY OFF\r\n".to_vec(), b""),
            System::Nats => (b"CONNECT {\"verbose\":false}\r\nPING\r\n".to_vec(), b"PONG\r\n"),
            System::Mosquitto => (mqtt_connect(u32::MAX), &[0x20, 2, 0, 0]),
        }
    }

    /// Bytes that the server sends on its own shortly after a subscriber has connected; they must not be counted.
    pub fn late_greeting(self) -> Option<&'static [u8]> {
        // The first ping, which measures the round-trip time; the next one follows minutes later.
        (self == System::Nats).then_some(b"PING\r\n")
    }

    /// The bytes that subscriber number `nth` sends, and the end of the server's reply. The reply of monitord is a
    /// frame instead.
    pub fn subscription(self, nth: u32, wish: Wish) -> (Vec<u8>, Vec<u8>) {
        match self {
            System::Bare => (Vec::new(), b"+".to_vec()),
            System::Sampan => {
                let filters = match wish {
                    Wish::All => Vec::new(),
                    Wish::Half => vec!["type=half".to_owned()],
                    Wish::HalfEach => vec!["type=half".to_owned(), format!("type=none-{nth}")],
                };
                let subscribe = Subscribe { filters, follow: true, ..Subscribe::default() };
                (opening(Request::Subscribe(subscribe)).expect("a small request"), Vec::new())
            }
            System::Redis => (b"SUBSCRIBE bench\r\n".to_vec(), b":1\r\n".to_vec()),
            System::Nats => {
                (b"CONNECT {\"verbose\":false}\r\nSUB bench 1\r\nPING\r\n".to_vec(), b"PONG\r\n".to_vec())
            }
            System::Mosquitto => {
                let subscribe = mqtt(0x82, &[&[0, 1][..], &mqtt_str("bench"), &[0]].concat());
                ([mqtt_connect(nth), subscribe].concat(), vec![0x90, 3, 0, 1, 0])
            }
        }
    }
}

/// The layout of a message between `head` and `tail`.
fn framed(head: &[u8], tail: &[u8]) -> Layout {
    Layout { len: head.len() + MESSAGE + tail.len(), behind_stamp: tail.len() }
}

fn hex(stamp: u64) -> String {
    format!("{stamp:016x}")
}

/// A record whose frame has [`MESSAGE`] bytes; every second one is of type `half`.
fn sampan_record(nth: u64, stamp: u64) -> Vec<u8> {
    // A frame adds 8 bytes of header and 8 of sequence number to the body; a record adds 12 bytes of header.
    let record_len = MESSAGE - 16 + record::HEADER_LEN;
    let kind = if nth.is_multiple_of(2) { "half" } else { "rest" };
    let mut event = Event::new(kind, "tick", "bench");
    event.time = stamp as i64;
    (event.writer, event.counter) = (1, nth + 1);
    let bare = record::encode(&event.clone().with("padding", hex(stamp))).expect("a good event");
    let padding = "x".repeat(record_len - bare.len());
    // The length of the value has a second byte from 128 on.
    let over = usize::from(padding.len() + STAMP >= 128);
    let value = padding[over..].to_owned() + &hex(stamp);
    record::encode(&event.with("padding", value)).expect("a good event")
}

fn mqtt(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    let mut len = body.len();
    loop {
        let low = (len % 128) as u8;
        len /= 128;
        bytes.push(if len > 0 { low | 0x80 } else { low });
        if len == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

fn mqtt_str(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
}

/// A clean session without keep-alive.
fn mqtt_connect(nth: u32) -> Vec<u8> {
    mqtt(0x10, &[&mqtt_str("MQTT")[..], &[4, 2, 0, 0], &mqtt_str(&format!("bench-{nth}"))].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_record_makes_a_frame_of_one_length_and_one_stamp_offset() {
        for nth in [0, 1, 126, 127, 128, 16_382, 16_383, 3_000_000] {
            let record = System::Sampan.message(nth, 0xabcdef);
            assert_eq!(record.len() - record::HEADER_LEN + 16, MESSAGE);
            let behind = System::Sampan.layout().behind_stamp - 8;
            let stamp = &record[record.len() - behind - STAMP..record.len() - behind];
            assert_eq!(stamp, b"0000000000abcdef");
        }
    }
}
