//! Images in archives: docker's and OCI's, as a file that can be sought or as a stream.
//!
//! | module | what it owns |
//! |---|---|
//! | [`load`] | from an archive into the store |
//! | [`save`] | from the store into an archive |
//! | [`source`] | an archive to read, whatever it is |
//! | [`seekable`], [`streamed`] | the two kinds of it |
//! | [`entries`] | where its entries are |
//! | [`manifest`] | its documents |
//! | [`oci_layout`] | a directory instead of an archive |
//! | [`writer`] | an archive that is written |

pub mod entries;
pub mod load;
pub mod manifest;
pub mod oci_layout;
pub mod save;
pub mod seekable;
pub mod source;
pub mod streamed;
pub mod writer;
