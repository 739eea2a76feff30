//! The known word nearest to an unknown one, for "did you mean" hints.

/// The known word nearest to `word`: at most a third of its letters differ (a transposition counts
/// once), and at least one letter is the same. `None` if no word is that near.
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    nearest_within((word.chars().count() / 3).max(1), word, known)
}

/// The known word nearest to `word`: at most `limit` letters differ (a transposition counts once), and
/// at least one letter is the same. `None` if no word is that near.
pub fn nearest_within<'k>(
    limit: usize,
    word: &str,
    known: impl IntoIterator<Item = &'k str>,
) -> Option<&'k str> {
    known
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= limit && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment distance.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![vec![0; b.len() + 1]; a.len() + 1];
    (0..=a.len()).for_each(|i| rows[i][0] = i);
    (0..=b.len()).for_each(|j| rows[0][j] = j);
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let same = a[i - 1] == b[j - 1];
            let mut best = (rows[i - 1][j] + 1)
                .min(rows[i][j - 1] + 1)
                .min(rows[i - 1][j - 1] + usize::from(!same));
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_intended_word() {
        let known = ["rate", "duration", "users", "think_time", "timeout"];
        let check = |word, meant| assert_eq!(nearest(word, known), meant, "{word}");
        check("ratee", Some("rate"));
        check("raet", Some("rate"));
        check("thinktime", Some("think_time"));
        check("durration", Some("duration"));
        check("tiemout", Some("timeout"));
        check("colour", None);
        check("x", None);
    }
}
