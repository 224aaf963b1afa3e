//! A reader of the kernel's type information (BTF, Documentation/bpf/btf.rst): offsets of members and ids of
//! functions, nothing else.
//!
//! aya keeps a full BTF parser to itself and it costs 20 MB on a usual kernel. This one makes a single pass over the
//! raw bytes and keeps four bytes a type. The bytes come from the kernel, but nothing here trusts them: every read is
//! bounds-checked and every walk bounded.

use rustc_hash::FxHashMap;
use thiserror::Error;

/// Why type information could not be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BtfError {
    /// The bytes end early or are not BTF.
    #[error("kernel type information is damaged at byte {at}: {what}")]
    Malformed {
        /// Offset in the data.
        at: usize,
        /// What was expected there.
        what: &'static str,
    },
}

/// Kinds of `struct btf_type` (include/uapi/linux/btf.h).
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FWD: u32 = 7;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
}

const HEADER: usize = 24;
const TYPE_HEADER: usize = 12;
const MEMBER: usize = 12;
/// Anonymous members and modifiers nest a few levels deep; more is damage.
const MAX_DEPTH: u32 = 16;

/// An index over raw BTF.
pub struct KernelTypes<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins in `types`; type ids count from 1.
    starts: Vec<u32>,
    structures: FxHashMap<&'a [u8], u32>,
    /// Ids and kinds of functions and typedefs.
    named: FxHashMap<&'a [u8], (u32, u32)>,
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..at + 4)
        .map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn malformed(at: usize, what: &'static str) -> BtfError {
    BtfError::Malformed { at, what }
}

impl<'a> KernelTypes<'a> {
    /// Indexes `data`, remembering some structures, and some functions and typedefs, by name.
    pub fn parse(data: &'a [u8], structures: &[&str], named: &[&str]) -> Result<Self, BtfError> {
        if data.get(..2) != Some(&[0x9f, 0xeb]) {
            return Err(malformed(0, "the magic number 0xeb9f in little-endian order"));
        }
        let field = |at| {
            word(data, at)
                .map(|value| value as usize)
                .ok_or_else(|| malformed(at, "a header"))
        };
        let header_len = field(4)?.max(HEADER);
        let section = |offset: usize, len: usize| {
            let start = header_len.checked_add(offset)?;
            data.get(start..start.checked_add(len)?)
        };
        let types =
            section(field(8)?, field(12)?).ok_or_else(|| malformed(8, "a type section inside the data"))?;
        let strings = section(field(16)?, field(20)?)
            .ok_or_else(|| malformed(16, "a string section inside the data"))?;
        let mut index = KernelTypes {
            types,
            strings,
            starts: Vec::with_capacity(types.len() / 24),
            structures: FxHashMap::default(),
            named: FxHashMap::default(),
        };
        let mut at = 0;
        while at < types.len() {
            let (name, info) = match (word(types, at), word(types, at + 4)) {
                (Some(name), Some(info)) => (name, info),
                _ => return Err(malformed(at, "a type header")),
            };
            index.starts.push(at as u32);
            let id = index.starts.len() as u32;
            let kind = info >> 24 & 0x1f;
            let is_among =
                |wanted: &[&str], name: &[u8]| wanted.iter().any(|wanted| wanted.as_bytes() == name);
            match kind {
                kind::STRUCT => {
                    let name = index.string(name);
                    if is_among(structures, name) {
                        index.structures.entry(name).or_insert(id);
                    }
                }
                kind::FUNC | kind::TYPEDEF => {
                    let name = index.string(name);
                    if is_among(named, name) {
                        index.named.entry(name).or_insert((id, kind));
                    }
                }
                _ => {}
            }
            at += TYPE_HEADER + trailer(kind, info).ok_or_else(|| malformed(at, "a known kind of type"))?;
        }
        Ok(index)
    }

    fn string(&self, offset: u32) -> &'a [u8] {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        rest.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// Start, info word and size-or-type word of a type.
    fn header(&self, id: u32) -> Option<(usize, u32, u32)> {
        let start = *self.starts.get(id.checked_sub(1)? as usize)? as usize;
        Some((start, word(self.types, start + 4)?, word(self.types, start + 8)?))
    }

