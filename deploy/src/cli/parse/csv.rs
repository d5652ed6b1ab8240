//! One line of comma-separated values, where a field may stand in double quotes (`"a,b"`, `""` for a quote).

/// The fields of a line.
pub(crate) fn fields(line: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut characters = line.chars().peekable();
    loop {
        let mut field = String::new();
        if characters.peek() == Some(&'"') {
            characters.next();
            loop {
                match characters.next() {
                    Some('"') if characters.peek() == Some(&'"') => {
                        characters.next();
                        field.push('"');
                    }
                    Some('"') => break,
                    Some(character) => field.push(character),
                    None => return Err(format!("a quote is not closed in '{line}'")),
                }
            }
        } else {
            while let Some(character) = characters.next_if(|character| *character != ',') {
                if character == '"' {
                    return Err(format!("a quote stands in the middle of a field in '{line}'"));
                }
                field.push(character);
            }
        }
        fields.push(field);
        match characters.next() {
            None => return Ok(fields),
            Some(',') => {}
            Some(_) => return Err(format!("a quoted field is followed by more text in '{line}'")),
        }
    }
}

/// The fields of a line as `key=value`; the value is `None` for a bare key. Keys are lower-cased.
pub(crate) fn pairs(line: &str) -> Result<Vec<(String, Option<String>)>, String> {
    let pair = |field: String| match field.split_once('=') {
        Some((key, value)) => (key.trim().to_ascii_lowercase(), Some(value.to_owned())),
        None => (field.trim().to_ascii_lowercase(), None),
    };
    Ok(fields(line)?.into_iter().map(pair).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quotes() {
        assert_eq!(fields("a,b").unwrap(), ["a", "b"]);
        assert_eq!(fields("a,\"b=1,2\",c").unwrap(), ["a", "b=1,2", "c"]);
        assert_eq!(fields("\"say \"\"hi\"\"\"").unwrap(), ["say \"hi\""]);
        assert_eq!(fields("").unwrap(), [""]);
        assert!(fields("\"open").is_err());
        assert!(fields("a\"b").is_err());
        assert!(fields("\"a\"b").is_err());
    }

    proptest! {
        #[test]
        fn quoted_fields_survive(want in proptest::collection::vec("[a-z,\"=]{0,6}", 1..5)) {
            let line: Vec<String> = want.iter().map(|field| format!("\"{}\"", field.replace('"', "\"\""))).collect();
            prop_assert_eq!(fields(&line.join(",")).unwrap(), want);
        }
    }
}
