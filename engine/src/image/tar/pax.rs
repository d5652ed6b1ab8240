//! Extension headers: `<length> <key>=<value>\n`.

/// The records of one extension header that mean something to us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) modified: Option<(i64, u32)>,
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: SparseRecords,
    seen: bool,
}

/// What GNU tar says about holes, in its three ways.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SparseRecords {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) real_size: Option<u64>,
    pub(super) blocks: Option<u64>,
    /// Offsets and lengths of version 0.0 and 0.1, alternating.
    pub(super) map: Vec<u64>,
}

impl SparseRecords {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Records {
    pub(super) fn is_empty(&self) -> bool {
        !self.seen
    }

    /// Would it change what the following entries are or where they end?
    pub(super) fn changes_layout(&self) -> bool {
        self.path.is_some() || self.link.is_some() || self.size.is_some() || !self.sparse.is_empty()
    }

    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, String> {
        let mut records = Self { seen: true, ..Self::default() };
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes)?;
            records.take(key, value)?;
            bytes = rest;
        }
        Ok(records)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        // An empty value takes back what an earlier record said; real images have it. Attributes may be empty.
        let absent = value.is_empty();
        match key {
            b"path" => self.path = name(value)?,
            b"linkpath" => self.link = name(value)?,
            b"size" => self.size = if absent { None } else { Some(decimal(value)?) },
            b"uid" => self.uid = if absent { None } else { Some(decimal(value)?) },
            b"gid" => self.gid = if absent { None } else { Some(decimal(value)?) },
            b"mtime" => self.modified = if absent { None } else { Some(time(value)?) },
            _ => {
                if let Some(attribute) = key.strip_prefix(b"SCHILY.xattr.") {
                    if attribute.is_empty() {
                        return Err("an extended attribute without a name".to_owned());
                    }
                    self.attributes.push((attribute.to_vec(), value.to_vec()));
                } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.take_sparse(key, value)?;
                }
            }
        }
        Ok(())
    }

    fn take_sparse(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        match key {
            b"major" => self.sparse.major = Some(decimal(value)?),
            b"minor" => self.sparse.minor = Some(decimal(value)?),
            b"name" => self.sparse.name = name(value)?,
            b"size" => self.sparse.size = Some(decimal(value)?),
            b"realsize" => self.sparse.real_size = Some(decimal(value)?),
            b"numblocks" => self.sparse.blocks = Some(decimal(value)?),
            b"offset" if self.sparse.map.len().is_multiple_of(2) => self.sparse.map.push(decimal(value)?),
            b"numbytes" if !self.sparse.map.len().is_multiple_of(2) => self.sparse.map.push(decimal(value)?),
            b"map" if self.sparse.map.is_empty() => {
                for number in value.split(|byte| *byte == b',').filter(|number| !number.is_empty()) {
                    self.sparse.map.push(decimal(number)?);
                }
            }
            _ => return Err(format!("an unknown sparse record {:?}", String::from_utf8_lossy(key))),
        }
        Ok(())
    }
}

/// Key and value of the first record, and what follows it.
type Split<'a> = (&'a [u8], &'a [u8], &'a [u8]);

fn record(bytes: &[u8]) -> Result<Split<'_>, String> {
    let broken = || "an extension header with a broken record".to_owned();
    let space = bytes.iter().take(20).position(|byte| *byte == b' ').ok_or_else(broken)?;
    let length = usize::try_from(decimal(&bytes[..space])?).map_err(|_| broken())?;
    if length < space + 4 || length > bytes.len() {
        return Err(broken());
    }
    let (whole, rest) = bytes.split_at(length);
    let body = whole[space + 1..].strip_suffix(b"\n").ok_or_else(broken)?;
    let equals = body.iter().position(|byte| *byte == b'=').ok_or_else(broken)?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    if key.is_empty() || key.contains(&0) {
        return Err(broken());
    }
    Ok((key, value, rest))
}

fn name(value: &[u8]) -> Result<Option<Vec<u8>>, String> {
    if value.contains(&0) {
        return Err("a path with a NUL in it".to_owned());
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

fn decimal(digits: &[u8]) -> Result<u64, String> {
    let invalid = || format!("an extension header with the number {:?}", String::from_utf8_lossy(digits));
    if digits.is_empty() || digits.len() > 20 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(invalid());
    }
    let number = str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u64>().ok()).ok_or_else(invalid)?;
    if number > 1 << 60 { Err(invalid()) } else { Ok(number) }
}

/// Seconds with an optional fraction, perhaps negative.
fn time(text: &[u8]) -> Result<(i64, u32), String> {
    let invalid = || format!("an extension header with the time {:?}", String::from_utf8_lossy(text));
    let (negative, digits) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = match digits.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&digits[..dot], &digits[dot + 1..]),
        None => (digits, &digits[..0]),
    };
    let seconds = decimal(whole).map_err(|_| invalid())?;
    let mut nanos = 0;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(invalid());
    }
    for position in 0..9 {
        nanos = nanos * 10 + fraction.get(position).map_or(0, |digit| u32::from(digit - b'0'));
    }
    if negative {
        return Ok((0, 0));
    }
    Ok((i64::try_from(seconds).map_err(|_| invalid())?, nanos))
}
