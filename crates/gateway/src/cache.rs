//! The cache of answers: which answers may be stored, under which key, where, and for how long.
//!
//! # Layout
//! - [`class`]: whether a call may be answered from the cache, and the class of an answer
//! - [`key`]: the key of a call, shared by all its spellings
//! - [`store`]: the first level, in this process's memory
//! - [`flight`]: one relay for calls that miss at the same time
//! - [`shared`]: the second level: what replicas share, as names and values
//! - [`redis`]: Redis as the second level

pub mod class;
pub mod flight;
pub mod key;
pub mod redis;
pub mod shared;
pub mod store;
