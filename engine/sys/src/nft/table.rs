//! One owner's table in one namespace: brought to a wanted value, and checked for what others did to it.

use std::hash::{DefaultHasher, Hasher};

use super::Ruleset;
use super::difference::{difference, replace};
use super::wire;
use crate::netlink::{NetlinkError, NetlinkSocket, Request, attributes, text_of};

const ATTEMPTS: usize = 20;

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// As it was applied.
    Intact,
    /// Somebody had changed it; it was put back.
    Repaired,
}

/// A table in the namespace of its socket.
#[derive(Debug)]
pub struct Table {
    socket: NetlinkSocket,
    name: String,
    applied: Option<Ruleset>,
    /// The kernel's count of transactions after our last one. The count moves with everybody's.
    generation: u32,
    /// Of the listed table, when it was last known to be as applied.
    fingerprint: Option<u64>,
}

impl Table {
    /// The table of this name, of which nothing is known yet: the first application replaces it whole.
    pub fn new(socket: NetlinkSocket, name: impl Into<String>) -> Self {
        Self { socket, name: name.into(), applied: None, generation: 0, fingerprint: None }
    }

    /// The value last applied.
    pub fn applied(&self) -> Option<&Ruleset> {
        self.applied.as_ref()
    }

    /// The socket, for other questions to the same namespace.
    pub fn socket(&mut self) -> &mut NetlinkSocket {
        &mut self.socket
    }

    /// Brings the kernel to this value in one transaction. An empty value removes the table. Returns whether anything
    /// had to be changed.
    ///
    /// # Errors
    /// The kernel's; the table is then as it was before.
    pub fn apply(&mut self, wanted: &Ruleset) -> Result<bool, NetlinkError> {
        let mut force = self.applied.is_none();
        let mut refusal = None;
        for _ in 0..ATTEMPTS {
            if !force && self.applied.as_ref() == Some(wanted) {
                return Ok(false);
            }
            let generation = self.read_generation()?;
            if !force && generation != self.generation && !self.is_intact()? {
                force = true;
            }
            let messages = self.messages(wanted, force);
            match self.commit(generation, messages) {
                Ok(()) => {
                    self.applied = Some(wanted.clone());
                    return Ok(true);
                }
                // Somebody else committed in between: look again.
                Err(error) if error.errno() == libc::ERESTART || error.errno() == libc::EINTR => refusal = Some(error),
                Err(error) if force => return Err(error),
                // The table is not what we believed it to be.
                Err(_) => force = true,
            }
        }
        Err(refusal.unwrap_or_else(|| busy(&self.name)))
    }

    fn messages(&self, wanted: &Ruleset, force: bool) -> Vec<Request> {
        if wanted.is_empty() {
            return vec![wire::table(wire::NEWTABLE, &self.name), wire::table(wire::DELTABLE, &self.name)];
        }
        let have = self.applied.as_ref().filter(|have| !force && !have.is_empty());
        have.and_then(|have| difference(&self.name, have, wanted)).unwrap_or_else(|| replace(&self.name, wanted))
    }

    fn commit(&mut self, generation: u32, messages: Vec<Request>) -> Result<(), NetlinkError> {
        let mut batch = Vec::with_capacity(messages.len() + 2);
        batch.push(wire::begin(generation));
        batch.extend(messages);
        batch.push(wire::end());
        self.socket.transact(&batch)?;
        self.generation = match generation.wrapping_add(1) {
            0 => 1,
            next => next,
        };
        self.fingerprint = None;
        Ok(())
    }

    /// Puts the table back if somebody changed it since the last application.
    ///
    /// # Errors
    /// The kernel's.
    pub fn verify(&mut self) -> Result<Verified, NetlinkError> {
        let Some(wanted) = self.applied.clone() else { return Ok(Verified::Intact) };
        for _ in 0..ATTEMPTS {
            let generation = self.read_generation()?;
            if generation == self.generation {
                if self.fingerprint.is_none() {
                    self.take_fingerprint(generation)?;
                }
                return Ok(Verified::Intact);
            }
            if self.is_intact()? {
                self.generation = generation;
                return Ok(Verified::Intact);
            }
            let messages = self.messages(&wanted, true);
            match self.commit(generation, messages) {
                Ok(()) => return Ok(Verified::Repaired),
                Err(error) if error.errno() == libc::ERESTART || error.errno() == libc::EINTR => {}
                Err(error) => return Err(error),
            }
        }
        Err(busy(&self.name))
    }