    /// Skips typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<u32> {
        for _ in 0..MAX_DEPTH {
            let (_, info, next) = self.header(id)?;
            match info >> 24 & 0x1f {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => id = next,
                _ => return Some(id),
            }
        }
        None
    }

    /// Bit offset and type of a member, looked for in anonymous members as well.
    fn member(&self, id: u32, name: &[u8], depth: u32) -> Option<(u32, u32)> {
        let id = self.resolve(id)?;
        let (start, info, _) = self.header(id)?;
        if depth == 0 || !matches!(info >> 24 & 0x1f, kind::STRUCT | kind::UNION) {
            return None;
        }
        let has_bitfields = info >> 31 == 1;
        for index in 0..(info & 0xffff) as usize {
            let at = start + TYPE_HEADER + index * MEMBER;
            let (member_name, kind, offset) = (
                word(self.types, at)?,
                word(self.types, at + 4)?,
                word(self.types, at + 8)?,
            );
            let offset = if has_bitfields {
                offset & 0x00ff_ffff
            } else {
                offset
            };
            let member_name = self.string(member_name);
            if member_name == name {
                return Some((offset, kind));
            }
            if member_name.is_empty()
                && let Some((inner, kind)) = self.member(kind, name, depth - 1)
            {
                return Some((offset.checked_add(inner)?, kind));
            }
        }
        None
    }

    /// The offset in bytes of a dotted member path in a structure; `None` if there is no such member, or if it is a
    /// bit field that does not begin on a byte.
    pub fn offset_of(&self, structure: &str, path: &str) -> Option<u32> {
        let mut id = *self.structures.get(structure.as_bytes())?;
        let mut bits = 0u32;
        for name in path.split('.') {
            let (offset, kind) = self.member(id, name.as_bytes(), MAX_DEPTH)?;
            bits = bits.checked_add(offset)?;
            id = kind;
        }
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// The size in bytes of a structure.
    pub fn size_of(&self, structure: &str) -> Option<u32> {
        self.header(*self.structures.get(structure.as_bytes())?)
            .map(|(_, _, size)| size)
    }

    /// The type id of a function or typedef.
    pub fn id(&self, name: &str) -> Option<u32> {
        self.named.get(name.as_bytes()).map(|(id, _)| *id)
    }

    /// BTF in which the functions and typedefs found keep their ids, and every other type is a nameless placeholder: all
    /// that aya needs to attach an iterator or a tracepoint, at a small part of the memory and time.
    pub fn named_only(&self) -> Vec<u8> {
        let mut strings = vec![0u8];
        let mut named: FxHashMap<u32, (u32, u32)> = FxHashMap::default();
        for (name, (id, kind)) in &self.named {
            named.insert(*id, (strings.len() as u32, *kind));
            strings.extend_from_slice(name);
            strings.push(0);
        }
        let last = named.keys().copied().max().unwrap_or(0);
        let types_len = last as usize * TYPE_HEADER;
        let mut data = Vec::with_capacity(HEADER + types_len + strings.len());
        data.extend_from_slice(&[0x9f, 0xeb, 1, 0]);
        for value in [HEADER, 0, types_len, types_len, strings.len()] {
            data.extend_from_slice(&(value as u32).to_le_bytes());
        }
        for id in 1..=last {
            let (name, kind) = match named.get(&id) {
                Some(named) => *named,
                None => (0, kind::FWD),
            };
            for value in [name, kind << 24, 0] {
                data.extend_from_slice(&value.to_le_bytes());
            }
        }
        data.extend_from_slice(&strings);
        data
    }
}

/// Bytes after the header of a type; `None` for a kind that is not known, after which nothing can be found.
fn trailer(kind: u32, info: u32) -> Option<usize> {
    let members = (info & 0xffff) as usize;
    Some(match kind {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => members * 12,
        kind::ENUM | kind::FUNC_PROTO => members * 8,
        2 | kind::FWD..=kind::FUNC | 16 | kind::TYPE_TAG => 0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// struct outer { int a; union { struct { long b; }; }; struct inner c; }, and a function after it.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0outer\0a\0b\0inner\0c\0d\0bpf_iter_x\0";
        let name = |text: &str| {
            let position = strings.windows(text.len()).position(|at| at == text.as_bytes());
            u32::try_from(position.unwrap()).unwrap()
        };
        let mut types: Vec<u32> = Vec::new();
        types.extend([name("int\0"), kind::INT << 24, 4, 32]); // 1
        types.extend([0, kind::STRUCT << 24 | 1, 8, name("b\0"), 1, 0]); // 2: anonymous struct
        types.extend([0, kind::UNION << 24 | 1, 8, 0, 2, 0]); // 3: anonymous union
        types.extend([name("inner\0"), kind::STRUCT << 24 | 1, 8, name("d\0"), 1, 32]); // 4
        let outer = [name("a\0"), 1, 0, 0, 3, 64, name("c\0"), 4, 128];
        types.extend([name("outer\0"), kind::STRUCT << 24 | 3, 24]); // 5
        types.extend(outer);
        types.extend([name("bpf_iter_x\0"), kind::FUNC << 24, 0]); // 6
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut data = vec![0x9f, 0xeb, 1, 0];
        for value in [24, 0, types.len(), types.len(), strings.len()] {
            data.extend_from_slice(&(value as u32).to_le_bytes());
        }
        data.extend(types);
        data.extend_from_slice(strings);
        data
    }

    #[test]
    fn members_are_found_through_anonymous_unions_and_nested_paths() {
        let data = sample();
        let types = KernelTypes::parse(&data, &["outer"], &["bpf_iter_x"]).unwrap();
        assert_eq!(types.offset_of("outer", "a"), Some(0));
        assert_eq!(types.offset_of("outer", "b"), Some(8));
        assert_eq!(types.offset_of("outer", "c.d"), Some(20));
        assert_eq!(types.offset_of("outer", "nothing"), None);
        assert_eq!(types.offset_of("inner", "d"), None, "was not asked for");
        assert_eq!(types.size_of("outer"), Some(24));
    }

    #[test]
    fn functions_keep_their_ids_in_the_reduced_form() {
        let data = sample();
        let types = KernelTypes::parse(&data, &[], &["bpf_iter_x"]).unwrap();
        assert_eq!(types.id("bpf_iter_x"), Some(6));
        let reduced = types.named_only();
        assert_eq!(
            KernelTypes::parse(&reduced, &[], &["bpf_iter_x"])
                .unwrap()
                .id("bpf_iter_x"),
            Some(6)
        );
    }

    #[test]
    fn every_truncation_is_an_error_or_finds_less_but_never_panics() {
        let data = sample();
        for len in 0..data.len() {
            if let Ok(types) = KernelTypes::parse(&data[..len], &["outer"], &["bpf_iter_x"]) {
                let _ = types.offset_of("outer", "c.d");
            }
        }
        for at in 0..data.len() {
            for bit in 0..8 {
                let mut broken = data.clone();
                broken[at] ^= 1 << bit;
                if let Ok(types) = KernelTypes::parse(&broken, &["outer"], &["bpf_iter_x"]) {
                    let _ = (types.offset_of("outer", "c.d"), types.offset_of("outer", "b"));
                }
            }
        }
    }
}
