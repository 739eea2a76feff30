//! JSON-RPC bytes: borrowed parse, batches, ids, error classes.