    /// Is the listed table what it was when it was last known to be as applied? Not when that was never looked at.
    fn is_intact(&mut self) -> Result<bool, NetlinkError> {
        let Some(known) = self.fingerprint else { return Ok(false) };
        match self.read_fingerprint() {
            Ok(found) => Ok(found == known),
            // A set went while its elements were read.
            Err(error) if error.missing() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn take_fingerprint(&mut self, generation: u32) -> Result<(), NetlinkError> {
        let fingerprint = self.read_fingerprint()?;
        if self.read_generation()? == generation {
            self.fingerprint = Some(fingerprint);
        }
        Ok(())
    }

    fn read_generation(&mut self) -> Result<u32, NetlinkError> {
        let request = wire::message(wire::GETGEN, 0, "read the generation of nftables".to_owned());
        let answer = self.socket.get(&request)?;
        let id = attributes(answer.body.get(4..).unwrap_or(&[])).find(|(kind, _)| *kind == 1);
        Ok(id.and_then(|(_, value)| value.first_chunk::<4>()).map_or(0, |bytes| u32::from_be_bytes(*bytes)))
    }

    /// A sum over chains, rules, sets and elements that does not depend on the order of elements, which the kernel
    /// changes when it grows a set. Zero of a table that is not there: where nothing is wanted there is none.
    fn read_fingerprint(&mut self) -> Result<u64, NetlinkError> {
        let mut sum = 0u64;
        let chains = wire::message(wire::GETCHAIN, 0, "list chains".to_owned()).attr_str(1, &self.name);
        sum = sum.wrapping_add(self.hash_dump(&chains, false)?);
        let rules = wire::message(wire::GETRULE, 0, "list rules".to_owned()).attr_str(1, &self.name);
        sum = sum.wrapping_add(self.hash_dump(&rules, true)?);
        let sets = wire::message(wire::GETSET, 0, "list sets".to_owned()).attr_str(1, &self.name);
        let mut names = Vec::new();
        let listed = match self.socket.dump(&sets) {
            Err(error) if error.missing() => return Ok(0),
            listed => listed?,
        };
        for message in listed {
            let body = message.body.get(4..).unwrap_or(&[]);
            let find = |wanted| attributes(body).find(|(kind, _)| *kind == wanted).map(|(_, value)| text_of(value));
            if find(1).as_deref() == Some(self.name.as_str()) {
                sum = sum.wrapping_add(hash(body));
                names.extend(find(2));
            }
        }
        for name in names {
            let elements = wire::message(wire::GETSETELEM, 0, format!("list elements of {name}"))
                .attr_str(1, &self.name)
                .attr_str(2, &name);
            for message in self.socket.dump(&elements)? {
                let body = message.body.get(4..).unwrap_or(&[]);
                let lists = attributes(body).filter(|(kind, _)| *kind == 3).flat_map(|(_, list)| attributes(list));
                for (_, element) in lists {
                    sum = sum.wrapping_add(hash(element).rotate_left(7) ^ hash(name.as_bytes()));
                }
            }
        }
        Ok(sum)
    }

    fn hash_dump(&mut self, request: &Request, ordered: bool) -> Result<u64, NetlinkError> {
        let mut sum = 0u64;
        for message in self.socket.dump(request)? {
            let body = message.body.get(4..).unwrap_or(&[]);
            let table = attributes(body).find(|(kind, _)| *kind == 1).map(|(_, value)| text_of(value));
            if table.as_deref() == Some(self.name.as_str()) {
                sum = if ordered { sum.rotate_left(5) } else { sum }.wrapping_add(hash(body));
            }
        }
        Ok(sum)
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

fn busy(table: &str) -> NetlinkError {
    NetlinkError::of(format!("change table {table}: others change the rules all the time"), libc::EAGAIN)
}
