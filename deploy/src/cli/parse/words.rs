//! A command written as one text, split into words as a shell would: `sh -c "echo hi"`.

/// The words of a text. Quotes group, a backslash escapes; nothing is expanded.
pub(crate) fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next() {
                        Some('\'') => break,
                        Some(inner) => word.push(inner),
                        None => return Err(format!("a quote is not closed in '{text}'")),
                    }
                }
            }
            '"' => double_quoted(&mut characters, word.get_or_insert_default(), text)?,
            '\\' => word.get_or_insert_default().extend(characters.next()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Reads up to the closing quote; inside, a backslash escapes only what a shell would let it.
fn double_quoted(characters: &mut std::str::Chars<'_>, word: &mut String, text: &str) -> Result<(), String> {
    let open = || format!("a quote is not closed in '{text}'");
    loop {
        match characters.next().ok_or_else(open)? {
            '"' => return Ok(()),
            '\\' => match characters.next().ok_or_else(open)? {
                inner @ ('"' | '\\' | '$' | '`') => word.push(inner),
                inner => word.extend(['\\', inner]),
            },
            inner => word.push(inner),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shell_words() {
        assert_eq!(words("sh -c 'echo  hi'").unwrap(), ["sh", "-c", "echo  hi"]);
        assert_eq!(words(r#"a "b \"c\"" d\ e """#).unwrap(), ["a", "b \"c\"", "d e", ""]);
        assert_eq!(words("  ").unwrap(), Vec::<String>::new());
        assert!(words("'open").is_err());
        assert!(words("\"open").is_err());
    }

    proptest! {
        #[test]
        fn quoted_words_survive(want in proptest::collection::vec("[a-z $\"\\\\]{0,6}", 0..5)) {
            let line: Vec<String> = want.iter().map(|word| format!("'{word}'")).collect();
            prop_assert_eq!(words(&line.join(" ")).unwrap(), want);
        }
    }
}
