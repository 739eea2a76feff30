//! The database behind a narrow seam.

/// Checks the URL of a database, without opening it.
///
/// # Errors
/// What is wrong with it, without repeating it: it may hold a secret.
pub fn check_url(url: &str) -> Result<(), String> {
    let Some(path) = sqlite_path(url) else {
        return Err(match url.split_once(':') {
            Some((scheme, _)) if !scheme.contains('/') => {
                format!("no database of the kind \"{scheme}\" is known; there is sqlite")
            }
            _ => "no URL of a database".into(),
        });
    };
    match path {
        "" => Err("an SQLite database without a file".into()),
        ":memory:" => Err("a database in memory is gone with its process, and only its own".into()),
        path if path.contains('?') => Err("parameters after \"?\" are not known".into()),
        _ => Ok(()),
    }
}

/// The path in the URL of an SQLite database.
pub(crate) fn sqlite_path(url: &str) -> Option<&str> {
    let path = url.strip_prefix("sqlite:")?;
    Some(path.strip_prefix("//").unwrap_or(path))
}
