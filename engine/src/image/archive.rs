//! Images in archives: docker archives and OCI archives, in a seekable file or a stream, and OCI image layouts.
//!
//! | module | what it owns |
//! |---|---|
//! | [`load`] | loading images from an archive into the store |
//! | [`save`] | saving images from the store into an archive |
//! | [`source`] | the interface of everything that images are loaded from |
//! | [`seekable`], [`streamed`] | an archive in a seekable file; an archive read once, in order |
//! | [`entries`] | the names in an archive, and its links |
//! | [`manifest`] | the documents that list an archive's images |
//! | [`oci_layout`] | a directory in place of an archive |
//! | [`writer`] | writing an archive or a layout |

pub mod entries;
pub mod load;
pub mod manifest;
pub mod oci_layout;
pub mod save;
pub mod seekable;
pub mod source;
pub mod streamed;
pub mod writer;
