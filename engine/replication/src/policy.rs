//! The policies of `/etc/sampan/replication.d`: what is copied, where to, and when.
