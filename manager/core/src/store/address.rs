//! The addresses in use on one network, as a persistent bitmap.

use std::net::Ipv4Addr;

use imbl::OrdMap;

/// Which addresses of a network are in use or reserved, and where to look for the next free one.
#[derive(Debug, Clone, Default)]
pub struct AddressSpace {
    /// 64 addresses each; an absent word is all free.
    words: OrdMap<u32, u64>,
    used: u32,
    /// The last address handed out: the search goes on behind it, so that an address rests as long as it can.
    pub(crate) cursor: u32,
}

impl PartialEq for AddressSpace {
    /// Same addresses; the cursor is only a preference.
    fn eq(&self, other: &Self) -> bool {
        self.words == other.words
    }
}

impl AddressSpace {
    /// Is the address in use or reserved?
    pub fn contains(&self, addr: Ipv4Addr) -> bool {
        let bits = u32::from(addr);
        self.words.get(&(bits >> 6)).is_some_and(|word| word & (1 << (bits & 63)) != 0)
    }

    /// How many addresses are in use or reserved.
    pub const fn used(&self) -> u32 {
        self.used
    }

    /// Takes an address. False when it was taken already.
    pub(crate) fn take(&mut self, addr: Ipv4Addr) -> bool {
        let bits = u32::from(addr);
        let word = self.words.entry(bits >> 6).or_insert(0);
        if *word & (1 << (bits & 63)) != 0 {
            return false;
        }
        *word |= 1 << (bits & 63);
        self.used += 1;
        true
    }

    /// Gives an address back.
    pub(crate) fn release(&mut self, addr: Ipv4Addr) {
        let bits = u32::from(addr);
        let Some(word) = self.words.get_mut(&(bits >> 6)) else { return };
        if *word & (1 << (bits & 63)) == 0 {
            return;
        }
        *word &= !(1 << (bits & 63));
        self.used -= 1;
        if *word == 0 {
            self.words.remove(&(bits >> 6));
        }
    }

    /// The next address of `first..=last` that is free here and in `also`, searched round-robin from behind the cursor.
    pub(crate) fn next_free(&self, also: Option<&Self>, first: Ipv4Addr, last: Ipv4Addr) -> Option<Ipv4Addr> {
        let (first, last) = (u32::from(first), u32::from(last));
        if first > last {
            return None;
        }
        let start = match self.cursor.checked_add(1) {
            Some(next) if (first..=last).contains(&next) => next,
            _ => first,
        };
        let found = self.search_both(also, start, last);
        let found = found.or_else(|| if start > first { self.search_both(also, first, start - 1) } else { None });
        found.map(Ipv4Addr::from)
    }

    fn search_both(&self, also: Option<&Self>, first: u32, last: u32) -> Option<u32> {
        let mut start = first;
        loop {
            let found = self.search(start, last)?;
            if !also.is_some_and(|also| also.contains(found.into())) {
                return Some(found);
            }
            start = found.checked_add(1).filter(|start| *start <= last)?;
        }
    }

    /// The first free address of `first..=last`; full words are skipped 64 addresses at a time.
    fn search(&self, first: u32, last: u32) -> Option<u32> {
        let mut expected = first >> 6;
        let mut at = first;
        for (index, word) in self.words.range(expected..=last >> 6) {
            if *index != expected {
                return Some(at);
            }
            let free = !word & (u64::MAX << (at & 63));
            if free != 0 {
                let found = (index << 6) + free.trailing_zeros();
                return (found <= last).then_some(found);
            }
            expected = index.checked_add(1)?;
            at = expected.checked_mul(64)?;
        }
        (at <= last).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn addr(last: u32) -> Ipv4Addr {
        Ipv4Addr::from(0x0a00_0000 + last)
    }

    #[test]
    fn an_address_rests_until_the_search_comes_round() {
        let mut space = AddressSpace::default();
        for expected in 1..=3 {
            let found = space.next_free(None, addr(1), addr(4)).unwrap();
            assert_eq!(found, addr(expected));
            assert!(space.take(found));
            space.cursor = u32::from(found);
        }
        space.release(addr(1));
        assert_eq!(space.next_free(None, addr(1), addr(4)), Some(addr(4)));
        space.take(addr(4));
        space.cursor = u32::from(addr(4));
        assert_eq!(space.next_free(None, addr(1), addr(4)), Some(addr(1)));
        space.take(addr(1));
        assert_eq!(space.next_free(None, addr(1), addr(4)), None);
    }

    #[test]
    fn the_end_of_the_address_range_is_no_trap() {
        let mut space = AddressSpace::default();
        let last = Ipv4Addr::BROADCAST;
        assert!(space.take(last));
        space.cursor = u32::MAX;
        assert_eq!(space.next_free(None, last, last), None);
        let first = Ipv4Addr::from(u32::MAX - 1);
        assert_eq!(space.next_free(None, first, last), Some(first));
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(operations in prop::collection::vec((any::<bool>(), 0u32..300), 0..400), cursor in 0u32..400) {
            let mut space = AddressSpace::default();
            let mut model = BTreeSet::new();
            for (take, index) in operations {
                if take {
                    prop_assert_eq!(space.take(addr(index)), model.insert(index));
                } else {
                    space.release(addr(index));
                    model.remove(&index);
                }
                prop_assert_eq!(space.used() as usize, model.len());
            }
            space.cursor = u32::from(addr(cursor));
            let found = space.next_free(None, addr(10), addr(290));
            let expected = (cursor + 1..=290).chain(10..=290).find(|i| (10..=290).contains(i) && !model.contains(i));
            prop_assert_eq!(found, expected.map(addr));
            let mut other = AddressSpace::default();
            (0..300).step_by(3).for_each(|index| assert!(other.take(addr(index))));
            let found = space.next_free(Some(&other), addr(10), addr(290));
            let expected = (cursor + 1..=290)
                .chain(10..=290)
                .find(|i| (10..=290).contains(i) && !model.contains(i) && i % 3 != 0);
            prop_assert_eq!(found, expected.map(addr));
        }
    }
}
