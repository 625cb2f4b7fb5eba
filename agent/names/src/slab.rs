//! Places for things that come and go, under keys that are not used again soon.

/// Place and turn of a thing. A key of what is gone finds nothing, also when its place has been taken again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    index: u32,
    /// 24 bits.
    turn: u32,
}

const TURNS: u32 = 1 << 24;

impl Key {
    /// In the lower 56 bits.
    pub fn bits(self) -> u64 {
        u64::from(self.turn) << 32 | u64::from(self.index)
    }

    pub fn from_bits(bits: u64) -> Self {
        Key { index: bits as u32, turn: (bits >> 32) as u32 % TURNS }
    }
}

pub struct Slab<T> {
    places: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
    max: usize,
}

impl<T> Slab<T> {
    /// For at most `max` things at a time.
    pub fn new(max: usize) -> Self {
        Slab { places: Vec::new(), free: Vec::new(), max }
    }

    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// The key that the next thing gets. None: full.
    pub fn next_key(&self) -> Option<Key> {
        match self.free.last() {
            Some(index) => Some(Key { index: *index, turn: self.places[*index as usize].0 }),
            None if self.places.len() < self.max => Some(Key { index: self.places.len() as u32, turn: 0 }),
            None => None,
        }
    }

    /// None, and the thing is gone: full.
    pub fn insert(&mut self, thing: T) -> Option<Key> {
        let key = self.next_key()?;
        match self.free.pop() {
            Some(index) => self.places[index as usize].1 = Some(thing),
            None => self.places.push((0, Some(thing))),
        }
        Some(key)
    }

    pub fn get(&self, key: Key) -> Option<&T> {
        self.places.get(key.index as usize).filter(|p| p.0 == key.turn)?.1.as_ref()
    }

    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.places.get_mut(key.index as usize).filter(|p| p.0 == key.turn)?.1.as_mut()
    }

    pub fn remove(&mut self, key: Key) -> Option<T> {
        let place = self.places.get_mut(key.index as usize).filter(|p| p.0 == key.turn)?;
        let thing = place.1.take()?;
        place.0 = (place.0 + 1) % TURNS;
        self.free.push(key.index);
        Some(thing)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        (0..).zip(&self.places).filter_map(|(index, (turn, t))| Some((Key { index, turn: *turn }, t.as_ref()?)))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut T)> {
        (0..).zip(&mut self.places).filter_map(|(index, (turn, t))| Some((Key { index, turn: *turn }, t.as_mut()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_finds_its_own_thing_only() {
        let mut slab = Slab::new(2);
        let (a, b) = (slab.insert('a').unwrap(), slab.insert('b').unwrap());
        assert_eq!((slab.insert('c'), slab.next_key(), slab.len()), (None, None, 2));
        assert_eq!(slab.remove(a), Some('a'));
        assert_eq!(slab.remove(a), None);
        let next = slab.next_key();
        let c = slab.insert('c').unwrap();
        assert_eq!(next, Some(c));
        assert_ne!(a, c);
        assert_eq!((slab.get(a), slab.get(b), slab.get(c)), (None, Some(&'b'), Some(&'c')));
        assert_eq!(Key::from_bits(c.bits()), c);
        assert_eq!(slab.iter().map(|(k, t)| (k, *t)).collect::<Vec<_>>(), [(c, 'c'), (b, 'b')]);
    }
}
