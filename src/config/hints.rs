//! What to say to a word nobody knows: "did you mean", "not in this version", "PgBouncer's name".

use super::errors::{Complaint, Place, shown};
use super::pgbouncer_names;

/// Keys the design keeps for later, by the section they stand in. Accepting them without doing
/// what they say would be worse than an error.
const LATER_KEYS: &[(&str, &[&str])] = &[
    ("", &["peers", "log"]),
    ("auth", &["query", "passthrough", "hba_file"]),
    ("client", &["ca"]),
    ("pool", &["reserve"]),
    ("limits", &["server_connections_per_node"]),
    ("routing", &["functions"]),
];

const LATER_WORDS: &[&str] = &["cert", "peer", "hba"];

/// A key that is not one of `known`.
pub(super) fn unknown_key(key: &str, place: &Place, known: &[&str]) -> Complaint {
    let complaint = Complaint::new(format!("unknown key {}", shown(key)));
    let later = LATER_KEYS.iter().any(|(section, keys)| *section == place.section() && keys.contains(&key));
    if later {
        return complaint.hint(format!("{key} is not supported by this version"));
    }
    if let Some(ours) = pgbouncer_names::our_key(key) {
        return complaint.hint(format!("PgBouncer's {key} is {ours} here"));
    }
    if let Some(near) = nearest(key, known) {
        return complaint.hint(format!("did you mean {near:?}?"));
    }
    complaint.hint(format!("known keys here: {}", known.join(", ")))
}

/// A word that is not one of `known`, where `kind` was wanted.
pub(super) fn unknown_word(word: &str, kind: &str, known: &[&str]) -> Complaint {
    let complaint = Complaint::new(format!("{} is not {kind}", shown(word)));
    if LATER_WORDS.contains(&word) {
        return complaint
            .hint(format!("{word} is not supported by this version; known are {}", known.join(", ")));
    }
    match nearest(word, known) {
        Some(near) => complaint.hint(format!("did you mean {near:?}?")),
        None => complaint.hint(format!("known are {}", known.join(", "))),
    }
}

/// The known name nearest to what was written, if any is near enough to be meant.
pub(super) fn nearest<'a>(written: &str, known: &[&'a str]) -> Option<&'a str> {
    // Longer text is nobody's typing error, and comparing costs its length squared.
    if written.len() > 64 {
        return None;
    }
    let folded = written.to_ascii_lowercase().replace('-', "_");
    // Typing errors are few edits; other words for the same thing often begin alike.
    let score = |name: &str| {
        let name = name.replace('-', "_");
        let few = (name.len() / 3).clamp(1, 3);
        let edited = strsim::osa_distance(&folded, &name) <= few;
        let similarity = strsim::jaro_winkler(&folded, &name);
        (edited || similarity > 0.84).then_some((edited, similarity))
    };
    let near = known.iter().filter_map(|name| Some((*name, score(name)?)));
    near.max_by(|(_, a), (_, b)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn near_and_far() {
        let keys = ["pool", "limits", "timeouts", "databases", "checkout_timeout"];
        for (written, near) in [
            ("pol", Some("pool")),
            ("Pool", Some("pool")),
            ("timeout", Some("timeouts")),
            ("database", Some("databases")),
            ("checkout-timeout", Some("checkout_timeout")),
            ("polo", Some("pool")),
            ("xyz", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, &keys), near, "{written}");
        }
    }
}
