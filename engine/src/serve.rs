//! stub
use crate::cancel::Cancel; use crate::store::Store; use std::io;
/// x
pub fn serve(_s: &Store, _l: &str, _b: u64, _c: &Cancel, _tell: impl Fn(&str)) -> Result<String, io::Error> { Ok(String::new()) }
