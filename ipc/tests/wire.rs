//! The bytes of every message that crosses a process boundary are those of release 0.1.0.
//!
//! A shim outlives the engine that started it, so the shim and an engine of a later release must understand each other.
//! The file `wire.txt` has a line for each message: the type's name at the time of that release, the number of the
//! enum's variant, and the bytes of a sample value. [`Sample`] makes the samples from the types themselves. A variant
//! or a field that is inserted, removed or moved changes a line; a new variant at the end of an enum only adds a line.

use sampan_ipc::container::{self, AttachMessage, Control, Create, Exec, Streams};
use sampan_ipc::{engine, replication, shim, watch};
use serde::de::value::U32Deserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
};
use serde::de::{VariantAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde::{Deserializer, Serialize};
use std::fmt::Debug;

type Error = de::value::Error;

/// A deserializer without input: it fills a type with sample values, each different from the previous one.
struct Sample {
    /// The variant of the outermost enum. Enums inside it get their last variant.
    variant: Option<u32>,
    /// The number from which the next value is made.
    next: u8,
}

impl Sample {
    fn number(&mut self) -> u8 {
        self.next += 1;
        self.next
    }
}

/// A sequence of sample values.
struct Values<'a> {
    sample: &'a mut Sample,
    left: usize,
}

/// One variant of an enum.
struct Variant<'a> {
    sample: &'a mut Sample,
    index: u32,
}

macro_rules! numbers {
    ($($method:ident => $visit:ident as $number:ty;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.$visit(<$number>::try_from(self.number()).expect("it has seven bits"))
        })*
    };
}

impl<'de> Deserializer<'de> for &mut Sample {
    type Error = Error;

    numbers! {
        deserialize_u8 => visit_u8 as u8;
        deserialize_u16 => visit_u16 as u16;
        deserialize_u32 => visit_u32 as u32;
        deserialize_u64 => visit_u64 as u64;
        deserialize_i8 => visit_i8 as i8;
        deserialize_i16 => visit_i16 as i16;
        deserialize_i32 => visit_i32 as i32;
        deserialize_i64 => visit_i64 as i64;
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(de::Error::custom("a type that the wire does not have"))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bool(self.number() % 2 == 1)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(format!("s{}", self.number()))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Values { sample: self, left: 2 })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Values { sample: self, left: 2 })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, left: usize, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Values { sample: self, left })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_seq(Values { sample: self, left: fields.len() })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let last = u32::try_from(variants.len()).expect("few") - 1;
        let index = self.variant.take().unwrap_or(last);
        if index > last {
            return Err(de::Error::custom(format!("{name} has no variant {index}")));
        }
        visitor.visit_enum(Variant { sample: self, index })
    }

    forward_to_deserialize_any! { f32 f64 i128 u128 char bytes byte_buf unit unit_struct tuple_struct identifier ignored_any }
}

impl<'de> SeqAccess<'de> for Values<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        seed.deserialize(&mut *self.sample).map(Some)
    }
}

impl<'de> MapAccess<'de> for Values<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.next_element_seed(seed)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(&mut *self.sample)
    }
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), Error> {
        let index: U32Deserializer<Error> = self.index.into_deserializer();
        Ok((seed.deserialize(index)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self.sample)
    }

    fn tuple_variant<V: Visitor<'de>>(self, left: usize, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Values { sample: self.sample, left })
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_seq(Values { sample: self.sample, left: fields.len() })
    }
}

/// Adds the lines of a type: one for each variant of an enum, one for any other type.
fn lines_of<T: DeserializeOwned + Serialize + Debug + PartialEq>(name: &str, lines: &mut Vec<String>) {
    for index in 0.. {
        let mut sample = Sample { variant: Some(index), next: 0 };
        let Ok(value) = T::deserialize(&mut sample) else {
            assert!(index > 0, "{name} cannot be sampled");
            return;
        };
        let bytes = postcard::to_allocvec(&value).expect("to memory");
        assert_eq!(postcard::from_bytes::<T>(&bytes).as_ref(), Ok(&value), "{name} {index}");
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        lines.push(format!("{name} {index} {hex}"));
        if sample.variant.is_some() {
            return;
        }
    }
}

#[test]
fn every_message_has_the_bytes_it_had_in_the_first_release() {
    let mut lines = Vec::new();
    // The engine and its clients.
    lines_of::<engine::Request>("engine::Request", &mut lines);
    lines_of::<engine::Answer>("engine::Answer", &mut lines);
    lines_of::<engine::Code>("engine::Code", &mut lines);
    lines_of::<engine::JobState>("engine::JobState", &mut lines);
    lines_of::<engine::Phase>("engine::Phase", &mut lines);
    lines_of::<engine::Container>("engine::Container", &mut lines);
    lines_of::<Create>("container::Create", &mut lines);
    lines_of::<Exec>("container::Exec", &mut lines);
    lines_of::<Streams>("container::Streams", &mut lines);
    lines_of::<container::MountKind>("container::MountKind", &mut lines);
    lines_of::<container::Network>("container::Network", &mut lines);
    lines_of::<container::Restart>("container::Restart", &mut lines);
    lines_of::<container::Notify>("container::Notify", &mut lines);
    lines_of::<container::Phase>("container::Phase", &mut lines);
    lines_of::<container::Condition>("container::Condition", &mut lines);
    lines_of::<replication::State>("replication::State", &mut lines);
    lines_of::<replication::Operation>("replication::Operation", &mut lines);
    lines_of::<replication::Outcome>("replication::Outcome", &mut lines);
    lines_of::<replication::ErrorClass>("replication::ErrorClass", &mut lines);
    lines_of::<replication::Trigger>("replication::Trigger", &mut lines);
    lines_of::<replication::Sparse>("replication::Sparse", &mut lines);
    lines_of::<replication::ExecutionRequest>("replication::ExecutionRequest", &mut lines);
    // Shims, the engines that connect to them, and the clients that are attached.
    lines_of::<shim::Setup>("shim::Setup", &mut lines);
    lines_of::<shim::Unit>("shim::Unit", &mut lines);
    lines_of::<shim::Rootfs>("shim::Rootfs", &mut lines);
    lines_of::<shim::Log>("shim::Log", &mut lines);
    lines_of::<shim::Action>("shim::What", &mut lines);
    lines_of::<shim::ShimRequest>("shim::Ask", &mut lines);
    lines_of::<shim::ShimMessage>("shim::Say", &mut lines);
    lines_of::<shim::State>("shim::State", &mut lines);
    lines_of::<Control>("container::Control", &mut lines);
    lines_of::<AttachMessage>("container::Told", &mut lines);
    // monitord and its subscribers.
    lines_of::<watch::Request>("watch::Request", &mut lines);
    lines_of::<watch::Item>("watch::Item", &mut lines);
    lines_of::<watch::End>("watch::End", &mut lines);
    lines_of::<watch::Reason>("watch::Reason", &mut lines);
    let now = lines.join("\n") + "\n";
    let kept = include_str!("wire.txt");
    for line in kept.lines() {
        assert!(now.contains(line), "no longer on the wire: {line}\nthe forms now:\n{now}");
    }
    // A new line must be added to wire.txt before its first release.
    assert_eq!(now, kept, "the forms now:\n{now}");
}
