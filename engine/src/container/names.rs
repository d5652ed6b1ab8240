//! Names for containers that got none: an adjective and the surname of somebody who worked with the sea.

use shoal_kit::entropy::Entropy;

const ADJECTIVES: &[&str] = &[
    "able", "agile", "alert", "amber", "ample", "apt", "ardent", "astute", "blithe", "bold", "brave", "bright",
    "brisk", "calm", "candid", "civil", "clear", "clever", "cosy", "crisp", "curious", "daring", "deft", "eager",
    "earnest", "easy", "elated", "fair", "famous", "fertile", "fine", "firm", "fleet", "fond", "frank", "free",
    "fresh", "gentle", "glad", "golden", "grand", "happy", "hardy", "hearty", "helpful", "honest", "humble", "jolly",
    "jovial", "keen", "kind", "lively", "loyal", "lucid", "lucky", "mellow", "merry", "mild", "modest", "neat",
    "nimble", "noble", "open", "patient", "placid", "plucky", "polite", "proud", "prudent", "quick", "quiet", "ready",
    "robust", "serene", "sharp", "silver", "sincere", "sleek", "smart", "solid", "sound", "spry", "stately", "steady",
    "stoic", "sturdy", "subtle", "sunny", "swift", "tender", "tidy", "upbeat", "valiant", "vivid", "warm", "watchful",
    "wise", "witty", "zealous",
];

const SURNAMES: &[&str] = &[
    "agassiz",
    "amundsen",
    "anning",
    "ballard",
    "banks",
    "barents",
    "barton",
    "bascom",
    "beaufort",
    "beebe",
    "bering",
    "bjerknes",
    "boyle",
    "buchanan",
    "bushnell",
    "cabot",
    "carpenter",
    "carson",
    "challenger",
    "clark",
    "cook",
    "cousteau",
    "cowan",
    "cromwell",
    "cunliffe",
    "dampier",
    "darwin",
    "davis",
    "diaz",
    "drake",
    "earle",
    "ekman",
    "ericson",
    "ewing",
    "fitzroy",
    "flinders",
    "fleming",
    "forbes",
    "forchhammer",
    "franklin",
    "froude",
    "fuglister",
    "galvani",
    "gama",
    "gosnold",
    "haeckel",
    "hales",
    "halley",
    "hardy",
    "harrison",
    "hass",
    "heezen",
    "helland",
    "hensen",
    "herdman",
    "hjort",
    "hooke",
    "hudson",
    "humboldt",
    "iselin",
    "kircher",
    "knudsen",
    "laperouse",
    "lindeman",
    "lovell",
    "magellan",
    "makarov",
    "marsigli",
    "maury",
    "mawson",
    "mero",
    "monk",
    "muller",
    "munk",
    "murray",
    "nansen",
    "nares",
    "oxner",
    "palmer",
    "parry",
    "perry",
    "petersen",
    "pettersson",
    "piccard",
    "polo",
    "pytheas",
    "redfield",
    "rennell",
    "revelle",
    "richardson",
    "ritter",
    "ross",
    "rossby",
    "sabine",
    "sars",
    "scoresby",
    "scott",
    "shackleton",
    "spilhaus",
    "stokes",
    "stommel",
    "sverdrup",
    "swallow",
    "tasman",
    "tharp",
    "thompson",
    "thomson",
    "vancouver",
    "vening",
    "verne",
    "vespucci",
    "walsh",
    "weddell",
    "wegener",
    "welwitsch",
    "wilkes",
    "wust",
    "wyville",
];

/// A name like `steady_tharp`; from the third try on with a digit, so that a free one is found soon.
pub fn generate(entropy: &Entropy, tries: u32) -> String {
    let pick =
        |words: &'static [&'static str]| words[usize::try_from(entropy.next_u64() % (words.len() as u64)).unwrap_or(0)];
    let name = format!("{}_{}", pick(ADJECTIVES), pick(SURNAMES));
    match tries {
        0..=2 => name,
        _ => format!("{name}{}", entropy.next_u64() % 10u64.saturating_pow(tries.min(12) - 2)),
    }
}

/// May a container be called so? As dockerd: a letter or digit, then at least one of these, `_`, `.` or `-`.
pub fn is_valid(name: &str) -> bool {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    first && name.len() > 1 && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn words_are_plain_and_unique() {
        for words in [ADJECTIVES, SURNAMES] {
            let unique: BTreeSet<_> = words.iter().collect();
            assert_eq!(unique.len(), words.len());
            assert!(words.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase())));
        }
    }

    #[test]
    fn generated_names_are_valid() {
        let entropy = Entropy::from_seed(3);
        for tries in 0..20 {
            let name = generate(&entropy, tries);
            assert!(is_valid(&name), "{name}");
        }
    }

    #[test]
    fn names_are_checked_as_dockerd_does() {
        for name in ["a1", "Web.1", "x_-"] {
            assert!(is_valid(name), "{name}");
        }
        for name in ["", "a", "_a", "-ab", "a b", "a/b", "ü1"] {
            assert!(!is_valid(name), "{name}");
        }
    }
}
