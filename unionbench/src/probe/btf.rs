//! Where members lie in the kernel's structures, from the types that the kernel
//! and its modules publish about themselves (BTF, `Documentation/bpf/btf.rst`).

use std::fs;
use std::path::Path;

const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;

/// The structures of one kernel, or of one module on top of it.
pub struct Types {
    /// Name and members of each structure that has a name.
    structs: Vec<Struct>,
    n_types: u32,
    strings: Vec<u8>,
    /// Members of all structures by type id, for those without a name.
    by_id: std::collections::HashMap<u32, usize>,
}

struct Struct {
    name: String,
    size: u32,
    members: Vec<Member>,
}

struct Member {
    name: String,
    type_id: u32,
    bits: u32,
}

impl Types {
    /// The types of the running kernel proper.
    pub fn of_kernel() -> Option<Self> {
        Self::parse(&fs::read(Path::new("/sys/kernel/btf/vmlinux")).ok()?, None)
    }

    /// The types of a loaded module.
    pub fn of_module(&self, module: &str) -> Option<Self> {
        Self::parse(&fs::read(Path::new("/sys/kernel/btf").join(module)).ok()?, Some(self))
    }

    /// The place of a member in bytes; members of nameless structures within
    /// belong to the outer one, as in C.
    pub fn offset(&self, structure: &str, member: &str) -> Option<u32> {
        self.find(structure)
            .find_map(|found| self.bits_in(found, member, 0))
            .and_then(|bits| bits.is_multiple_of(8).then_some(bits / 8))
    }

    /// The place of the first of these members that there is.
    pub fn offset_of_any(&self, structure: &str, members: &[&str]) -> Option<u32> {
        members.iter().find_map(|member| self.offset(structure, member))
    }

    fn find<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Struct> {
        self.structs.iter().filter(move |found| found.name == name && found.size > 0)
    }

    fn bits_in(&self, within: &Struct, member: &str, depth: u32) -> Option<u32> {
        // Structures nest a few deep at most.
        if depth > 8 {
            return None;
        }
        within.members.iter().find_map(|found| {
            if found.name == member {
                return Some(found.bits);
            }
            if !found.name.is_empty() {
                return None;
            }
            let inner = self.structs.get(*self.by_id.get(&found.type_id)?)?;
            Some(found.bits + self.bits_in(inner, member, depth + 1)?)
        })
    }

    /// A module's types count on from the kernel's, and so do its names.
    fn parse(bytes: &[u8], base: Option<&Self>) -> Option<Self> {
        let word = |at: usize| -> Option<u32> {
            Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
        };
        if u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) != MAGIC {
            return None;
        }
        let header = word(4)? as usize;
        let (types_at, types_len) = (header + word(8)? as usize, word(12)? as usize);
        let (strings_at, strings_len) = (header + word(16)? as usize, word(20)? as usize);
        let strings = bytes.get(strings_at..strings_at + strings_len)?;
        let base_strings: &[u8] = base.map_or(&[], |base| &base.strings);
        let name_at = |offset: u32| -> Option<String> {
            let offset = offset as usize;
            let tail = match offset.checked_sub(base_strings.len()) {
                None => base_strings.get(offset..)?,
                Some(own) => strings.get(own..)?,
            };
            let end = tail.iter().position(|byte| *byte == 0)?;
            Some(String::from_utf8_lossy(&tail[..end]).into_owned())
        };
        let mut types = Self {
            structs: Vec::new(),
            n_types: base.map_or(0, |base| base.n_types),
            strings: strings.to_vec(),
            by_id: std::collections::HashMap::new(),
        };
        let (mut at, end) = (types_at, types_at + types_len);
        while at < end {
            types.n_types += 1;
            let (name, info, size) = (word(at)?, word(at + 4)?, word(at + 8)?);
            let (kind, n) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
            let is_bits = info >> 31 == 1;
            at += 12;
            if matches!(kind, STRUCT | UNION) {
                let mut members = Vec::with_capacity(n);
                for index in 0..n {
                    let member = at + 12 * index;
                    let place = word(member + 8)?;
                    members.push(Member {
                        name: name_at(word(member)?)?,
                        type_id: word(member + 4)?,
                        bits: if is_bits { place & 0xff_ffff } else { place },
                    });
                }
                types.by_id.insert(types.n_types, types.structs.len());
                types.structs.push(Struct { name: name_at(name)?, size, members });
            }
            at += tail_of(kind, n)?;
        }
        Some(types)
    }
}

/// The bytes that follow the head of a type, by its kind.
fn tail_of(kind: u32, n: usize) -> Option<usize> {
    Some(match kind {
        // Pointers, forward declarations, names, qualifiers, functions, floats
        // and tags on types.
        2 | 7..=12 | 16 | 18 => 0,
        // Integers, variables and tags on declarations.
        1 | 14 | 17 => 4,
        // Arrays.
        3 => 12,
        STRUCT | UNION | 15 | 19 => 12 * n,
        6 | 13 => 8 * n,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::Types;

    /// Types as a compiler would write them: kind, name, size or type, members.
    fn encode(strings: &str, types: &[(u32, u32, u32, &[[u32; 3]])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, name, size, members) in types {
            let info = kind << 24 | members.len() as u32;
            for word in [*name, info, *size].iter().chain(members.iter().flatten()) {
                body.extend(word.to_ne_bytes());
            }
        }
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, body.len() as u32, body.len() as u32, strings.len() as u32] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(body);
        bytes.extend(strings.as_bytes());
        bytes
    }

    #[test]
    fn members_are_found_in_nameless_structures_and_across_modules() {
        // Offsets of names: 1 dentry, 8 d_name, 15 d_sb.
        let kernel = encode(
            "\0dentry\0d_name\0d_sb\0",
            &[(5, 0, 16, &[[8, 9, 0]]), (4, 1, 40, &[[15, 9, 64], [0, 1, 128]])],
        );
        let kernel = Types::parse(&kernel, None).expect("well-formed types");
        assert_eq!(kernel.offset("dentry", "d_sb"), Some(8));
        assert_eq!(kernel.offset("dentry", "d_name"), Some(16));
        assert_eq!(kernel.offset("dentry", "d_parent"), None);
        // The module's names begin where the kernel's end, at 20.
        let module = encode("\0ovl_layer\0idx\0", &[(4, 21, 32, &[[31, 9, 96]])]);
        let module = Types::parse(&module, Some(&kernel)).expect("well-formed types");
        assert_eq!(module.offset("ovl_layer", "idx"), Some(12));
    }

    #[test]
    fn what_is_no_btf_gives_nothing() {
        assert!(Types::parse(b"", None).is_none());
        assert!(Types::parse(b"\x7fELF and more bytes than a header", None).is_none());
    }
}
