//! The kernel's functions and their addresses.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};

/// The functions of the running kernel and its modules, by address.
#[derive(Debug, Default)]
pub(super) struct Kallsyms {
    by_address: Vec<(u64, String)>,
    /// Indices into `by_address` in the order of the names.
    by_name: Vec<u32>,
}

impl Kallsyms {
    /// The table, read again only when a module came or went: it has some
    /// 200,000 lines. Empty where it cannot be read; addresses are zero where
    /// the kernel hides them.
    pub fn current() -> Arc<Self> {
        static LAST: Mutex<Option<(String, Arc<Kallsyms>)>> = Mutex::new(None);
        let modules = modules();
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((then, table)) = &*last
            && *then == modules
        {
            return Arc::clone(table);
        }
        let text = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
        let table = Arc::new(Self::parse(&text));
        *last = Some((modules, Arc::clone(&table)));
        table
    }

    fn parse(text: &str) -> Self {
        let mut by_address: Vec<_> = text.lines().filter_map(parse_line).collect();
        by_address.sort_by_key(|(address, _)| *address);
        Self::of(by_address)
    }

    #[cfg(test)]
    pub fn for_test(functions: &[(u64, &str)]) -> Self {
        let named = functions.iter().map(|(address, name)| (*address, (*name).to_owned()));
        Self::of(named.collect())
    }

    fn of(by_address: Vec<(u64, String)>) -> Self {
        let mut by_name: Vec<u32> = (0..by_address.len() as u32).collect();
        by_name.sort_by(|a, b| by_address[*a as usize].1.cmp(&by_address[*b as usize].1));
        Self { by_address, by_name }
    }

    /// Whether the kernel tells where its functions are.
    pub fn has_addresses(&self) -> bool {
        self.by_address.last().is_some_and(|(address, _)| *address != 0)
    }

    /// The name under which a function can be attached to: its own, or that
    /// of the one copy the compiler made of it (`name.isra.0`).
    pub fn resolve(&self, function: &str) -> Option<&str> {
        let name_of = |index: &u32| self.by_address[*index as usize].1.as_str();
        let first = self.by_name.partition_point(|index| name_of(index) < function);
        let mut copy = None;
        // What begins with the name follows it.
        for name in self.by_name[first..].iter().map(name_of) {
            let Some(rest) = name.strip_prefix(function) else { break };
            if rest.is_empty() {
                return Some(name);
            }
            // `.cold` holds only the unlikely part of a function, and a
            // `.part` only what was not inlined into its callers.
            let suffix = rest.strip_prefix('.');
            if suffix.is_some_and(|s| s.starts_with("isra") || s.starts_with("constprop")) {
                copy = (!name.contains(".cold")).then_some(name).or(copy);
            }
        }
        copy
    }

    /// The function an address lies in.
    pub fn name_at(&self, address: u64) -> Option<&str> {
        let after = self.by_address.partition_point(|(start, _)| *start <= address);
        self.by_address[..after].last().map(|(_, name)| name.as_str())
    }
}

/// The names of the loaded modules; empty for a kernel without modules.
fn modules() -> String {
    let text = fs::read_to_string("/proc/modules").unwrap_or_default();
    text.lines().filter_map(|line| line.split(' ').next()).collect::<Vec<_>>().join(" ")
}

/// `ffffffff81000000 T name [module]`, functions only.
fn parse_line(line: &str) -> Option<(u64, String)> {
    let mut fields = line.split_whitespace();
    let address = u64::from_str_radix(fields.next()?, 16).ok()?;
    let kind = fields.next()?;
    matches!(kind, "t" | "T" | "w" | "W")
        .then_some(())
        .and_then(|()| fields.next())
        .map(|name| (address, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::Kallsyms;

    const TABLE: &str = "\
0000000000001000 T first
0000000000002000 t ovl_lookup_layer.isra.0\t[overlay]
0000000000002800 t ovl_lookup_layer.isra.0.cold\t[overlay]
0000000000003000 D some_data
0000000000004000 t last
";

    #[test]
    fn an_address_lies_in_the_function_that_starts_before_it() {
        let table = Kallsyms::parse(TABLE);
        assert_eq!(table.name_at(0x1000), Some("first"));
        assert_eq!(table.name_at(0x1fff), Some("first"));
        assert_eq!(table.name_at(0x3800), Some("ovl_lookup_layer.isra.0.cold"));
        assert_eq!(table.name_at(0xfff), None);
    }

    #[test]
    fn a_copy_made_by_the_compiler_stands_in_for_its_function() {
        let table = Kallsyms::parse(TABLE);
        assert_eq!(table.resolve("last"), Some("last"));
        assert_eq!(table.resolve("ovl_lookup_layer"), Some("ovl_lookup_layer.isra.0"));
        assert_eq!(table.resolve("ovl_lookup"), None);
        assert_eq!(table.resolve("some_data"), None);
    }

    #[test]
    fn hidden_addresses_are_noticed() {
        assert!(!Kallsyms::parse("0000000000000000 T first\n").has_addresses());
        assert!(Kallsyms::parse(TABLE).has_addresses());
    }
}
