//! TOML documents with places, placeholders, and all problems at once.
