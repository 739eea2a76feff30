//! The plan: parse, validate, resolve; arrival mathematics.
