//! Replication: the sides on this host.
//!
//! Called by `tasks` and `server`. The crate `sampan_replication` copies; this folder gives it the places that it does
//! not know. Imports `image`, and knows no client.
//!
//! | module | what it owns |
//! |---|---|
//! | [`oci_layout_side`] | an OCI layout as source or destination: `oci:DIR` |
//! | [`layout_dir`], [`layout_index`], [`layout_links`] | its directory; its `index.json`; what its manifests refer to |
//! | [`store_side`] | the local store as source or destination: `store:` |
//! | [`upload`], [`local_blob`] | blobs that are being written to, and read from, files of this host |
//! | [`state`] | what all executions share: journals, memory for chunks, known blobs |
//! | [`triggers`] | policies, and what starts them |
//! | [`report`] | the report of an ended execution, for a policy's command |
//! | [`fault`] | errors of files in the form that the copier acts on |

pub mod fault;
pub mod layout_dir;
pub mod layout_index;
pub mod layout_links;
pub mod local_blob;
pub mod oci_layout_side;
pub mod report;
pub mod state;
pub mod store_side;
#[cfg(test)]
mod test_artifacts;
pub mod triggers;
pub mod upload;
